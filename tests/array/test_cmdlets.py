"""Set-ClientAccessArray -Name and -Site: T-ARR-2 when it is changed, and one resource whatever its name is."""

from __future__ import annotations

import msgspec
import pytest

from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.errors import AlreadyExists, NotFound, Refused
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
