"""The hub transport process of a host."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from everpost.cli.role import run_role
from everpost.clock import SystemClock
from everpost.directory.passwords import Verifier
from everpost.log import configure
from everpost.net import tls
from everpost.net.listen import Listener
from everpost.settings import DEFAULT_PATH, ServerSettings, load
from everpost.transport.receive import Receiver, ReceiveSettings

STOP_LIMIT = 8.0


async def run(settings: ServerSettings) -> None:
    """Until SIGTERM."""
    async with run_role(settings) as role:
        context = tls.server_context(settings.tls_dir)
        listeners = []
        for submission, port in ((False, settings.ports.smtp), (True, settings.ports.submission)):
            receiver = Receiver(
                ReceiveSettings(hostname=settings.name, submission=submission),
                role.store,
                role.organization,
                Verifier(),
                SystemClock(),
                context,
            )
            listener = Listener(receiver.handle, role.authority)
            await listener.start(settings.address, port)
            listeners.append(listener)
        await role.stop.wait()
        for listener in listeners:
            await listener.stop(STOP_LIMIT / len(listeners))


def main() -> None:
    """`python -m everpost.cli.transport --config PATH`."""
    parser = argparse.ArgumentParser(prog="everpost-transport")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH)
    settings = load(parser.parse_args().config)
    configure(settings.log_format)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
