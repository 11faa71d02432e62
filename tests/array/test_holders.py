"""The checker of captures, and what it reads in frames."""

from __future__ import annotations

import socket

import pytest

from everpost.array.announce import advertisement, arp
from everpost.lab.load.capture import Witness
from tests.array.holders import Acquisition, Answer, two_holders

A, B = "EX01", "EX02"
MAC_A, MAC_B = b"\x02\0\0\0\0\x0a", b"\x02\0\0\0\0\x0b"
ADDRESS = socket.inet_aton("10.77.0.50")


def answers(*rows: tuple[float, str]) -> list[Answer]:
    return [Answer(at, host, "asked") for at, host in rows]


MOVED = [Acquisition(1, 1.0, A), Acquisition(2, 5.0, B)]


def test_one_after_the_other_is_one_holder() -> None:
    assert two_holders(answers((1.1, A), (2, A), (5.1, B), (9, B)), MOVED) == []


def test_back_again_is_one_holder_if_it_took_it_again() -> None:
    seen = answers((1.1, A), (5.1, B), (8.1, A))
    assert two_holders(seen, [*MOVED, Acquisition(3, 8.0, A)]) == []
    assert two_holders(seen, MOVED), "without a third acquisition these are two holders"


@pytest.mark.parametrize(
    "seen",
    [
        ((1.1, A), (5.1, B), (5.2, A), (5.3, B)),
        ((1.1, A), (5.1, B), (5.2, A)),
        ((1.1, A), (5.1, A)),
        ((0.5, A),),
        ((1.1, A), (2.0, "02:00:00:00:00:0c")),
    ],
    ids=["in between", "after", "the next one had it, though it said nothing yet", "before anybody", "a stranger"],
)
def test_two_holders_are_convicted(seen: tuple[tuple[float, str], ...]) -> None:
    assert two_holders(answers(*seen), MOVED)


def test_order_convicts_without_a_clock() -> None:
    late = [Acquisition(1, 0.0, A), Acquisition(2, 0.0, B)]
    assert "order" in two_holders(answers((1.0, B), (2.0, A)), late)[0]


def test_one_that_was_frozen_and_knows_late_of_its_own_epoch_blames_nobody() -> None:
    known = [Acquisition(1, 1.0, A), Acquisition(2, 9.0, B), Acquisition(3, 5.0, A)]
    assert two_holders(answers((1.1, A), (5.1, A), (9.5, A)), known) == []


def tcp(mac: bytes, flags: int, port: int = 40000, payload: bytes = b"") -> bytes:
    """A segment from the address to the client."""
    client = socket.inet_aton("10.77.0.100")
    length = (40 + len(payload)).to_bytes(2, "big")
    ip = b"\x45\0" + length + b"\0\0\0\0\x40\x06\0\0" + ADDRESS + client
    head = (143).to_bytes(2, "big") + port.to_bytes(2, "big") + bytes(8) + bytes((0x50, flags)) + bytes(6)
    return b"\x02\0\0\0\0\x01" + mac + b"\x08\0" + ip + head + payload


def test_what_a_frame_says() -> None:
    witness = Witness(ADDRESS)
    assert witness.frame(arp(MAC_A, ADDRESS, ADDRESS)) == ("answer", MAC_A, {"how": "announced"})
    assert witness.frame(arp(MAC_A, b"\0\0\0\0", ADDRESS)) is None, "a question is no claim"
    assert witness.frame(tcp(MAC_A, 0x12)) == ("answer", MAC_A, {"how": "accepted"})
    assert witness.frame(tcp(MAC_A, 0x10, payload=b"* OK")) is None, "its own connection: nothing new"
    assert witness.frame(tcp(MAC_B, 0x12, port=40001)) == ("answer", MAC_B, {"how": "accepted"})
    left = witness.frame(tcp(MAC_A, 0x11))
    assert left == ("remains", MAC_A, {"flags": 0x11, "payload": 0}), "the former holder ends its connection"
    assert witness.frame(tcp(MAC_B, 0x12)) == ("answer", MAC_B, {"how": "accepted"}), "the client took the port again"
    assert witness.frame(tcp(MAC_A, 0x19, payload=b"* OK")) == ("remains", MAC_A, {"flags": 0x19, "payload": 4})
    assert witness.frame(tcp(MAC_A, 0x10, port=40001)) == ("answer", MAC_A, {"how": "packet", "flags": 0x10}), (
        "another's"
    )
    assert witness.frame(tcp(MAC_B, 0x14, port=40009)) == ("answer", MAC_B, {"how": "packet", "flags": 0x14})


def test_a_neighbour_advertisement() -> None:
    address = socket.inet_pton(socket.AF_INET6, "fd00::50")
    assert Witness(address).frame(advertisement(MAC_B, address)) == ("answer", MAC_B, {"how": "advertised"})
