"""The commands that keep DNS records, on a directory in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from everpost.directory import keys
from everpost.directory.schema import OrganizationDocument, decode, encode
from everpost.errors import NotFound, Refused
from everpost.model.array import ClientAccessArray
from everpost.model.dns import DnsUpdater, DnsZone, ZoneStatus
from everpost.model.server import Role, Server
from tests.manage.organisation import Organisation

SECRET = "c2VjcmV0IG9mIHRoZSB0ZXN0"


@pytest.fixture
async def o(tmp_path: Path) -> Organisation:
    found = await Organisation(("EX01", "EX02"), {}).start()
    found.data_dir = tmp_path
    site = "Default-First-Site-Name"
    array = ClientAccessArray(name="A", fqdn="casarray.contoso.com", site=site, ip="10.77.0.50")
    puts = {keys.client_access_array("A"): encode(array)}
    puts[keys.ORGANIZATION] = encode(OrganizationDocument(name="C", domain="contoso.com"))
    for number in (1, 2):
        server = Server(
            name=f"EX0{number}", address=f"10.77.0.1{number}", replication_address="", roles=(Role.CLIENT_ACCESS,)
        )
        puts[keys.server(server.name)] = encode(server)
    await found._write({}, puts)
    return found


async def test_a_zone_is_configured_changed_and_removed_and_the_secret_is_nowhere(o: Organisation) -> None:
    path = o.data_dir / "dns.key"
    [row] = await o.run("Set-DnsUpdate Contoso.com. -Server 192.0.2.53,192.0.2.54:5353")
    assert row["Zone"] == "contoso.com" and row["Servers"] == ["192.0.2.53", "192.0.2.54:5353"]
    assert "There is no TSIG key in" in o.warnings.pop() and not o.warnings
    path.write_text(f'key "everpost" {{ algorithm hmac-sha256; secret "{SECRET}"; }};')
    path.chmod(0o600)
    await o.run("Set-DnsUpdate contoso.com -RoundRobinTtl 7 -PublishMx $true -Adopt mail.contoso.com")
    assert not o.warnings
    expected = DnsZone(
        zone="contoso.com",
        servers=("192.0.2.53", "192.0.2.54:5353"),
        round_robin_ttl=7,
        publish_mx=True,
        adopt=("mail.contoso.com",),
    )
    assert o.view.dns_zones == {"contoso.com": expected}
    shown = await o.run("Get-DnsUpdate -Status")
    assert "No server keeps the records yet" in shown[0]["Error"]
    documents = b"".join(entry.value for entry in (await o.memory.list(keys.ROOT))[0])
    assert SECRET not in json.dumps(shown) and SECRET.encode() not in documents
    await o.run("Remove-DnsUpdate contoso.com")
    assert not o.view.dns_zones and "stay as they are" in o.warnings[0]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Set-DnsUpdate contoso.com", "-Server is needed"),
        ("Set-DnsUpdate contoso.com -Server ns.contoso.com", "is not an address"),
        ("Set-DnsUpdate 'no zone' -Server 192.0.2.53", "is not the name of a zone"),
        ("Set-DnsUpdate contoso.com -Server 192.0.2.53 -RoundRobinTtl 9999", "no time to live"),
        ("Set-DnsUpdate contoso.com -Server 192.0.2.53 -Adopt mail.fabrikam.com", "does not lie in contoso.com"),
        (
            "Set-DnsUpdate contoso.com -Server 192.0.2.53 -PublishMx maybe",
            r"-PublishMx is \$true or \$false, not 'maybe'",
        ),
        ("Set-ClientAccessArray A -DnsMode Sometimes", "-DnsMode cannot be .* Type VirtualIP or RoundRobin"),
    ],
)
async def test_what_cannot_be_is_refused(o: Organisation, line: str, why: str) -> None:
    before = o.writes
    with pytest.raises(Refused, match=why):
        await o.run(line)
    assert o.writes == before


async def test_an_unknown_zone_is_named(o: Organisation) -> None:
    await o.run("Set-DnsUpdate contoso.com -Server 192.0.2.53")
    with pytest.raises(NotFound, match="Did you mean contoso"):
        await o.run("Remove-DnsUpdate contos.com")


async def test_the_records_say_which_of_them_are_kept(o: Organisation) -> None:
    rows = await o.run("Get-DnsRecords")
    assert {"Name": "casarray.contoso.com.", "Type": "A", "Data": "10.77.0.50", "Ttl": 300, "Kept": False} in rows
    await o.run("Set-ClientAccessArray A -DnsMode RoundRobin")
    assert "Nothing keeps casarray.contoso.com in DNS yet" in o.warnings.pop()
    await o.run("Set-DnsUpdate contoso.com -Server 192.0.2.53")
    rows = await o.run("Get-DnsRecords")
    assert [row["Data"] for row in rows if row["Type"] == "A"] == ["10.77.0.11", "10.77.0.12"]
    assert all(row["Kept"] for row in rows) and not [row for row in rows if row["Type"] == "MX"]


async def test_the_status_says_who_and_since_when(o: Organisation) -> None:
    await o.run("Set-DnsUpdate contoso.com -Server 192.0.2.53")
    status = ZoneStatus(zone="contoso.com", stale_since="2026-01-01T00:00:00+00:00", error="192.0.2.53 is silent.")
    record = DnsUpdater(
        server="EX02", instance="1", epoch=4, zones=(status,), rotation={"A": {"EX01": "is drained", "EX02": ""}}
    )
    await o._write({}, {keys.DNS_UPDATER: encode(record)})
    [row] = await o.run("Get-DnsUpdate contoso.com -Status")
    assert row["Updater"] is None and "EX02 is silent" in row["Error"], "it says nothing any more"
    assert row["StaleSince"].startswith("2026") and row["RoundRobin"] == ["A EX01: is drained", "A EX02: published"]


def test_a_document_of_an_earlier_release_is_read() -> None:
    old = b'{"v":1,"name":"A","fqdn":"a.contoso.com","site":"S"}'
    assert str(decode(ClientAccessArray, old).dns_mode) == "VirtualIP"
