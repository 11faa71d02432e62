"""Adds and removes the virtual address by netlink, with a life time that the kernel ends by itself.

In the process and by one system call, since the last look at the tenure must stand immediately before it (docs/
decisions/010). RTM messages: linux/rtnetlink.h, linux/if_addr.h.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

NEWADDR, DELADDR, GETADDR = 20, 21, 22
_REQUEST, _ACK, _REPLACE, _CREATE, _DUMP = 0x1, 0x4, 0x100, 0x400, 0x300
_HEADER = struct.Struct("=IHHII")
_IFADDR = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_CACHEINFO = struct.Struct("=IIII")
_ERROR, _DONE = 2, 3
_ADDRESS, _LOCAL, _CACHE = 1, 2, 6
_NODAD = 0x02
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _attribute(kind: int, data: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + b"\0" * (-length % 4)


def message(kind: int, flags: int, address: Address, index: int, seconds: int | None) -> bytes:
    """An RTM_NEWADDR or RTM_DELADDR for a host address on the link `index`. Not preferred, so that the host does not
    begin its own connections from it; no duplicate address detection by the kernel, which was done before."""
    body = _IFADDR.pack(_FAMILIES[address.version], address.max_prefixlen, _NODAD, 0, index)
    body += _attribute(_LOCAL, address.packed) + _attribute(_ADDRESS, address.packed)
    if seconds is not None:
        body += _attribute(_CACHE, _CACHEINFO.pack(0, seconds, 0, 0))
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


class Links:
    """A netlink socket of this process."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(1.0)

    def put(self, address: Address, index: int, seconds: int) -> None:
        """Add the address, or renew it: the kernel removes it after `seconds`. Raises OSError."""
        self._ask(message(NEWADDR, _REQUEST | _ACK | _CREATE | _REPLACE, address, index, seconds))

    def remove(self, address: Address, index: int) -> bool:
        """Remove the address; whether it was there. Raises OSError."""
        try:
            self._ask(message(DELADDR, _REQUEST | _ACK, address, index, None))
        except OSError as error:
            if error.errno in (99, 19):  # EADDRNOTAVAIL, ENODEV: it is gone already
                return False
            raise
        return True

    def _ask(self, request: bytes) -> None:
        self._socket.send(request)
        answer = self._socket.recv(65536)
        _, kind, _, _, _ = _HEADER.unpack_from(answer)
        code = struct.unpack_from("=i", answer, _HEADER.size)[0] if kind == _ERROR else 0
        if code:
            raise OSError(-code, os.strerror(-code))

    def addresses(self) -> list[tuple[int, ipaddress.IPv4Interface | ipaddress.IPv6Interface]]:
        """All addresses of this host, each with the index of its link. Raises OSError."""
        body = _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), GETADDR, _REQUEST | _DUMP, 1, 0) + body)
        found: list[tuple[int, ipaddress.IPv4Interface | ipaddress.IPv6Interface]] = []
        while True:
            data = self._socket.recv(262144)
            place = 0
            while place < len(data):
                length, kind, _, _, _ = _HEADER.unpack_from(data, place)
                if kind in (_DONE, _ERROR):
                    return found
                if kind == NEWADDR:
                    found += _parse(data[place + _HEADER.size : place + length])
                place += (length + 3) & ~3

    def link_of(self, address: Address) -> int | None:
        """The link whose network the address belongs to."""
        for index, one in self.addresses():
            if one.ip != address and address in one.network and one.network.prefixlen < address.max_prefixlen:
                return index
        return None

    def has(self, address: Address) -> bool:
        """Whether the address is on this host now."""
        return any(one.ip == address for _, one in self.addresses())

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _parse(body: bytes) -> list[tuple[int, ipaddress.IPv4Interface | ipaddress.IPv6Interface]]:
    _, prefix, _, _, index = _IFADDR.unpack_from(body)
    place = _IFADDR.size
    found: dict[int, bytes] = {}
    while place + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, place)
        found[kind] = body[place + _ATTRIBUTE.size : place + length]
        place += (length + 3) & ~3
    packed = found.get(_LOCAL, found.get(_ADDRESS))
    if packed is None or len(packed) not in (4, 16):
        return []
    return [(index, ipaddress.ip_interface(f"{ipaddress.ip_address(packed)}/{prefix}"))]
