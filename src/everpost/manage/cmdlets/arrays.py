"""Client access arrays (spec 6.2) and their virtual address as a cluster group (spec 6.9)."""

from __future__ import annotations

import re
import uuid
from typing import Any

import msgspec

from everpost.array.membership import members, owners
from everpost.directory import keys
from everpost.directory.schema import decode, encode
from everpost.errors import AlreadyExists, Refused, Unavailable
from everpost.manage import registry
from everpost.manage.cmdlets.arraysettings import free_fqdn, member, settings
from everpost.manage.cmdlets.change import look_up, seen, write
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.array import ClientAccessArray, HolderRecord, HolderState, MoveOrder, Statement
from everpost.model.dns import DnsMode

MOVE_LIMIT = 10.0
"""Seconds that a move waits for the new holder."""
COLUMNS = ("Name", "Site", "Fqdn", "Members")
GROUP_COLUMNS = ("Name", "OwnerNode", "State", "IP")


def _array(context: CommandContext, name: str) -> ClientAccessArray:
    for one in context.organization.arrays.values():
        if name.lower() in (one.fqdn.lower(), *(alias.lower() for alias in one.aliases)):
            return one
    named = {one.name: one for one in context.organization.arrays.values()}
    return look_up(named, name, "client access array", "Get-ClientAccessArray")


def _site(context: CommandContext, name: str) -> str:
    sites = {one.site.lower(): one.site for one in context.organization.servers.values()}
    found = sites.get(name.lower())
    if found is None:
        raise Refused(
            f"No server is in the site {name}.",
            remedy=f"Name another one by -Site: {', '.join(sorted(sites.values()))}.",
        )
    return found


