"""Who votes: members of the etcd cluster are added as learners, promoted when they have caught up, and removed.

A voter is never added before it runs: with two voters of which one does not run, all writes stop (findings: etcd 3).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from everpost.directory.etcd import EtcdDirectory
from everpost.errors import EverpostError, Unavailable

ADD_LIMIT = 40.0
"""Seconds; etcd refuses changes of membership until all voters were connected for 5 s."""
CAUGHT_UP_LAG = 200


class ClusterMember(msgspec.Struct, frozen=True, kw_only=True):
    """A member as the cluster knows it. `name` is empty until it has started."""

    id: str
    name: str
    peer_url: str
    client_url: str
    learner: bool


class JoinCluster(msgspec.Struct, frozen=True, kw_only=True):
    """What a host must know to start its member. `directory`: a witness' directory, else the host's own."""

    initial_cluster: tuple[tuple[str, str], ...]
    token: str
    directory: str | None = None


StartMember = Callable[[str, JoinCluster], Awaitable[None]]


class Membership:
    """Changes the cluster's membership through any member."""

    def __init__(self, directory: EtcdDirectory, token: str) -> None:
        self._directory = directory
        self._token = token

    async def members(self) -> list[ClusterMember]:
        """All members, learners too."""
        found = await self._directory.call("/v3/cluster/member/list", {})
        return [
            ClusterMember(
                id=member["ID"],
                name=member.get("name", ""),
                peer_url=member["peerURLs"][0],
                client_url=(member.get("clientURLs") or [""])[0],
                learner=bool(member.get("isLearner")),
            )
            for member in found.get("members", [])
        ]

    async def add(
        self, name: str, peer_url: str, client_url: str, start: StartMember, directory: str | None = None
    ) -> None:
        """Make the host a voter; may be repeated after a failure at any point. Raises Unavailable after ADD_LIMIT."""
        end = time.monotonic() + ADD_LIMIT
        while True:
            members = await self.members()
            mine = next((member for member in members if member.peer_url == peer_url), None)
            try:
                if mine is None:
                    await self._directory.call(
                        "/v3/cluster/member/add", {"peerURLs": [peer_url], "isLearner": True}, limit=1.0
                    )
                elif not mine.learner:
                    return
                elif not mine.name:
                    names = [(member.name or name, member.peer_url) for member in members]
                    await start(name, JoinCluster(initial_cluster=tuple(names), token=self._token, directory=directory))
                    await self._started(peer_url, end)
                elif await self._caught_up(client_url):
                    await self._directory.call("/v3/cluster/member/promote", {"ID": mine.id}, limit=1.0)
            except Unavailable as error:
                if time.monotonic() > end:
                    raise Unavailable(
                        f"{name} could not become a voter: {error.what}",
                        remedy="Run the command again; it goes on where it stopped.",
                    ) from error
            await asyncio.sleep(0.2)
            if time.monotonic() > end + 5.0:
                raise Unavailable(f"{name} did not become a voter.", remedy="Run the command again.")

    async def _started(self, peer_url: str, end: float) -> None:
        while time.monotonic() < end:
            if any(member.peer_url == peer_url and member.name for member in await self.members()):
                return
            await asyncio.sleep(0.1)

    async def _caught_up(self, client_url: str) -> bool:
        """By the learner's own word: 3.4.23 would promote one that never started."""
        try:
            learner = await self._directory.ask(client_url, "/v3/maintenance/status", {})
            leader = await self._directory.call("/v3/maintenance/status", {})
        except EverpostError:
            return False
        return int(learner.get("raftIndex", 0)) + CAUGHT_UP_LAG >= int(leader.get("raftIndex", 0))

    async def remove(self, peer_url: str) -> None:
        """Take a member out; nothing happens if it is none."""
        for member in await self.members():
            if member.peer_url == peer_url:
                await self._directory.call("/v3/cluster/member/remove", {"ID": member.id})

    async def endpoints(self, own: str) -> Sequence[str]:
        """Client URLs of all voters, the own one first if it is one."""
        urls = [member.client_url for member in await self.members() if member.client_url and not member.learner]
        return sorted(urls, key=lambda url: url != own)
