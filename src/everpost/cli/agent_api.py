"""The agent's two listeners: HTTPS with certificates for other hosts, and the admin socket for commands."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from everpost.cli import wiring
from everpost.directory import joining
from everpost.directory.joining import JoinAnswer, JoinRequest
from everpost.directory.membership import JoinCluster
from everpost.errors import AlreadyExists, EverpostError, NotFound, Refused, Unavailable
from everpost.log import fact
from everpost.manage.service import command_handler
from everpost.monitoring import metrics
from everpost.net import tls

if TYPE_CHECKING:
    from everpost.cli.agent import Agent

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OPEN_PATHS = ("/v1/join", "/v1/authority")
"""What a host without a certificate may ask."""
SHUTDOWN = 1.0
"""Seconds; aiohttp's own 60 would keep an agent that failed from being started again."""


class _Context:
    """`manage.context.CommandContext` over the agent."""

    def __init__(
        self,
        agent: Agent,
        verbose: Callable[[str], None],
        warning: Callable[[str], None],
        failed: Callable[[], None],
        operator: str,
    ) -> None:
        self.clock = agent.clock
        self.settings = agent.settings
        self.directory = agent.directory
        self.organization = agent.organization
        self.live = agent
        self.agents = agent.agents
        self.voters = agent.voters
        self.verbose = verbose
        self.warning = warning
        self.operator = operator
        self.failed = failed
        for text in agent.monitor.standing().values():
            warning(text)  # in every command's answer, so that nobody works on beside it (P9)


