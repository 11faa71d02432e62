"""Which records the arrays want: pure (RFC 6186 and 8314 for mail services, spec 6.2 and 6.6)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from everpost.directory.schema import OrganizationView
from everpost.model.array import ClientAccessArray
from everpost.model.dns import DnsMode, DnsZone
from everpost.model.server import Ports, Role, Server

DEFAULTS = DnsZone(zone="", servers=(), publish_mx=True)
"""For names in no configured zone: what `Get-DnsRecords` prints to be entered by hand."""
MX_PREFERENCE = 10

_SERVICES = (
    ("_imaps._tcp", 0, "imaps", Role.CLIENT_ACCESS),
    ("_imap._tcp", 10, "imap", Role.CLIENT_ACCESS),
    ("_pop3s._tcp", 0, "pop3s", Role.CLIENT_ACCESS),
    ("_pop3._tcp", 10, "pop3", Role.CLIENT_ACCESS),
    ("_autodiscover._tcp", 0, "https", Role.CLIENT_ACCESS),
    ("_submissions._tcp", 0, "submissions", Role.HUB_TRANSPORT),
    ("_submission._tcp", 10, "submission", Role.HUB_TRANSPORT),
)
"""Label, priority (TLS from the first byte before STARTTLS, RFC 8314 5.1), port, role. A service is published once
servers have a port of that name: a record for what nobody serves makes clients wait."""


@dataclass(frozen=True)
class RecordSet:
    """All records of a name and type. `name` in lower case without the last dot; `data` sorted, as in a zone file."""

    name: str
    kind: str
    ttl: int
    data: tuple[str, ...]


def members(organization: OrganizationView, array: ClientAccessArray) -> list[Server]:
    """All client access servers of the array's site, by name."""
    found = [
        one
        for one in organization.servers.values()
        if Role.CLIENT_ACCESS in one.roles and one.site.lower() == array.site.lower()
    ]
    return sorted(found, key=lambda one: one.name)


def zone_of(name: str, zones: Iterable[DnsZone]) -> DnsZone | None:
    """The configured zone that a name lies in: the longest."""
    fitting = [one for one in zones if name == one.zone or name.endswith("." + one.zone)]
    return max(fitting, key=lambda one: len(one.zone), default=None)


def desired(
    organization: OrganizationView, addresses: Mapping[str, Sequence[str]], zones: Sequence[DnsZone]
) -> list[RecordSet]:
    """Every record of every array. `addresses`: by array with round robin, those to publish; an array that is not
    there, or has none, keeps what it has, so nothing is said about its name."""
    document = organization.organization
    domain = document.domain.lower() if document is not None else ""
    arrays = sorted(organization.arrays.values(), key=lambda one: one.name)
    found: list[RecordSet] = []
    for array in arrays:
        for name in dict.fromkeys(one.lower() for one in (array.fqdn, *array.aliases)):
            found += _addresses(name, array, addresses, zones)
    if domain and arrays:
        found += _autodiscover(f"autodiscover.{domain}", arrays, addresses, zones)
        found += _services(domain, organization, arrays, zones)
        found += _exchangers(domain, organization, arrays, zones)
    return found


def _settings(name: str, zones: Sequence[DnsZone]) -> DnsZone:
    return zone_of(name, zones) or DEFAULTS


def _of(array: ClientAccessArray, addresses: Mapping[str, Sequence[str]]) -> Sequence[str]:
    if array.dns_mode is DnsMode.ROUND_ROBIN:
        return addresses.get(array.name, ())
    return (array.ip,) if array.ip else ()


def _ttl(array: ClientAccessArray, settings: DnsZone) -> int:
    return settings.round_robin_ttl if array.dns_mode is DnsMode.ROUND_ROBIN else settings.ttl


def _addresses(
    name: str, array: ClientAccessArray, addresses: Mapping[str, Sequence[str]], zones: Sequence[DnsZone]
) -> list[RecordSet]:
    return _by_family(name, _ttl(array, _settings(name, zones)), _of(array, addresses))


def _by_family(name: str, ttl: int, addresses: Iterable[str]) -> list[RecordSet]:
    families: dict[str, list[str]] = {}
    for address in sorted({str(ipaddress.ip_address(one)) for one in addresses}):
        families.setdefault("AAAA" if ":" in address else "A", []).append(address)
    return [RecordSet(name, kind, ttl, tuple(data)) for kind, data in sorted(families.items())]


def _autodiscover(
    name: str,
    arrays: Sequence[ClientAccessArray],
    addresses: Mapping[str, Sequence[str]],
    zones: Sequence[DnsZone],
) -> list[RecordSet]:
    """With one array its name; a name can have one CNAME only, so with several all their addresses."""
    settings = _settings(name, zones)
    if len(arrays) == 1:
        return [RecordSet(name, "CNAME", settings.ttl, (f"{arrays[0].fqdn.lower()}.",))]
    if not all(_of(one, addresses) for one in arrays if one.ip or one.dns_mode is DnsMode.ROUND_ROBIN):
        return []
    every = [address for one in arrays for address in _of(one, addresses)]
    return _by_family(name, min(_ttl(one, settings) for one in arrays), every)


def _services(
    domain: str, organization: OrganizationView, arrays: Sequence[ClientAccessArray], zones: Sequence[DnsZone]
) -> list[RecordSet]:
    found = []
    for label, priority, port, role in _SERVICES:
        if port not in Ports.__struct_fields__:
            continue
        data = []
        for array in arrays:
            able = [one for one in members(organization, array) if role in one.roles]
            if able:
                data.append(f"{priority} 1 {getattr(able[0].ports, port)} {array.fqdn.lower()}.")
        name = f"{label}.{domain}"
        if data:
            found.append(RecordSet(name, "SRV", _settings(name, zones).ttl, tuple(sorted(data))))
    return found


def _exchangers(
    domain: str, organization: OrganizationView, arrays: Sequence[ClientAccessArray], zones: Sequence[DnsZone]
) -> list[RecordSet]:
    settings = _settings(domain, zones)
    data = [
        f"{MX_PREFERENCE} {array.fqdn.lower()}."
        for array in arrays
        if any(Role.HUB_TRANSPORT in one.roles for one in members(organization, array))
    ]
    return [RecordSet(domain, "MX", settings.ttl, tuple(sorted(data)))] if settings.publish_mx and data else []