def _free_name(context: CommandContext, name: str, *, of: ClientAccessArray | None = None) -> str:
    """A name for an array (for `of`, if it has one). Raises Refused and AlreadyExists. The name that another array was
    made with is taken too: the directory calls it by that."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}", name):
        raise Refused(f"{name!r} cannot name an array.", remedy="At most 64 letters, digits, spaces, _ . and -.")
    others = [one for one in context.organization.arrays.values() if of is None or one.key != of.key]
    if any(name.lower() in (one.name.lower(), one.key.lower()) for one in others):
        raise AlreadyExists(f"There is an array named {name} already.", remedy="Choose another name.")
    return name


def _free_site(context: CommandContext, name: str, *, of: ClientAccessArray | None = None) -> str:
    """A site without an array, or with `of`. Raises Refused and AlreadyExists."""
    place = _site(context, name)
    other = context.organization.array_of(place)
    if other is not None and (of is None or other.key != of.key):
        raise AlreadyExists(
            f"The site {place} has the array {other.name} already, and there is one for each site.",
            remedy=f"Set-ClientAccessArray {other.name} changes it.",
        )
    return place


def _unrivalled(context: CommandContext) -> dict[str, int]:
    """Guard against another command that gives an array the same name, FQDN or address at this moment; whoever gives
    one writes this key."""
    return {keys.ARRAY_NAMES: context.organization.revision(keys.ARRAY_NAMES)}


def _moved(context: CommandContext, array: ClientAccessArray, site: str) -> ClientAccessArray:
    """The array at another site, without what was said of servers that are not there."""
    at = msgspec.structs.replace(array, site=site)
    there = {one.name for one in members(context.organization, at)}
    if not there:
        raise Refused(f"There is no client access server in the site {site}.", remedy="Get-ExchangeServer lists them.")
    return msgspec.structs.replace(
        at,
        hostname=tuple(one for one in array.hostname if one in there),
        drained=tuple(one for one in array.drained if one in there),
        weights={one: weight for one, weight in array.weights.items() if one in there},
    )


@registry.command("New-ClientAccessArray", columns=COLUMNS)
async def new_client_access_array(
    context: CommandContext,
    name: str = "",
    fqdn: str = "",
    site: str = "Default-First-Site-Name",
    ip: str | None = None,
    gateway: str | None = None,
    limit: int | None = None,
    probe_interval: str | None = None,
    hostname: tuple[str, ...] | None = None,
    mail_to: str | None = None,
    mail_from: str | None = None,
    affinity: str | None = None,
    auto_failback_delay: str | None = None,
    dns_mode: str | None = None,
) -> list[Row]:
    """Make the one name for the client access servers of a site; there is one array for each site.

    -IP is its virtual address: one server holds it, under quorum, and balances over all of them. -Gateway must answer a
    server that takes it over; -Limit probes without an answer, one each -ProbeInterval seconds, mean that it is silent.
    -Hostname names the servers that may hold it, the preferred one first. The mail at each change goes to -MailTo.
    -DnsMode RoundRobin: the name resolves to all servers that are well instead (Set-DnsUpdate keeps it so).
    """
    if not fqdn:
        raise Refused("New-ClientAccessArray needs -Fqdn.", remedy="Name one such as -Fqdn casarray.contoso.com.")
    full = free_fqdn(context, fqdn)
    chosen = _free_name(context, name or full.partition(".")[0])
    place = _free_site(context, site)
    bare = ClientAccessArray(name=chosen, fqdn=full, site=place, guid=str(uuid.uuid4()))
    given: dict[str, Any] = {
        "ip": ip,
        "gateway": gateway,
        "limit": limit,
        "probe_interval": probe_interval,
        "hostname": hostname,
        "mail_to": mail_to,
        "mail_from": mail_from,
        "affinity": affinity,
        "failback": auto_failback_delay,
        "dns_mode": dns_mode,
    }
    array = settings(context, bare, given)
    key, unique = keys.client_access_array(chosen), keys.array_site(place)
    guards = {**_unrivalled(context), key: 0, unique: 0}
    puts = {key: encode(array), unique: chosen.encode(), keys.ARRAY_NAMES: chosen.encode()}
    await write(context, guards, puts, what="The list of arrays")
    await seen(context, key)
    if not ip and array.dns_mode is DnsMode.VIRTUAL_IP:
        context.warning(f"{chosen} has no address yet: Set-ClientAccessArray {chosen} -IP gives it one.")
    if not members(context.organization, array):
        context.warning(f"The site {place} has no client access server yet, and nobody answers for {full} until then.")
    return [await _row(context, array)]


@registry.command("Get-ClientAccessArray", columns=COLUMNS)
async def get_client_access_array(
    context: CommandContext, identity: str = "", site: str = "", status: bool = False
) -> list[Row]:
    """Show client access arrays. -Status adds who holds the address and the balancer's statistics."""
    found = [_array(context, identity)] if identity else list(context.organization.arrays.values())
    place = _site(context, site) if site else ""
    chosen = [one for one in found if not place or one.site.lower() == place.lower()]
    return [await _row(context, one, status=status) for one in sorted(chosen, key=lambda one: one.name)]


async def _row(context: CommandContext, array: ClientAccessArray, *, status: bool = False) -> Row:
    row: Row = {
        "Name": array.name,
        "Site": array.site,
        "SiteName": array.site,
        "Fqdn": array.fqdn,
        "Members": sorted(one.name for one in members(context.organization, array)),
        "Identity": array.name,
        "Guid": array.guid,
        "Aliases": list(array.aliases),
        "IP": array.ip or None,
        "Gateway": array.gateway or None,
        "Limit": array.limit,
        "ProbeInterval": array.probe_interval,
        "Hostname": owners(context.organization, array),
        "MailTo": array.mail_to or None,
        "MailFrom": array.mail_from or None,
        "Affinity": str(array.affinity),
        "AutoFailbackDelay": array.failback or None,
        "DnsMode": str(array.dns_mode),
        "Drained": list(array.drained),
        "Weights": [f"{name}={weight}" for name, weight in sorted(array.weights.items())],
    }
    if status:
        holder, _ = await _holder(context, array)
        said = await _statements(context, array)
        holds = holder.holder if holder is not None and holder.state is HolderState.HELD else ""
        row["Holder"] = holds or None
        row["Epoch"] = holder.epoch if holder is not None else None
        row["Reason"] = holder.reason if holder is not None else None
        row["Candidates"] = [
            f"{name}: {one.obstacle or ('cannot see the gateway' if one.gateway is False else 'ready')}"
            for name, one in sorted(said.items())
        ]
        shown = said.get(holds)
        row["Services"] = [
            f"{name} {state} {now} now, {total} in all"
            for name, (state, now, total) in sorted(shown.services.items() if shown is not None else ())
        ]
    return row


