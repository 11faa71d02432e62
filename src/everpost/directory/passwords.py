"""Passwords: argon2id, hashed in threads, at most two at a time; a verified one is remembered as a keyed digest."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_HASHER = PasswordHasher(time_cost=3, memory_cost=65536, parallelism=1)
CONCURRENT = 2
"""Each hash takes 64 MiB and 0.1 s of a core: unbounded, log-ins would starve everything else."""
REMEMBERED = 10_000

_UNKNOWN_USER = _HASHER.hash(secrets.token_hex(16))


async def hash_password(password: str) -> str:
    """The argon2id hash to keep."""
    return await asyncio.to_thread(_HASHER.hash, password)


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _HASHER.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


class Verifier:
    """Verifies passwords for one process. The memory holds keyed digests under a key of this process, no password."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._under_way: dict[bytes, asyncio.Future[bool]] = {}

    async def _hashed(self, stored: str, password: str) -> bool:
        async with self._slots:
            return await asyncio.to_thread(_verify, stored, password)

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is right. None (no such user) takes as long as a wrong password."""
        stored = password_hash or _UNKNOWN_USER
        digest = hmac.new(self._key, f"{stored}\0{password}".encode(), hashlib.sha256).digest()
        if password_hash and digest in self._known:
            self._known.move_to_end(digest)
            return True
        # After a move all connections of a user come at once, with the same password: one hash answers them all.
        shared = self._under_way.get(digest)
        if shared is None:
            shared = self._under_way[digest] = asyncio.ensure_future(self._hashed(stored, password))
            shared.add_done_callback(lambda _: self._under_way.pop(digest, None))
        right = await asyncio.shield(shared)
        if not right or not password_hash:
            return False
        self._known[digest] = None
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return True
