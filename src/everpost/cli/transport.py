"""The hub transport process of a host."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from everpost.cli.role import drain_in_maintenance, run_role
from everpost.clock import SystemClock
from everpost.directory.passwords import Verifier
from everpost.log import configure
from everpost.model.server import Role
from everpost.net import tls
from everpost.net.listen import Listener, ProxiedListener
from everpost.settings import DEFAULT_PATH, ServerSettings, load
from everpost.transport.receive import Receiver
from everpost.transport.session import ReceiveSettings, Services

STOP_LIMIT = 8.0
"""Seconds in which deliveries under way are acknowledged."""


async def run(settings: ServerSettings) -> None:
    """Until SIGTERM."""
    async with run_role(settings) as role:
        context = tls.server_context(settings.tls_dir)
        listeners, receivers = [], []
        ports = settings.ports
        for submission, port, array_port in (
            (False, ports.smtp, ports.array_smtp),
            (True, ports.submission, ports.array_submission),
        ):
            services = Services(
                ReceiveSettings(hostname=settings.name, submission=submission),
                role.store,
                role.organization,
                Verifier(),
                SystemClock(),
                context,
            )
            receiver = Receiver(services)
            listener = Listener(receiver.handle, role.authority)
            await listener.start(settings.address, port)
            proxied = ProxiedListener(receiver.handle, role.authority, role.organization.balancers)
            await proxied.start(settings.address, array_port)
            receivers.append(receiver)
            listeners += [listener, proxied]
        draining = asyncio.create_task(
            drain_in_maintenance(role.organization, settings.name, Role.HUB_TRANSPORT, receivers)
        )
        await role.stop.wait()
        draining.cancel()
        for receiver in receivers:
            receiver.stop()
        await asyncio.gather(*(listener.stop(STOP_LIMIT) for listener in listeners))


def main() -> None:
    """`python -m everpost.cli.transport --config PATH`."""
    parser = argparse.ArgumentParser(prog="everpost-transport")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH)
    settings = load(parser.parse_args().config)
    configure(settings.log_format)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
