"""Set-ClientAccessArray -Name and -Site: T-ARR-2 when it is changed, and one resource whatever its name is.

Refusals say what to type instead."""

from __future__ import annotations

import msgspec
import pytest

from everpost.directory import keys
from everpost.directory.schema import OrganizationDocument, encode
from everpost.errors import AlreadyExists, NotFound, Refused
from everpost.model.array import HolderRecord, HolderState, Statement
from everpost.model.server import Role
from tests.manage.organisation import Organisation

MAKE = "New-ClientAccessArray -Name CASArray -Fqdn casarray.contoso.com -IP 10.77.0.50 -Hostname EX1,EX2 -Site Paris"


async def two_sites() -> Organisation:
    """EX1 and EX2 in Paris, EX3 in Rome, EX4 without a client access role in Oslo."""
    found = await Organisation(("EX1", "EX2", "EX3", "EX4"), {}).start()
    for name, site in (("EX1", "Paris"), ("EX2", "Paris"), ("EX3", "Rome"), ("EX4", "Oslo")):
        roles = (Role.MAILBOX, Role.CLIENT_ACCESS) if name != "EX4" else (Role.MAILBOX,)
        server = msgspec.structs.replace(found.view.servers[name], site=site, roles=roles)
        await found._write({}, {keys.server(name): encode(server)})
    await found.run(MAKE)
    return found


async def test_a_new_name_is_the_same_resource() -> None:
    o = await two_sites()
    await o.run("Set-ClientAccessArray CASArray -Name Mail")
    [row] = await o.run("Get-ClientAccessArray Mail")
    assert (row["Name"], row["Fqdn"], row["IP"]) == ("Mail", "casarray.contoso.com", "10.77.0.50")
    assert list(o.view.arrays) == ["CASArray"], "its holder is found where it was: nobody else can acquire the address"
    with pytest.raises(NotFound):
        await o.run("Get-ClientAccessArray CASArray")
    await o.run("Set-ClientAccessArray Mail -Limit 5")
    assert o.view.arrays["CASArray"].limit == 5
    await o.run("Set-ClientAccessArray Mail -Name CASArray")
    assert o.view.arrays["CASArray"].name == "CASArray" and not o.view.arrays["CASArray"].made_as
    await o.run("Set-ClientAccessArray CASArray -Name Other")
    await o.run("Remove-ClientAccessArray Other")
    assert not o.view.arrays


@pytest.mark.parametrize("name", ["roma", "First", "CASArray"], ids=["its name", "its first name", "renamed away"])
async def test_a_name_that_is_taken_is_refused(name: str) -> None:
    o = await two_sites()
    await o.run("New-ClientAccessArray -Name First -Fqdn rome.contoso.com -Site Rome")
    await o.run("Set-ClientAccessArray First -Name Roma")
    if name == "CASArray":
        await o.run("Set-ClientAccessArray CASArray -Name Paris")
        with pytest.raises(AlreadyExists, match="named CASArray"):
            await o.run("Set-ClientAccessArray Roma -Name CASArray")
    else:
        with pytest.raises(AlreadyExists, match=name):
            await o.run(f"Set-ClientAccessArray CASArray -Name {name}")


async def test_T_ARR_2_a_site_that_has_an_array_is_refused() -> None:
    o = await two_sites()
    await o.run("New-ClientAccessArray -Name Rome -Fqdn rome.contoso.com -Site Rome")
    with pytest.raises(AlreadyExists, match="The site Rome has the array Rome already"):
        await o.run("Set-ClientAccessArray CASArray -Site rome")
    with pytest.raises(Refused, match="No server is in the site Nowhere"):
        await o.run("Set-ClientAccessArray CASArray -Site Nowhere")
    with pytest.raises(Refused, match="no client access server in the site Oslo"):
        await o.run("Set-ClientAccessArray CASArray -Site Oslo")


