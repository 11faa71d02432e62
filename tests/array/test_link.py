"""The real kernel: addresses come, are renewed, end by themselves in time, and announcements say who has them."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from everpost.array.announce import advertised, advertisement, arp, arp_owner, solicitation
from everpost.array.hold import LIFE, ROUNDING

MAC = bytes.fromhex("020000000001")

PROGRAM = """
import asyncio, ipaddress, json, subprocess, sys, time
from everpost.array.announce import Announcer
from everpost.array.link import Links
for line in ("link add one type veth peer name two", "link set one up", "link set two up",
             "addr add 10.9.0.1/24 dev one", "addr add fd09::1/64 dev one nodad"):
    subprocess.run(["ip", *line.split()], check=True)
address = ipaddress.ip_address(sys.argv[1])
links = Links()
index = links.link_of(address)
assert index is not None and links.link_of(ipaddress.ip_address("192.0.2.1")) is None
assert not links.remove(address, index) and not links.has(address)
life = int(sys.argv[2])
def lived(wait):
    # Of the last renewal: for how long it lived at least, and at most. The clock is read so that a program that is kept
    # waiting between two lines widens this, and never makes it wrong.
    time.sleep(wait)
    before = time.monotonic()
    links.put(address, index, life)
    for _ in range(6):  # 1.5 s: longer than one life
        time.sleep(0.25)
        assert links.has(address) or time.monotonic() - before > life - 0.5
        before = time.monotonic()
        links.put(address, index, life)
    after = seen = looked = time.monotonic()
    while links.has(address):
        seen = looked
        assert seen - after < 5
        time.sleep(0.005)
        looked = time.monotonic()
    return seen - after, time.monotonic() - before
gone = [lived(wait) for wait in (0.0, 0.4, 0.75)]
links.put(address, index, 1)
assert links.remove(address, index) and not links.has(address)
Announcer(index).announce(address)
assert asyncio.run(Announcer(index).conflict(address, 0.1)) is None
print(json.dumps(gone))
"""


def _wait_for_the_kernel() -> None:
    """Until it takes no namespaces apart, as those of the tests before: its worker for addresses waits for that."""
    end = time.monotonic() + 60
    while any("+netns" in _name(pid) for pid in os.listdir("/proc") if pid.isdigit()):
        assert time.monotonic() < end, "namespaces are taken apart all the time"
        time.sleep(0.1)


def _name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.parametrize("address", ["10.9.0.50", "fd09::50"])
def test_the_kernel_ends_a_life_in_time(address: str) -> None:
    _wait_for_the_kernel()
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", PROGRAM, address, str(LIFE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for at_least, at_most in json.loads(done.stdout):
        assert at_least <= LIFE + ROUNDING and at_most > LIFE - 0.5, "hold.may_extend counts on it"


def test_a_gratuitous_arp_says_who_has_it() -> None:
    packed = ipaddress.ip_address("10.77.0.50").packed
    for frame in (arp(MAC, packed, packed), arp(MAC, packed, packed, reply=True)):
        assert frame[:6] == b"\xff" * 6 and arp_owner(frame) == (MAC, packed)
    assert arp_owner(arp(MAC, b"\0" * 4, packed)) == (MAC, b"\0" * 4), "a probe claims nothing (RFC 5227)"
    assert arp_owner(b"\0" * 60) is None and arp_owner(b"") is None


def test_an_unsolicited_advertisement_says_who_has_it() -> None:
    packed = ipaddress.ip_address("fd00::50").packed
    frame = advertisement(MAC, packed)
    assert advertised(frame) == (MAC, packed) and frame[:2] == b"\x33\x33"
    assert advertised(solicitation(MAC, packed)) is None
    total = frame[22:54] + (len(frame) - 54).to_bytes(4, "big") + (58).to_bytes(4, "big") + frame[54:]
    words = sum(int.from_bytes(total[i : i + 2], "big") for i in range(0, len(total), 2))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    assert words == 0xFFFF, "the checksum of RFC 4443 2.3"
