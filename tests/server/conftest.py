"""One server for all tests that leave it as they found it."""

from __future__ import annotations

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