async def test_another_site() -> None:
    o = await two_sites()
    await o.run("Set-ClientAccessArray CASArray -Drained EX2 -Weights EX1=3")
    await o.run("Set-ClientAccessArray CASArray -Site Rome -IP 10.88.0.50 -Hostname EX3")
    [row] = await o.run("Get-ClientAccessArray CASArray")
    assert (row["Site"], row["Members"], row["Hostname"], row["IP"]) == ("Rome", ["EX3"], ["EX3"], "10.88.0.50")
    assert row["Drained"] == [] and row["Weights"] == []
    await o.run("New-ClientAccessArray -Name Second -Fqdn second.contoso.com -Site Paris")
    with pytest.raises(AlreadyExists, match="Rome has the array"):
        await o.run("Set-ClientAccessArray Second -Site Rome")


async def test_two_administrators_at_the_same_moment_make_one_array_for_a_site() -> None:
    """The guard is in the directory, not in what this host sees: the other one's array is not seen here yet."""
    o = await two_sites()
    await o.memory.txn({}, {keys.array_site("Rome"): b"Unseen"})
    with pytest.raises(Refused, match="changed by somebody else"):
        await o.run("Set-ClientAccessArray CASArray -Site Rome")
    assert o.view.arrays["CASArray"].site == "Paris"


@pytest.mark.parametrize(
    "line",
    [
        "New-ClientAccessArray -Name Second -Fqdn second.contoso.com -Site Rome",
        "Set-ClientAccessArray CASArray -Name Second",
        "Set-ClientAccessArray CASArray -Fqdn second.contoso.com",
        "Set-ClientAccessArray CASArray -IP 10.77.0.51",
    ],
)
async def test_two_administrators_at_the_same_moment_do_not_give_the_same_name_or_address(line: str) -> None:
    """An array that was made elsewhere and is not seen here yet may have it."""
    o = await two_sites()
    await o.memory.txn({}, {keys.ARRAY_NAMES: b"Unseen"})
    with pytest.raises(Refused, match="changed by somebody else"):
        await o.run(line)
    await o.run("Set-ClientAccessArray CASArray -Weights EX1=3")
    o.view.apply(keys.ARRAY_NAMES, await o.memory.get(keys.ARRAY_NAMES))
    await o.run(line)


NEW = "New-ClientAccessArray -Name Rome -Fqdn rome.contoso.com -Site Rome "


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Get-ClientAccessArray -Site Nowhere", "Name another one by -Site: Oslo, Paris, Rome"),
        ("New-ClientAccessArray Rome", "such as -Fqdn casarray.contoso.com"),
        ("New-ClientAccessArray -Name X -Fqdn x.contoso.com -Site Paris", "Set-ClientAccessArray CASArray changes it"),
        ("New-ClientAccessArray -Fqdn CASARRAY.fabrikam.com -Site Rome", "There is an array named"),
        ("New-ClientAccessArray -Name X -Fqdn CASARRAY.contoso.com -Site Rome", "is a name of the array CASArray"),
        ("Set-ClientAccessArray CASArray -Fqdn EX1.contoso.com", "is the name of the server EX1. Choose one"),
        ("Set-ClientAccessArray CASArray -Fqdn ''", "'' is not a full host name. Name one"),
        (NEW + "-IP 10.77.0.5x", "-IP 10.77.0.5x is not an address. Name one"),
        (NEW + "-IP 127.0.0.1", "no address that clients could reach. Name a free one"),
        (NEW + "-IP 224.0.0.5", "no address that clients could reach"),
        (NEW + "-IP 10.77.0.50", "is the address of CASArray. Name one that nobody has"),
        (NEW + "-IP 10.77.0.60 -Gateway 10.77.0.60", "is the gateway. Name another -IP"),
        (NEW + "-IP 10.77.0.60 -Gateway fd00::1", "Name the IPv4 address of the gateway"),
        (NEW + "-Hostname EX1", "not a client access server of the site Rome. Name EX3"),
        (NEW + "-Limit 0", "Type 1 to 1000"),
        (NEW + "-ProbeInterval 150", "0.05 to 10 seconds, not '150'. Type a number such as 0.15"),
        (NEW + "-AutoFailbackDelay never", "-AutoFailbackDelay is 0 to 86400 seconds, not 'never'. Type a number"),
        (NEW + "-Affinity Cookie", "Type None, Single or Network"),
        (NEW + "-DnsMode RR", "Type VirtualIP or RoundRobin"),
        (NEW + "-MailTo nobody", "Type it like admin@contoso.com"),
        ("Set-ClientAccessArray CASArray -Weights EX1=0", "a number from 1 to 100, such as EX01=50"),
        ("Set-ClientAccessArray CASArray -Drained EX3", "Name EX1 or EX2"),
        ("Move-ClusterGroup CASArray -Node EX2", "Nobody holds the address of CASArray. Get-ClientAccessArray"),
        ("Move-ClusterGroup CASArray -Node EX4", "Nobody holds the address"),
        ("Move-ClusterGroup Nope", "There is no client access array Nope. Get-ClientAccessArray lists them"),
    ],
)  # fmt: skip
async def test_a_refusal_says_what_to_type_instead(line: str, words: str) -> None:
    o = await two_sites()
    await o._write({}, {keys.ORGANIZATION: encode(OrganizationDocument(name="C", domain="contoso.com"))})
    with pytest.raises((AlreadyExists, NotFound, Refused)) as refusal:
        await o.run(line)
    assert words in str(refusal.value)
    assert list(o.view.arrays) == ["CASArray"] and o.view.arrays["CASArray"].fqdn == "casarray.contoso.com"


