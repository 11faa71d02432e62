"""Captures who answers for a virtual address, on the card of a client's host; asks for it again and again meanwhile.

    python -m everpost.lab.load.capture --ledger F --name N --link L --address A [--port 143]

Each EVERY it asks the whole network who has the address (ARP), and each CONNECT_EVERY it opens a TCP connection to it.
Facts:

`answer`: a frame by which a host says "the address is mine": `how` is asked or announced (ARP), advertised (neighbour
advertisement), accepted (SYN-ACK of a new connection), packet (any other packet from the address that does not belong
to a connection which that same host accepted). `mac` sent it; `seen` is the kernel's own time of its arrival
(CLOCK_BOOTTIME seconds), so a capture that gets no processor for a while blames nobody.
`remains`: a packet of a connection that the host accepted, after another host answered: what it has left to say to that
client, mostly that the connection ends. It takes nobody's new connection and no neighbour's cache.
`answered`: a connection was there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import itertools
import socket
import struct
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from everpost.array.announce import advertised, arp, arp_owner
from everpost.lab.load.ledger import Ledger, boottime

EVERY = 0.02
CONNECT_EVERY = 0.06
PATIENCE = 1.0
BURST = 200
"""Frames read before anything else has its turn."""
REMEMBERED = 50_000
_ALL, _IPV4, _IPV6, _TCP = 0x0003, 0x0800, 0x86DD, 6
_SOL_PACKET, _IGNORE_OUTGOING = 263, 23
_SO_TIMESTAMPNS = 35
_BROADCAST = b"\xff" * 6
_SYN_ACK = 0x12


Fact = tuple[str, bytes, dict[str, Any]]
"""Its kind, the MAC that sent the frame, and what else there is to note."""


@dataclass(frozen=True)
class Segment:
    """A packet from the address. `connection`: the client's end and the port, None for anything but TCP."""

    mac: bytes
    connection: bytes | None = None
    flags: int = 0
    payload: int = 0


def segment(frame: bytes, address: bytes) -> Segment | None:
    """The packet in an Ethernet frame if its source is `address`."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _IPV4 and len(frame) >= 34:
        head = 14 + (frame[14] & 15) * 4
        source, target, protocol = frame[26:30], frame[30:34], frame[23]
        end = 14 + int.from_bytes(frame[16:18], "big")
    elif kind == _IPV6 and len(frame) >= 54:
        head = 54
        source, target, protocol = frame[22:38], frame[38:54], frame[20]
        end = 54 + int.from_bytes(frame[18:20], "big")
    else:
        return None
    if source != address:
        return None
    if protocol != _TCP or len(frame) < head + 20:
        return Segment(frame[6:12])
    size = (frame[head + 12] >> 4) * 4
    return Segment(frame[6:12], target + frame[head : head + 4], frame[head + 13] & 0x3F, end - head - size)


class Witness:
    """What the frames say: pure."""

    def __init__(self, address: bytes) -> None:
        self._address = address
        # By both ends: a client takes a port again while the former holder's kernel still repeats the last words of the
        # connection that it had accepted from it.
        self._accepted: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()
        self._last = b""

    def frame(self, frame: bytes) -> Fact | None:
        """What a frame says of the address, if it is something new."""
        found = arp_owner(frame) or advertised(frame)
        if found is not None:
            if found[1] != self._address:
                return None
            how = "advertised" if frame[12:14] == b"\x86\xdd" else "announced" if frame[:6] == _BROADCAST else "asked"
            return self._answer(found[0], how)
        said = segment(frame, self._address)
        if said is None:
            return None
        if said.connection is None:
            return self._answer(said.mac, "packet")
        if said.flags & _SYN_ACK == _SYN_ACK:
            self._accepted[said.connection, said.mac] = None
            self._accepted.move_to_end((said.connection, said.mac))
            if len(self._accepted) > REMEMBERED:
                self._accepted.popitem(last=False)
            return self._answer(said.mac, "accepted")
        if (said.connection, said.mac) not in self._accepted:
            return self._answer(said.mac, "packet", flags=said.flags)
        if said.mac != self._last:
            return "remains", said.mac, {"flags": said.flags, "payload": said.payload}
        return None

    def _answer(self, mac: bytes, how: str, **more: int) -> Fact:
        self._last = mac
        return "answer", mac, {"how": how, **more}


class Capture:
    """One card."""

    def __init__(self, ledger: Ledger, link: str, address: str, port: int) -> None:
        self._ledger = ledger
        self._host, self._port = address, port
        self._parsed = ipaddress.ip_address(address)
        self._witness = Witness(self._parsed.packed)
        self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        self._ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._ear.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        self._ear.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._ear.bind((link, _ALL))
        self._ear.setblocking(False)
        self._own: bytes = self._ear.getsockname()[4]

    async def run(self) -> None:
        """Until the ledger is stopped."""
        asyncio.get_running_loop().add_reader(self._ear, self._hear)
        question = arp(self._own, b"\0" * 4, self._parsed.packed)
        tasks: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            if self._ledger.stopping():
                return
            if self._parsed.version == 4:
                with contextlib.suppress(OSError):
                    self._ear.send(question)
            if number % round(CONNECT_EVERY / EVERY) == 0:
                task = asyncio.create_task(self._connect())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(EVERY)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError):
            return
        self._ledger.note("answered")
        writer.transport.abort()

    def _hear(self) -> None:
        ahead = time.time() - boottime()
        for _ in range(BURST):
            try:
                frame, extra, _, _ = self._ear.recvmsg(2048, 64)
            except BlockingIOError:
                return
            fact = self._witness.frame(frame)
            if fact is None:
                continue
            kind, mac, facts = fact
            arrived = next((data for _, what, data in extra if what == _SO_TIMESTAMPNS), None)
            seconds, nanoseconds = struct.unpack("@ll", arrived) if arrived else (time.time(), 0)
            seen = seconds - ahead + nanoseconds / 1e9
            self._ledger.note(kind, mac=mac.hex(":"), seen=round(seen, 6), **facts)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("ledger", "name", "link", "address"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, default=143)
    arguments = parser.parse_args()
    capture = Capture(Ledger(arguments.ledger), arguments.link, arguments.address, arguments.port)
    asyncio.run(capture.run())


if __name__ == "__main__":
    main()
