"""A host's certificate, and a world of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from everpost.net import tls

from .world import World


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    authority = tls.create_authority("Test")
    key = tls.new_key()
    certificate = authority.sign(key.public_key(), "EX01", ["127.0.0.1"], ["localhost"])
    tls.save_host(folder, key, certificate, authority.pem)
    return folder


@pytest.fixture
async def world(certificates: Path) -> AsyncIterator[World]:
    made = World(certificates)
    yield made
    for listener in made.listeners:
        await listener.stop(1.0)
