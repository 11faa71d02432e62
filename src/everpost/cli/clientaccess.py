"""The client access process of a host: IMAP on its two ports."""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path

from everpost.cli.role import drain_in_maintenance, run_role
from everpost.clientaccess.autodiscover import Autodiscover
from everpost.clientaccess.imap import ImapServer
from everpost.clientaccess.selfcheck import SelfCheck
from everpost.clientaccess.session import Services
from everpost.clock import SystemClock
from everpost.directory.passwords import Verifier
from everpost.log import configure, fact
from everpost.model.server import Role
from everpost.net import tls
from everpost.net.listen import Listener, ProxiedListener
from everpost.settings import DEFAULT_PATH, ServerSettings, load

log = logging.getLogger(__name__)

STOP_LIMIT = 3.0
"""Seconds in which commands under way are answered before their clients are told BYE."""


async def run(settings: ServerSettings) -> None:
    """Until SIGTERM."""
    async with run_role(settings) as role:
        context = tls.server_context(settings.tls_dir)
        services = Services(role.store, role.organization, Verifier(), SystemClock(), context)
        server = ImapServer(services)
        listeners = []
        for port, encrypted in ((settings.ports.imap, False), (settings.ports.imaps, True)):
            listener = Listener(server.handle, role.authority, context if encrypted else None)
            await listener.start(settings.address, port)
            listeners.append(listener)
        for port, encrypted in ((settings.ports.array_imap, False), (settings.ports.array_imaps, True)):
            listener = ProxiedListener(
                server.handle, role.authority, role.organization.balancers, context if encrypted else None
            )
            await listener.start(settings.address, port)
            listeners.append(listener)
        check = SelfCheck(role.organization, settings.name, role.authority.serving)
        checking = asyncio.create_task(check.run())
        web = Autodiscover(role.organization, services.passwords, settings.ports, role.authority.serving, check.trouble)
        try:
            await web.start(settings.address, settings.ports.https, settings.ports.array_https, context)
        except OSError as error:  # another program has the port: mail goes on without autodiscover
            fact(log, "no autodiscover", level=logging.ERROR, why=str(error))
        draining = asyncio.create_task(
            drain_in_maintenance(role.organization, settings.name, Role.CLIENT_ACCESS, [server])
        )
        await role.stop.wait()
        draining.cancel()
        checking.cancel()
        server.stop()
        await web.stop()
        await asyncio.gather(*(listener.stop(STOP_LIMIT) for listener in listeners))


def main() -> None:
    """`python -m everpost.cli.clientaccess --config PATH`."""
    parser = argparse.ArgumentParser(prog="everpost-clientaccess")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH)
    settings = load(parser.parse_args().config)
    configure(settings.log_format)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
