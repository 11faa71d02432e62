"""Asks the gateway for an echo, again and again: is this server's network the one that failed? (spec 6.9, Limit)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import struct
import time

from everpost.array.link import Address
from everpost.log import fact

log = logging.getLogger(__name__)

_ECHO = struct.Struct("!BBHHH")


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo(version: int, identifier: int, sequence: int) -> bytes:
    """An echo request (RFC 792, RFC 4443); the kernel fills in the checksum of IPv6."""
    kind = 8 if version == 4 else 128
    data = _ECHO.pack(kind, 0, 0, identifier, sequence)
    return _ECHO.pack(kind, 0, _checksum(data) if version == 4 else 0, identifier, sequence)


def answers(packet: bytes, version: int, identifier: int) -> bool:
    """Whether a packet of a raw socket is the reply to one of ours."""
    if version == 4:
        packet = packet[(packet[0] & 0xF) * 4 :] if packet else b""
    if len(packet) < _ECHO.size:
        return False
    kind, _, _, found, _ = _ECHO.unpack_from(packet)
    return bool(kind == (0 if version == 4 else 129) and found == identifier)


class Gateway:
    """`visible`: True until `limit` probes in a row, one each `interval` seconds, had no answer; True again with the
    first answer. None before the first answer or silence is known."""

    def __init__(self, address: Address, interval: float, limit: int) -> None:
        self.address = address
        self._interval = interval
        self._limit = limit
        self.visible: bool | None = None
        self.silent_since: float | None = None
        """CLOCK_BOOTTIME seconds, while it is not visible."""

    async def run(self) -> None:
        """Probe until cancelled. Needs CAP_NET_RAW."""
        family = socket.AF_INET if self.address.version == 4 else socket.AF_INET6
        protocol = socket.IPPROTO_ICMP if self.address.version == 4 else socket.IPPROTO_ICMPV6
        identifier = int.from_bytes(os.urandom(2), "big")
        loop = asyncio.get_running_loop()
        with contextlib.closing(socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)) as raw:
            raw.setblocking(False)
            raw.connect((str(self.address), 0))
            silent = sequence = 0
            while True:
                sequence = (sequence + 1) & 0xFFFF
                end = loop.time() + self._interval
                with contextlib.suppress(OSError):
                    raw.send(echo(self.address.version, identifier, sequence))
                heard = False
                while (left := end - loop.time()) > 0:
                    heard = await self._hear(raw, identifier, left) or heard
                silent = 0 if heard else silent + 1
                self._conclude(heard, silent)

    async def _hear(self, raw: socket.socket, identifier: int, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                packet = await loop.sock_recv(raw, 2048)
        except TimeoutError:
            return False
        except OSError:
            await asyncio.sleep(min(seconds, 0.05))
            return False
        return answers(packet, self.address.version, identifier)

    def _conclude(self, heard: bool, silent: int) -> None:
        before = self.visible
        if heard:
            self.visible, self.silent_since = True, None
        elif silent >= self._limit:
            self.visible = False
            self.silent_since = self.silent_since or time.clock_gettime(time.CLOCK_BOOTTIME)
        if self.visible is not before and before is not None:
            fact(log, "gateway", level=logging.WARNING, address=str(self.address), visible=self.visible)


def parse(text: str) -> Address | None:
    """An address, or None for "" and for what is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