async def _holder(context: CommandContext, array: ClientAccessArray) -> tuple[HolderRecord | None, int]:
    entry = await context.directory.get(keys.array_holder(array.key))
    return (decode(HolderRecord, entry.value), entry.revision) if entry is not None else (None, 0)


async def _statements(context: CommandContext, array: ClientAccessArray) -> dict[str, Statement]:
    entries, _ = await context.directory.list(keys.array_statement(array.key, ""))
    found = [decode(Statement, entry.value) for entry in entries]
    return {one.server: one for one in found}


@registry.command("Set-ClientAccessArray")
async def set_client_access_array(
    context: CommandContext,
    identity: str,
    name: str | None = None,
    fqdn: str | None = None,
    site: str | None = None,
    ip: str | None = None,
    gateway: str | None = None,
    limit: int | None = None,
    probe_interval: str | None = None,
    hostname: tuple[str, ...] | None = None,
    mail_to: str | None = None,
    mail_from: str | None = None,
    affinity: str | None = None,
    auto_failback_delay: str | None = None,
    dns_mode: str | None = None,
    drained: tuple[str, ...] | None = None,
    weights: tuple[str, ...] | None = None,
) -> list[Row]:
    """Change an array. A former -Fqdn stays as an alias, so that clients that know it keep working.

    -Drained names the servers that get no new connections (what is open goes on); -Weights EX01=2 says how much more.
    -Name renames it; the address stays where it is. -Site moves it to the servers of a site that has no array, where it
    needs an -IP and a -Gateway of that site's network.
    """
    array = _array(context, identity)
    place = _free_site(context, site, of=array) if site is not None else array.site
    renamed = _free_name(context, name, of=array) if name is not None else array.name
    given: dict[str, Any] = {
        "ip": ip,
        "gateway": gateway,
        "limit": limit,
        "probe_interval": probe_interval,
        "hostname": hostname,
        "mail_to": mail_to,
        "mail_from": mail_from,
        "affinity": affinity,
        "failback": auto_failback_delay,
        "dns_mode": dns_mode,
        "drained": drained,
        "weights": weights,
    }
    if all(value is None for value in (name, fqdn, site, *given.values())):
        raise Refused("Nothing is to be changed.", remedy="Name a setting, such as -IP 10.77.0.50.")
    after = settings(context, _moved(context, array, place) if place != array.site else array, given)
    if renamed != array.name:
        after = msgspec.structs.replace(after, name=renamed, made_as=array.key if array.key != renamed else "")
    full = free_fqdn(context, fqdn, of=array) if fqdn is not None else array.fqdn
    if full != array.fqdn:
        kept = [one for one in (*array.aliases, array.fqdn) if one != full]
        after = msgspec.structs.replace(after, fqdn=full, aliases=tuple(dict.fromkeys(kept)))
    key = keys.client_access_array(array.key)
    before = context.organization.revision(key)
    guards: dict[str, int] = {key: before}
    puts: dict[str, bytes | None] = {key: encode(after)}
    if renamed != array.name:
        guards.setdefault(keys.client_access_array(renamed), 0)
    if (after.name, after.fqdn, after.ip) != (array.name, array.fqdn, array.ip):
        guards |= _unrivalled(context)
        puts[keys.ARRAY_NAMES] = array.key.encode()
    if place != array.site:
        guards[keys.array_site(place)] = 0
        puts |= {keys.array_site(place): array.key.encode(), keys.array_site(array.site): None}
        if after.ip and ip is None:
            context.warning(f"{renamed} keeps the address {after.ip}: is that one of the network of {place}?")
    await write(context, guards, puts, what=array.name)
    await seen(context, key, before + 1)
    return []


@registry.command("Remove-ClientAccessArray")
async def remove_client_access_array(context: CommandContext, identity: str) -> list[Row]:
    """Remove an array; its address is given up. Databases that were set to its name by hand are named as a warning."""
    array = _array(context, identity)
    key, unique = keys.client_access_array(array.key), keys.array_site(array.site)
    before = context.organization.revision(key)
    await write(context, {key: before}, {key: None, unique: None}, what=array.name)
    left = [one.name for one in context.organization.databases.values() if one.rpc_client_access_server == array.fqdn]
    if left:
        context.warning(f"{', '.join(sorted(left))} still name {array.fqdn} as RpcClientAccessServer.")
    return []


