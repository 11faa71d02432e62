"""Tells the network where the address is, and asks whether somebody else has it: ARP (RFC 826, 5227) and neighbour
discovery (RFC 4861). Needs CAP_NET_RAW."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct

from everpost.array.link import Address

_ARP, _IPV6 = 0x0806, 0x86DD
_BROADCAST = b"\xff" * 6
_ARP_BODY = struct.Struct("!HHBBH6s4s6s4s")
_ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
_SOLICITATION, _ADVERTISEMENT = 135, 136


def arp(mac: bytes, sender: bytes, target: bytes, *, reply: bool = False) -> bytes:
    """An Ethernet frame to everybody: who has `target`? (or: I have), says `sender` at `mac`."""
    body = _ARP_BODY.pack(1, 0x0800, 6, 4, 2 if reply else 1, mac, sender, _BROADCAST if reply else b"\0" * 6, target)
    return _BROADCAST + mac + struct.pack("!H", _ARP) + body


def arp_owner(frame: bytes) -> tuple[bytes, bytes] | None:
    """(MAC, address) that an ARP frame claims to belong together; None for anything else."""
    if len(frame) < 14 + _ARP_BODY.size or frame[12:14] != struct.pack("!H", _ARP):
        return None
    kind, protocol, _, _, _, mac, sender, _, _ = _ARP_BODY.unpack_from(frame, 14)
    return (mac, sender) if (kind, protocol) == (1, 0x0800) else None


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _icmp6(mac: bytes, source: bytes, target: bytes, kind: int, flags: int, address: bytes, option: bytes) -> bytes:
    body = struct.pack("!BBHI", kind, 0, 0, flags) + address + option
    pseudo = source + target + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    ip = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + target
    return b"\x33\x33" + target[12:] + mac + struct.pack("!H", _IPV6) + ip + body


def advertisement(mac: bytes, address: bytes) -> bytes:
    """An unsolicited neighbour advertisement to all nodes, with the override flag (RFC 4861 7.2.6)."""
    option = b"\x02\x01" + mac
    return _icmp6(mac, address, _ALL_NODES, _ADVERTISEMENT, 0x20000000, address, option)


def solicitation(mac: bytes, address: bytes) -> bytes:
    """Whether somebody has the address: a neighbour solicitation from nobody (RFC 4862 5.4.2)."""
    group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + address[13:]
    return _icmp6(mac, b"\0" * 16, group, _SOLICITATION, 0, address, b"")


def advertised(frame: bytes) -> tuple[bytes, bytes] | None:
    """(MAC, address) of a neighbour advertisement."""
    if len(frame) < 14 + 40 + 24 or frame[12:14] != struct.pack("!H", _IPV6) or frame[20] != 58:
        return None
    return (frame[6:12], frame[62:78]) if frame[54] == _ADVERTISEMENT else None


class Announcer:
    """One link. Raises OSError where the process has no CAP_NET_RAW."""

    def __init__(self, index: int) -> None:
        self._name = socket.if_indextoname(index)

    def _open(self, protocol: int) -> socket.socket:
        found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(protocol))
        try:
            found.bind((self._name, protocol))
            found.setblocking(False)
        except OSError:
            found.close()
            raise
        return found

    def announce(self, address: Address) -> None:
        """Once: gratuitous ARP as request and as reply, since neighbours differ in which they heed, or an unsolicited
        neighbour advertisement. A card without a cable is no error."""
        with contextlib.closing(self._open(0)) as out:
            mac = out.getsockname()[4]
            packed = address.packed
            if address.version == 4:
                frames = [arp(mac, packed, packed), arp(mac, packed, packed, reply=True)]
            else:
                frames = [advertisement(mac, packed)]
            for frame in frames:
                with contextlib.suppress(OSError):
                    out.send(frame)

    async def conflict(self, address: Address, seconds: float, probes: int = 1) -> str | None:
        """The MAC of another host that has the address (duplicate address detection), asked `probes` times within
        `seconds`; None: nobody answered."""
        loop = asyncio.get_running_loop()
        kind = _ARP if address.version == 4 else _IPV6
        with contextlib.closing(self._open(kind)) as ear:
            mac = ear.getsockname()[4]
            question = arp(mac, b"\0" * 4, address.packed) if kind == _ARP else solicitation(mac, address.packed)
            for _ in range(probes):
                with contextlib.suppress(OSError):
                    ear.send(question)
                end = loop.time() + seconds / probes
                while (left := end - loop.time()) > 0:
                    try:
                        async with asyncio.timeout(left):
                            frame = await loop.sock_recv(ear, 2048)
                    except TimeoutError:
                        break
                    found = arp_owner(frame) if kind == _ARP else advertised(frame)
                    if found is not None and found[1] == address.packed and found[0] != mac:
                        return found[0].hex(":")
        return None
