"""PROXY protocol version 2 (haproxy.org/download/2.6/doc/proxy-protocol.txt): whose connection a balancer hands on."""

from __future__ import annotations

import ipaddress
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIXED = 16
LARGEST = 512
"""Bytes behind the fixed part that are read at most: addresses are 36, the rest would be extensions."""
_LOCAL, _PROXY = 0x20, 0x21
_ADDRESSES = {0x11: (4, 12), 0x21: (16, 36)}
"""Family and transport (TCP over IPv4, IPv6): length of an address, of the whole block."""


class NotProxied(ConnectionError):
    """It does not begin with a header of this kind: nothing of it is served."""


def length(fixed: bytes) -> int:
    """How many bytes follow the fixed part. Raises NotProxied."""
    if len(fixed) != FIXED or not fixed.startswith(SIGNATURE) or fixed[12] not in (_LOCAL, _PROXY):
        raise NotProxied("no PROXY header")
    (size,) = struct.unpack("!H", fixed[14:16])
    if size > LARGEST:
        raise NotProxied(f"a PROXY header of {size} bytes")
    return int(size)


def source(fixed: bytes, rest: bytes) -> str | None:
    """The client's address; None: the balancer itself (its health check). Raises NotProxied, also for addresses that no
    client can have, as some of them mean more trust."""
    if fixed[12] == _LOCAL:
        return None
    size, block = _ADDRESSES.get(fixed[13], (0, 0))
    if not size or len(rest) < block:
        raise NotProxied("a PROXY header without TCP addresses")
    found = ipaddress.ip_address(rest[:size])
    mapped = getattr(found, "ipv4_mapped", None) or found
    if mapped.is_loopback or mapped.is_unspecified or mapped.is_multicast:
        raise NotProxied(f"a PROXY header for {found}")
    return str(mapped)
