"""The generated configuration: as recorded, accepted by HAProxy, and its statistics read back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from everpost.array import balancer, haproxy
from everpost.model.array import Affinity, ClientAccessArray
from everpost.model.server import Role, Server

GOLDEN = Path(__file__).with_name("haproxy.cfg.golden")
ARRAY = ClientAccessArray(
    name="CASArray", fqdn="casarray.contoso.com", site="S", ip="10.77.0.50", drained=("EX02",), weights={"EX01": 3}
)


def servers() -> list[Server]:
    roles = (Role.MAILBOX, Role.CLIENT_ACCESS, Role.HUB_TRANSPORT)
    return [
        Server(name=f"EX0{n}", address=f"10.77.0.1{n}", replication_address=f"10.78.0.1{n}", roles=roles)
        for n in (2, 1)
    ]


def test_the_configuration_is_as_recorded() -> None:
    text = balancer.configuration(ARRAY, servers(), Path("/run/haproxy.sock"), 40123)
    assert text == GOLDEN.read_text()


@pytest.mark.parametrize("affinity", list(Affinity))
@pytest.mark.parametrize("ip", ["10.77.0.50", "fd00::50"])
def test_haproxy_accepts_it(affinity: Affinity, ip: str, tmp_path: Path) -> None:
    program = haproxy.find()
    assert program, "haproxy is not installed; `make setup` installs it"
    array = msgspec.structs.replace(ARRAY, affinity=affinity, ip=ip)
    path = tmp_path / "haproxy.cfg"
    path.write_text(balancer.configuration(array, servers(), tmp_path / "sock"))
    done = subprocess.run([program, "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr, done.stderr


def test_statistics_are_read_by_the_names_of_their_columns() -> None:
    shown = (
        "# pxname,svname,scur,stot,status,\nimap-in,FRONTEND,9,9,OPEN,\nimap,EX01,2,10,UP 1/2,\nimap,BACKEND,,,UP,\n"
    )
    assert balancer.services(shown) == {"imap/EX01": ("UP", 2, 10)}
    assert balancer.services("") == {}
