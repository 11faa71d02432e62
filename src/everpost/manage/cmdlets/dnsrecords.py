"""DNS records of the arrays: what to enter by hand, and their keeping by dynamic update (spec 6.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from everpost.array.dns import key as keyfile
from everpost.array.dns.client import endpoint
from everpost.array.dns.records import desired, members, zone_of
from everpost.directory import keys
from everpost.directory.schema import decode, encode
from everpost.errors import Refused
from everpost.manage import registry
from everpost.manage.cmdlets.change import look_up, seen, write
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.dns import DnsMode, DnsUpdater, DnsZone, ZoneStatus

COLUMNS = ("Zone", "Servers", "KeyFile", "Ttl", "RoundRobinTtl")
_ZONE = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@registry.command("Get-DnsRecords", positional=0, columns=("Name", "Type", "Data", "Ttl", "Kept"))
async def get_dns_records(context: CommandContext) -> list[Row]:
    """Print the records of the arrays: addresses, mail services (RFC 6186, 8314), autodiscover, MX.

    Those in a zone of Get-DnsUpdate are kept by themselves (Kept is true); enter the others in your DNS server.
    """
    zones = list(context.organization.dns_zones.values())
    every = {
        array.name: [one.address for one in members(context.organization, array)]
        for array in context.organization.arrays.values()
        if array.dns_mode is DnsMode.ROUND_ROBIN
    }
    return [
        {
            "Name": f"{one.name}.",
            "Type": one.kind,
            "Data": data,
            "Ttl": one.ttl,
            "Kept": zone_of(one.name, zones) is not None,
        }
        for one in desired(context.organization, every, zones)
        for data in one.data
    ]


@registry.command("Set-DnsUpdate", columns=COLUMNS)
async def set_dns_update(
    context: CommandContext,
    zone: str,
    server: tuple[str, ...] | None = None,
    key_file: str | None = None,
    ttl: int = 0,
    round_robin_ttl: int = 0,
    publish_mx: bool | None = None,
    adopt: tuple[str, ...] | None = None,
) -> list[Row]:
    """Keep the arrays' records in a zone of a DNS server by dynamic update (RFC 2136), signed with a TSIG key.

    -Server names addresses (`192.0.2.53` or `192.0.2.53:5353`), tried in order. -KeyFile is a file on each client
    access server that may update, as tsig-keygen or keymgr -t write it; a relative one lies in the data folder
    (dns.key). The secret is never stored elsewhere nor shown. -Ttl and -RoundRobinTtl are in seconds. -PublishMx $true
    keeps the MX of the domain too. -Adopt names records that others made and that may be replaced.
    """
    name = zone.lower().rstrip(".")
    if not _ZONE.fullmatch(name):
        raise Refused(f"{zone} is not the name of a zone.", remedy="Name one such as contoso.com.")
    before = context.organization.dns_zones.get(name)
    if before is None and not server:
        raise Refused(
            f"{name} is not kept yet, so -Server is needed.", remedy="Name the address of its primary server."
        )
    changes: dict[str, Any] = {}
    if server is not None:
        if not server:
            raise Refused("-Server is empty.", remedy=f"Remove-DnsUpdate {name} ends the updates.")
        for one in server:
            endpoint(str(one))
        changes["servers"] = tuple(str(one) for one in server)
    if key_file is not None:
        changes["key_file"] = key_file or "dns.key"
    for field, given, most in (("ttl", ttl, 86400), ("round_robin_ttl", round_robin_ttl, 3600)):
        if given:
            if not 1 <= given <= most:
                raise Refused(f"{given} is no time to live.", remedy=f"Name 1 to {most} seconds.")
            changes[field] = given
    if publish_mx is not None:
        changes["publish_mx"] = publish_mx
    if adopt is not None:
        changes["adopt"] = tuple(_adopted(name, str(one)) for one in adopt if one)
    after = msgspec.structs.replace(before or DnsZone(zone=name, servers=()), **changes)
    key = keys.dns_zone(name)
    revision = context.organization.revision(key)
    await write(context, {key: revision}, {key: encode(after)}, what=f"The updates of {name}")
    await seen(context, key, revision + 1)
    try:
        keyfile.read(context.settings.data_dir / after.key_file)
    except Refused as error:
        context.warning(f"{context.settings.name}: {error}")
    return [_row(after)]


def _adopted(zone: str, name: str) -> str:
    full = name.lower().rstrip(".")
    if full != zone and not full.endswith("." + zone):
        raise Refused(f"{name} does not lie in {zone}.", remedy="Name a full name, such as casarray.contoso.com.")
    return full


@registry.command("Get-DnsUpdate", columns=COLUMNS)
async def get_dns_update(context: CommandContext, zone: str = "", status: bool = False) -> list[Row]:
    """Show the zones whose records are kept. -Status adds by whom, with which result, and since when they are stale."""
    zones = context.organization.dns_zones
    chosen = [look_up(zones, zone.rstrip("."), "zone", "Get-DnsUpdate")] if zone else list(zones.values())
    rows = [_row(one) for one in sorted(chosen, key=lambda one: one.zone)]
    if status:
        entry = await context.directory.get(keys.DNS_UPDATER)
        record = decode(DnsUpdater, entry.value) if entry is not None else None
        speaks = await _speaks(context, entry.revision) if entry is not None else False
        for row in rows:
            row.update(_status(row["Zone"], record, speaks=speaks))
    return rows


async def _speaks(context: CommandContext, revision: int, limit: float = 4.0) -> bool:
    """Whether the updater says anything: it speaks twice a second."""
    end = context.clock.boottime() + limit
    while context.clock.boottime() < end:
        await context.clock.sleep(0.2)
        entry = await context.directory.get(keys.DNS_UPDATER)
        if entry is not None and entry.revision != revision:
            return True
    return False


def _row(zone: DnsZone) -> Row:
    return {
        "Zone": zone.zone,
        "Servers": list(zone.servers),
        "KeyFile": zone.key_file,
        "Ttl": zone.ttl,
        "RoundRobinTtl": zone.round_robin_ttl,
        "PublishMx": zone.publish_mx,
        "Adopt": list(zone.adopt),
    }


def _status(zone: str, record: DnsUpdater | None, *, speaks: bool) -> Mapping[str, Any]:
    held = record is not None and record.held and speaks
    found = next((one for one in record.zones if one.zone == zone), None) if record is not None else None
    known = found or ZoneStatus(zone=zone)
    error = known.error
    if record is None:
        error = "No server keeps the records yet: is the key file on one of the client access servers?"
    elif not held:
        error = f"No server keeps the records now ({record.reason or record.server + ' is silent'}). {error}".rstrip()
    return {
        "Updater": record.server if record is not None and held else None,
        "Epoch": record.epoch if record is not None else None,
        "Server": known.server or None,
        "Key": known.key or None,
        "Names": list(known.names),
        "Updated": known.updated or None,
        "StaleSince": known.stale_since or None,
        "Error": error or None,
        "Conflicts": [why for _, why in sorted(known.conflicts.items())],
        "RoundRobin": [
            f"{array} {server}: {why or 'published'}"
            for array, servers in sorted(record.rotation.items() if record is not None else ())
            for server, why in sorted(servers.items())
        ],
    }


@registry.command("Remove-DnsUpdate")
async def remove_dns_update(context: CommandContext, zone: str) -> list[Row]:
    """Keep a zone's records no longer. What is there stays there."""
    found = look_up(context.organization.dns_zones, zone.rstrip("."), "zone", "Get-DnsUpdate")
    key = keys.dns_zone(found.zone)
    revision = context.organization.revision(key)
    await write(context, {key: revision}, {key: None}, what=f"The updates of {found.zone}")
    context.warning(f"The records in {found.zone} stay as they are; delete them there if they are not wanted.")
    return []
