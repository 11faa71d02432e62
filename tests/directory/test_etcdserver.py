"""A member's settings: durable, and the command line that they become, taken by the real program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from everpost.cli import voters
from everpost.directory import etcdserver
from everpost.directory.etcdserver import EtcdMemberSpec
from everpost.errors import EverpostError
from everpost.model.server import Server, https
from tests.directory.members import Members

SPEC = EtcdMemberSpec(
    name="EX01",
    address="10.77.0.11",
    client_port=2379,
    peer_port=2380,
    data_dir="/var/lib/everpost/etcd",
    tls_dir="/var/lib/everpost/tls",
    initial_cluster=(("EX01", "https://10.77.0.11:2380"), ("W", "https://10.77.0.13:2380")),
    existing=True,
    token="g1",
)


def option(line: list[str], name: str) -> str:
    return line[line.index(name) + 1]


def test_the_command_line_follows_the_settings() -> None:
    line = etcdserver.argv(SPEC, "/usr/bin/etcd")
    assert option(line, "--initial-cluster") == "EX01=https://10.77.0.11:2380,W=https://10.77.0.13:2380"
    assert option(line, "--initial-cluster-state") == "existing"
    assert option(line, "--heartbeat-interval") == "50" and option(line, "--election-timeout") == "500"
    for needed in ("--pre-vote", "--client-cert-auth", "--peer-client-cert-auth"):
        assert needed in line
    assert "--unsafe-no-fsync" not in line and "--force-new-cluster" not in line
    assert not any(word.startswith("--enable-grpc-gateway") for word in line)
    assert "--unsafe-no-fsync" in etcdserver.argv(msgspec.structs.replace(SPEC, fsync=False), "etcd")


def test_an_ipv6_address_stands_in_brackets() -> None:
    """In every URL that is compared with what etcd lists, and in what etcd is told (RFC 3986 3.2.2)."""
    spec = msgspec.structs.replace(SPEC, address="fd00:77::11")
    assert (spec.peer_url, spec.client_url) == ("https://[fd00:77::11]:2380", "https://[fd00:77::11]:2379")
    line = etcdserver.argv(spec, "etcd")
    assert option(line, "--listen-client-urls") == option(line, "--advertise-client-urls") == spec.client_url
    assert option(line, "--listen-peer-urls") == option(line, "--initial-advertise-peer-urls") == spec.peer_url
    host = Server(name="EX01", address="fd00:77::11", replication_address="", roles=())
    assert voters.peer_url(host) == spec.peer_url
    assert https("ex01.contoso.com", 443) == "https://ex01.contoso.com:443"


async def test_a_member_on_ipv6_serves(free_ports: Callable[[int], list[int]]) -> None:
    """The real program takes the URLs, and the client reaches it by them."""
    members = Members()
    try:
        members.address = "::1"
        members.tls_dir = members.certificate("EX06")
        members.spec("EX06", free_ports(2))
        members.found("EX06")
        directory = members.directory("EX06")
        assert (await directory.txn({}, {"/a": b"1"}, attempt=5.0)).succeeded
        [member] = await members.membership(directory).members()
        assert (member.peer_url, member.client_url) == (members.specs["EX06"].peer_url, members.url("EX06"))
        await directory.close()
    finally:
        members.close()


def test_settings_survive_and_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "etcd.json"
    assert etcdserver.load(path) is None
    etcdserver.save(SPEC, path)
    assert etcdserver.load(path) == SPEC
    assert [file.name for file in tmp_path.iterdir()] == ["etcd.json"]
    etcdserver.remove(path)
    etcdserver.remove(path)
    assert etcdserver.load(path) is None


def test_damaged_settings_are_an_error_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "etcd.json"
    path.write_text('{"name": "EX01"}')
    with pytest.raises(EverpostError) as error:
        etcdserver.load(path)
    assert error.value.remedy


def fake(folder: Path, version: str) -> str:
    program = folder / "etcd"
    program.write_text(f"#!/bin/sh\necho 'etcd Version: {version}'\n")
    program.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("version", ["3.3.27", "3.4.22", "3.6.0", "4.0.0"])
def test_versions_that_were_not_tried_are_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(EverpostError, match=version.replace(".", r"\.")) as error:
        etcdserver.find(fake(tmp_path, version))
    assert "3.4.23" in error.value.remedy


@pytest.mark.parametrize("version", ["3.4.23", "3.4.30", "3.5.16"])
def test_versions_that_work_are_found(tmp_path: Path, version: str) -> None:
    assert etcdserver.find(fake(tmp_path, version)) == str(tmp_path / "etcd")


@pytest.mark.fault
async def test_a_member_that_was_killed_comes_back_with_what_it_had(members: Members) -> None:
    members.specs["EX01"] = msgspec.structs.replace(members.specs["EX01"], fsync=True)
    members.found("EX01")
    directory = members.directory("EX01")
    revision = (await directory.txn({}, {"/kept": b"1"}, attempt=5.0)).revision
    members.kill("EX01")
    members.start("EX01")
    members.wait_listening("EX01")
    entry = await directory.get("/kept")
    assert entry is not None and entry.revision == revision
    await directory.close()
