"""One server for all tests that leave it as they found it."""

from __future__ import annotations

import socket

import pytest

from tests.server.processes import serving


@pytest.fixture(scope="session")
def server():
    with serving("--workers", "2") as process:
        yield process


@pytest.fixture(scope="session")
def channel(server):
    return server.channel


@pytest.fixture(scope="session")
def stub(server):
    return server.stub


@pytest.fixture
def free_address():
    """An address of the loopback that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
