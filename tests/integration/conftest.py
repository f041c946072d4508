"""One server, and the three ways to ask: in this process, over a blocking channel, over an asyncio one."""

import asyncio

import pytest

import gradwire as gw
from gradwire._embedded import EMBEDDED
from gradwire.demo import start_server


@pytest.fixture(scope="session")
def server():
    with start_server() as found:
        yield found


@pytest.fixture(scope="session")
def client(server):
    with gw.connect(server.address, timeout_s=60.0) as found:
        yield found


class Awaited:
    """An AsyncClient that is waited for: each function it gives blocks until its answer is there."""

    def __init__(self, address):
        self._runner = asyncio.Runner()
        self._client = gw.AsyncClient(address)

    def wait(self, answer):
        return self._runner.run(_await(answer)) if hasattr(answer, "__await__") else answer

    def __getattr__(self, name):
        function = getattr(self._client, name)
        if name in {"jvp", "hvp", "trace", "explain"}:
            return lambda *args, **options: self.wait(function(*args, **options))
        if name == "vjp":
            return lambda *args, **options: self._pull(self.wait(function(*args, **options)))
        return lambda *args, **options: lambda *given: self.wait(function(*args, **options)(*given))

    def _pull(self, found):
        value, pullback = found
        return value, lambda cotangent: self.wait(pullback(cotangent))

    def close(self):
        self._runner.run(self._client.close())
        self._runner.close()


async def _await(answer):
    return await answer


@pytest.fixture(scope="session")
def awaited(server):
    found = Awaited(server.address)
    yield found
    found.close()


@pytest.fixture(params=["embedded", "remote sync", "remote async"])
def backend(request):
    if request.param == "embedded":
        return EMBEDDED
    return request.getfixturevalue("client" if request.param == "remote sync" else "awaited")
