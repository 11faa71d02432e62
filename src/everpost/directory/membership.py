"""Who votes: members of the etcd cluster are added as learners, promoted when they have caught up, and removed.

A voter is never added before it runs: with two voters of which one does not run, all writes stop (findings: etcd 3).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from everpost.directory.etcd import EtcdDirectory
from everpost.errors import Unavailable

ADD_LIMIT = 40.0
"""Seconds; etcd refuses changes of membership until all voters were connected for 5 s."""
CHANGE_LIMIT = 1.0
CAUGHT_UP_LAG = 200
"""Entries of the log that a learner may lack when it is promoted: a second of a busy organisation's writes."""


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
    member: str = ""


class NewVoter(msgspec.Struct, frozen=True, kw_only=True):
    """A host that shall vote. `directory`: a witness' directory."""

    name: str
    peer_url: str
    client_url: str
    directory: str | None = None


StartMember = Callable[[str, JoinCluster], Awaitable[None]]
"""`start(server, what it must know)` tells that host to start its member; harmless when repeated."""


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
        why = "it did not start in time"
        while time.monotonic() < end:
            try:
                if await self._step(name, peer_url, client_url, start, directory):
                    return
            except Unavailable as error:
                why = error.what
            await asyncio.sleep(0.1)
        raise Unavailable(
            f"{name} could not become a voter: {why}", remedy="Run the command again; it goes on where it stopped."
        )

    async def _step(self, name: str, peer_url: str, client_url: str, start: StartMember, directory: str | None) -> bool:
        """The next step towards a voter, from what the cluster says now; whether it is one. A step that was refused,
        or whose answer was lost, is simply decided again."""
        members = await self.members()
        mine = next((member for member in members if member.peer_url == peer_url), None)
        if mine is None:
            await self._change("add", {"peerURLs": [peer_url], "isLearner": True})
        elif not mine.learner:
            return True
        elif not mine.name:
            names = [(member.name or name, member.peer_url) for member in members]
            await start(
                name, JoinCluster(initial_cluster=tuple(names), token=self._token, directory=directory, member=mine.id)
            )
        elif await self._caught_up(client_url):
            await self._change("promote", {"ID": mine.id})
        return False

    async def _change(self, what: str, body: Mapping[str, object]) -> None:
        await self._directory.call(f"/v3/cluster/member/{what}", body, limit=CHANGE_LIMIT)

    async def grow(self, voters: Sequence[NewVoter], start: StartMember) -> None:
        """Add voters one after the other without a pause between them: with two voters the loss of either stops all
        writes, so a server and its witness belong together."""
        for voter in voters:
            await self.add(voter.name, voter.peer_url, voter.client_url, start, voter.directory)

    async def _caught_up(self, client_url: str) -> bool:
        """By the learner's own word: 3.4.23 would promote one that never started."""
        try:
            learner = await self._directory.ask(client_url, "/v3/maintenance/status", {})
            voter = await self._directory.call("/v3/maintenance/status", {})
        except Unavailable:
            return False
        applied = int(learner.get("raftAppliedIndex", learner.get("raftIndex", 0)))
        return applied > 0 and applied + CAUGHT_UP_LAG >= int(voter.get("raftIndex", 0))

    async def remove(self, peer_url: str) -> None:
        """Take a member out; nothing happens if it is none. Raises Unavailable."""
        end = time.monotonic() + ADD_LIMIT
        while True:
            found = next((member for member in await self.members() if member.peer_url == peer_url), None)
            if found is None:
                return
            try:
                await self._change("remove", {"ID": found.id})
            except Unavailable:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(0.1)

    async def endpoints(self, own: str) -> Sequence[str]:
        """Client URLs of all voters, the own one first if it is one."""
        urls = [member.client_url for member in await self.members() if member.client_url and not member.learner]
        return sorted(urls, key=lambda url: url != own)