@registry.command("Get-ClusterGroup", columns=GROUP_COLUMNS)
async def get_cluster_group(context: CommandContext, name: str = "") -> list[Row]:
    """Show the virtual addresses of the arrays and which server holds each."""
    found = [_array(context, name)] if name else list(context.organization.arrays.values())
    rows = []
    for array in sorted(found, key=lambda one: one.name):
        holder, _ = await _holder(context, array)
        held = holder is not None and holder.state is HolderState.HELD
        rows.append(
            {
                "Name": array.name,
                "OwnerNode": holder.holder if holder is not None and held else None,
                "State": "Online" if held else "Offline",
                "IP": array.ip or None,
                "Epoch": holder.epoch if holder is not None else None,
                "Reason": holder.reason if holder is not None else None,
            }
        )
    return rows


@registry.command("Move-ClusterGroup", columns=GROUP_COLUMNS)
async def move_cluster_group(context: CommandContext, name: str, node: str = "", what_if: bool = False) -> list[Row]:
    """Move an array's address to another server; without -Node to the next one that can hold it.

    Clients that are connected are told and connect anew; the address is away for a fraction of a second.
    """
    array = _array(context, name)
    holder, _ = await _holder(context, array)
    if not array.ip:
        raise Refused(
            f"{array.name} has no address that could move.",
            remedy=f"Set-ClientAccessArray {array.name} -IP gives it one.",
        )
    if holder is None or holder.state is not HolderState.HELD:
        raise Refused(
            f"Nobody holds the address of {array.name}.",
            remedy=f"Get-ClientAccessArray {array.name} -Status shows what stands against each server.",
        )
    said = await _statements(context, array)
    able = [one for one in owners(context.organization, array) if one in said and not _against(said[one])]
    if node:
        target = member(context, array, node)
        if target not in owners(context.organization, array):
            raise Refused(
                f"{target} may not hold the address of {array.name}.",
                remedy=f"Set-ClientAccessArray {array.name} -Hostname names who may.",
            )
        if target not in able and target != holder.holder:
            why = _against(said[target]) if target in said else "has not said yet how it is"
            others = [one for one in able if one != holder.holder]
            what = f"Name {' or '.join(others)}" if others else "No other server can hold it now"
            raise Refused(
                f"{target} {why}.",
                remedy=f"{what}; Get-ClientAccessArray {array.name} -Status shows when {target} is ready.",
            )
    else:
        target = next((one for one in able if one != holder.holder), "")
        if not target:
            raise Refused(
                f"No server but {holder.holder} can hold the address of {array.name} now.",
                remedy=f"Get-ClientAccessArray {array.name} -Status shows what stands against each.",
            )
    if what_if:
        return [
            {"Name": array.name, "OwnerNode": holder.holder, "State": f"would move to {target}", "IP": array.ip or None}
        ]
    if target != holder.holder:
        order = MoveOrder(target=target, epoch=holder.epoch, operator=context.operator)
        await context.directory.txn({}, {keys.array_order(array.key): encode(order)}, attempt=1.0)
        await _wait_moved(context, array, target, holder.epoch)
    return await get_cluster_group(context, array.name)


def _against(one: Statement) -> str:
    return one.obstacle or ("cannot see the gateway" if one.gateway is False else "")


async def _wait_moved(context: CommandContext, array: ClientAccessArray, target: str, epoch: int) -> None:
    end = context.clock.boottime() + MOVE_LIMIT
    while context.clock.boottime() < end:
        holder, _ = await _holder(context, array)
        if holder is not None and holder.epoch > epoch and holder.state is HolderState.HELD:
            if holder.holder != target:
                raise Refused(
                    f"{holder.holder} holds the address now: {holder.reason}.",
                    remedy=f"If {target} shall have it all the same, repeat the command.",
                )
            return
        await context.clock.sleep(0.05)
    raise Unavailable(
        f"The address did not reach {target} within {MOVE_LIMIT:.0f} s.",
        remedy=f"Get-ClusterGroup {array.name} shows where it is; the order stands while that server holds it.",
    )
