"""Which records arrays want, as a zone file would have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest

from everpost.array.dns.client import endpoint
from everpost.array.dns.records import RecordSet, desired, zone_of
from everpost.directory import keys
from everpost.directory.interface import Entry
from everpost.directory.schema import OrganizationDocument, OrganizationView, encode
from everpost.errors import Refused
from everpost.model.array import ClientAccessArray
from everpost.model.dns import DnsMode, DnsZone
from everpost.model.server import Role, Server

BOTH = (Role.CLIENT_ACCESS, Role.HUB_TRANSPORT)
ZONE = DnsZone(zone="contoso.com", servers=("192.0.2.53",))


def view(*arrays: ClientAccessArray, roles: tuple[Role, ...] = BOTH) -> OrganizationView:
    found = OrganizationView()
    found.apply(keys.ORGANIZATION, Entry("", encode(OrganizationDocument(name="C", domain="Contoso.com")), 1))
    for number, array in enumerate(arrays):
        server = Server(name=f"EX0{number}", address=f"192.0.2.{number}", replication_address="", roles=roles)
        placed = msgspec.structs.replace(server, site=array.site)
        found.apply(keys.server(server.name), Entry("", encode(placed), 1))
        found.apply(keys.client_access_array(array.name), Entry("", encode(array), 1))
    return found


def lines(
    organization: OrganizationView, addresses: Mapping[str, Sequence[str]] | None = None, *zones: DnsZone
) -> list[str]:
    found = desired(organization, addresses or {}, zones)
    return [f"{one.name} {one.ttl} {one.kind} {data}" for one in found for data in one.data]


VIRTUAL = ClientAccessArray(
    name="A", fqdn="CASArray.contoso.com", site="S", ip="10.77.0.50", aliases=("old.contoso.com",)
)


def test_an_array_with_a_virtual_address() -> None:
    assert lines(view(VIRTUAL)) == [
        "casarray.contoso.com 300 A 10.77.0.50",
        "old.contoso.com 300 A 10.77.0.50",
        "autodiscover.contoso.com 300 CNAME casarray.contoso.com.",
        "_imaps._tcp.contoso.com 300 SRV 0 1 993 casarray.contoso.com.",
        "_imap._tcp.contoso.com 300 SRV 10 1 143 casarray.contoso.com.",
        "_autodiscover._tcp.contoso.com 300 SRV 0 1 443 casarray.contoso.com.",
        "_submission._tcp.contoso.com 300 SRV 10 1 587 casarray.contoso.com.",
        "contoso.com 300 MX 10 casarray.contoso.com.",
    ]


def test_a_round_robin_has_its_own_life_and_both_families() -> None:
    array = msgspec.structs.replace(VIRTUAL, dns_mode=DnsMode.ROUND_ROBIN)
    zone = msgspec.structs.replace(ZONE, ttl=600, round_robin_ttl=7)
    found = lines(view(array), {"A": ["192.0.2.12", "2001:DB8::1", "192.0.2.11"]}, zone)
    assert found[:3] == [
        "casarray.contoso.com 7 A 192.0.2.11",
        "casarray.contoso.com 7 A 192.0.2.12",
        "casarray.contoso.com 7 AAAA 2001:db8::1",
    ]
    assert "autodiscover.contoso.com 600 CNAME casarray.contoso.com." in found


def test_before_anybody_was_looked_at_nothing_is_said_about_the_name() -> None:
    array = msgspec.structs.replace(VIRTUAL, dns_mode=DnsMode.ROUND_ROBIN)
    assert not [one for one in lines(view(array)) if " A " in one]


def test_mx_in_a_kept_zone_only_when_asked_for_and_where_hubs_are() -> None:
    assert not [one for one in lines(view(VIRTUAL), {}, ZONE) if " MX " in one]
    wanted = msgspec.structs.replace(ZONE, publish_mx=True)
    assert "contoso.com 300 MX 10 casarray.contoso.com." in lines(view(VIRTUAL), {}, wanted)
    without = lines(view(VIRTUAL, roles=(Role.CLIENT_ACCESS,)), {}, wanted)
    assert not [one for one in without if " MX " in one or "submission" in one]


def test_two_sites_share_the_domain() -> None:
    other = ClientAccessArray(name="B", fqdn="north.contoso.com", site="N", ip="10.78.0.50")
    found = lines(view(VIRTUAL, other))
    assert "autodiscover.contoso.com 300 A 10.77.0.50" in found and "autodiscover.contoso.com 300 A 10.78.0.50" in found
    assert not [one for one in found if "CNAME" in one], "a name has one CNAME at most"
    assert len([one for one in found if one.startswith("_imaps._tcp")]) == 2


def test_the_longest_zone_has_the_name() -> None:
    inner = DnsZone(zone="ha.contoso.com", servers=())
    assert zone_of("a.ha.contoso.com", [ZONE, inner]) == inner and zone_of("ha.contoso.com", [ZONE, inner]) == inner
    assert zone_of("aha.contoso.com", [ZONE, inner]) == ZONE and zone_of("fabrikam.com", [ZONE, inner]) is None
    assert RecordSet("a", "A", 5, ("x",)) == RecordSet("a", "A", 5, ("x",))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("192.0.2.53:5353", ("192.0.2.53", 5353)),
        ("2001:db8::53", ("2001:db8::53", 53)),
        ("[2001:db8::53]:5353", ("2001:db8::53", 5353)),
        ("[2001:db8::53]", ("2001:db8::53", 53)),
    ],
)
def test_addresses_of_servers(text: str, found: tuple[str, int]) -> None:
    assert endpoint(text) == found


@pytest.mark.parametrize("text", ["ns.contoso.com", "192.0.2.53:", "192.0.2.53:0", "192.0.2.53:dns", ""])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Refused):
        endpoint(text)