async def test_a_move_that_cannot_be() -> None:
    o = await two_sites()
    ill = Statement(server="EX2", counter=1, obstacle="reaches no service")
    held = HolderRecord(array="CASArray", holder="EX1", instance="i", epoch=3, state=HolderState.HELD)
    documents = {keys.array_holder("CASArray"): encode(held), keys.array_statement("CASArray", "EX2"): encode(ill)}
    await o._write({}, documents)
    with pytest.raises(Refused, match=r"EX2 reaches no service\. No other server .* -Status shows when EX2 is ready"):
        await o.run("Move-ClusterGroup CASArray -Node EX2")
    with pytest.raises(Refused, match=r"No server but EX1 .* -Status shows what stands against each"):
        await o.run("Move-ClusterGroup CASArray")
    with pytest.raises(Refused, match=r"EX3 is not .* site Paris\. Name EX1 or EX2"):
        await o.run("Move-ClusterGroup CASArray -Node EX3")
    [row] = await o.run("Move-ClusterGroup CASArray -Node EX1")
    assert row["OwnerNode"] == "EX1", "it has it already"
    well = msgspec.structs.replace(ill, obstacle="")
    await o._write({}, {keys.array_statement("CASArray", "EX2"): encode(well)})
    [row] = await o.run("Move-ClusterGroup CASArray -WhatIf")
    assert row["State"] == "would move to EX2"
    await o.run("Set-ClientAccessArray CASArray -Hostname EX1")
    with pytest.raises(Refused, match=r"Set-ClientAccessArray CASArray -Hostname names who may"):
        await o.run("Move-ClusterGroup CASArray -Node EX2")
    await o.run("Set-ClientAccessArray CASArray -IP ''")
    with pytest.raises(Refused, match=r"no address .* Set-ClientAccessArray CASArray -IP"):
        await o.run("Move-ClusterGroup CASArray -Node EX1")


async def test_what_is_allowed_and_hardly_meant_is_a_warning() -> None:
    o = await two_sites()
    for line, words in (
        ("Set-ClientAccessArray CASArray -Drained EX1,EX2", "nobody serves new connections"),
        ("Set-ClientAccessArray CASArray -IP ''", "has no address any more"),
        ("New-ClientAccessArray -Name Oslo -Fqdn oslo.contoso.com -Site Oslo", "no client access server yet"),
        ("Set-ClientAccessArray CASArray -DnsMode RoundRobin", "Nothing keeps casarray.contoso.com in DNS"),
    ):
        o.warnings.clear()
        await o.run(line)
        assert any(words in one for one in o.warnings), o.warnings