class AgentApi:
    """Starts and stops both listeners."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Listen."""
        settings = self._agent.settings
        remote = web.Application(middlewares=[_errors, _certificate])
        remote.add_routes(
            [
                web.get("/v1/ping", self._ping),
                web.get("/v1/status", self._status),
                web.get("/v1/dac", self._dac),
                web.post("/v1/confirm", self._confirm),
                web.post("/v1/cover", self._cover),
                web.post("/v1/stall", self._stall),
                web.get("/v1/copy/{database}/openings", self._openings),
                web.post("/v1/etcd/start", self._etcd_start),
                web.post("/v1/witness", self._witness),
                web.post("/v1/join", self._join),
                web.get("/v1/authority", self._authority),
                web.get("/metrics", self._metrics),
            ]
        )
        runner = await self._runner(remote)
        context = tls.server_context(settings.tls_dir, client_certificates=ssl.CERT_OPTIONAL)
        for address in dict.fromkeys((settings.address, settings.replication_address)):
            site = web.TCPSite(runner, address, settings.ports.agent, ssl_context=context, reuse_address=True)
            await self._try(site, must=address == settings.address)
        plain = web.Application(middlewares=[_errors])
        plain.add_routes([web.get("/metrics", self._metrics)])
        # For a Prometheus on this host; in a lab on loopback the hosts share the address, and one of them has it.
        await self._try(web.TCPSite(await self._runner(plain), "127.0.0.1", settings.ports.agent), must=False)
        local = web.Application(middlewares=[_errors])
        handler = command_handler(
            lambda verbose, warning, failed, operator: _Context(self._agent, verbose, warning, failed, operator)
        )
        local.add_routes([web.post("/v1/command", handler), web.post("/v1/token", self._token)])
        path = settings.admin_socket
        path.unlink(missing_ok=True)
        old = os.umask(0o117)
        try:
            await web.UnixSite(await self._runner(local), str(path)).start()
        finally:
            os.umask(old)

    async def _try(self, site: web.TCPSite, *, must: bool) -> None:
        try:
            await site.start()
        except OSError as error:
            if must:
                raise
            fact(log, "not listening", level=logging.WARNING, at=site.name, why=str(error))

    async def _runner(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def stop(self) -> None:
        """Close all, at the same time: a handler that does not end is waited for SHUTDOWN seconds, then cancelled and
        waited for as long again."""
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))

    async def _ping(self, request: web.Request) -> web.Response:
        settings = self._agent.settings
        return web.json_response({"server": settings.name, "boot_id": wiring.boot_id(settings)})

    async def _dac(self, request: web.Request) -> web.Response:
        return web.json_response(msgspec.to_builtins(self._agent.coordination.answer()))

    async def _status(self, request: web.Request) -> web.Response:
        agent = self._agent
        copies = agent.manager.statuses() if agent.manager is not None else []
        return web.json_response(
            {
                "server": agent.settings.name,
                "tenure": agent.tenure.valid() if agent.tenure is not None else None,
                "epoch": agent.tenure.epoch if agent.tenure is not None else None,
                "longest_gap": agent.tenure.longest_gap if agent.tenure is not None else None,
                "copies": msgspec.to_builtins(copies),
                "coordination": {"bit": agent.coordination.bit, "reason": agent.coordination.reason},
            }
        )

    async def _confirm(self, request: web.Request) -> web.Response:
        body = await request.json()
        manager = self._agent.manager
        confirmed = manager is not None and await manager.confirm(str(body["database"]), int(body["epoch"]))
        return web.json_response({"confirmed": confirmed}, status=200 if confirmed else 409)

    async def _cover(self, request: web.Request) -> web.Response:
        covered = await self._agent.cover()
        return web.json_response({"confirmed": covered}, status=200 if covered else 409)

    async def _stall(self, request: web.Request) -> web.Response:
        body = await request.json()
        manager = self._agent.manager
        verdict = await manager.judge_stall(str(body["database"]), str(body["member"])) if manager else None
        return web.json_response({"verdict": verdict})

    async def _openings(self, request: web.Request) -> web.Response:
        manager = self._agent.manager
        if manager is None:
            raise NotFound("This server holds no databases.")
        openings = await manager.own_openings(request.match_info["database"])
        return web.json_response({"openings": msgspec.to_builtins(openings)})

    async def _etcd_start(self, request: web.Request) -> web.Response:
        join = msgspec.convert(await request.json(), JoinCluster)
        self._agent.voters.start_member(join)
        return web.json_response({})

    async def _witness(self, request: web.Request) -> web.Response:
        asked = (await request.json()).get("directory")
        report = self._agent.voters.witness_report(str(asked) if asked is not None else None)
        return web.json_response(msgspec.to_builtins(report))

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=metrics.text(self._agent.reading()))

    async def _token(self, request: web.Request) -> web.Response:
        settings = self._agent.settings
        if not (settings.tls_dir / "ca.key").exists():
            raise Refused(
                f"{settings.name} does not hold the authority's key.",
                remedy="Run the command on the first server, or on one that the key was copied to.",
            )
        text = await joining.create_token(
            self._agent.directory,
            address=settings.address,
            port=settings.ports.agent,
            fingerprint=tls.fingerprint((settings.tls_dir / "ca.crt").read_bytes()),
            now=self._agent.clock.wall(),
        )
        return web.json_response({"token": text})

    async def _authority(self, request: web.Request) -> web.Response:
        pem = (self._agent.settings.tls_dir / "ca.crt").read_text()
        return web.json_response({"authority": pem})

    async def _join(self, request: web.Request) -> web.Response:
        asked = msgspec.convert(await request.json(), JoinRequest)
        authority = tls.Authority.load(self._agent.settings.tls_dir)
        server = asked.server
        key = tls.requested_key(asked.signing_request.encode())
        addresses = [server.address, server.replication_address]
        # Signed before the token is spent: what fails here costs the new host nothing.
        certificate = authority.sign(key, server.name, addresses)
        await joining.redeem(self._agent.directory, asked.secret, server, now=self._agent.clock.wall())
        organization = self._agent.organization.organization
        answer = JoinAnswer(
            certificate=certificate.decode(),
            authority=authority.pem.decode(),
            endpoints=self._agent.directory.endpoints,
            organization=organization.name if organization is not None else "",
        )
        return web.json_response(msgspec.to_builtins(answer))


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except EverpostError as error:
        status = {NotFound: 404, AlreadyExists: 409, Refused: 403, Unavailable: 503}.get(type(error), 500)
        body: dict[str, Any] = {"error": error.what, "remedy": error.remedy}
        return web.json_response(body, status=status)
    except (msgspec.MsgspecError, json.JSONDecodeError, KeyError, ValueError) as error:
        return web.json_response({"error": f"The request is not understood: {error}.", "remedy": ""}, status=400)


@web.middleware
async def _certificate(request: web.Request, handler: Handler) -> web.StreamResponse:
    transport = request.transport
    shown = transport.get_extra_info("peercert") if transport is not None else None
    if not shown and request.path not in _OPEN_PATHS:
        return web.json_response({"error": "A certificate of this organisation is needed.", "remedy": ""}, status=401)
    return await handler(request)
