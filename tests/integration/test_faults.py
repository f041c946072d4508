"""When servers are away, come back without memory, or take too long."""

import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import gradwire as gw
from gradwire.demo import start_server

X = np.array([1.0, 2.0])


@pytest.fixture
def nobody():
    """An address where nobody listens, and nobody else will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_a_server_that_lost_its_programs_gets_them_again():
    with start_server() as first:
        port = first.address.rpartition(":")[2]
        with gw.connect(first.address, unreachable_s=20.0) as client:
            gradient = client.grad(lambda x: np.sum(x**2))
            np.testing.assert_array_equal(gradient(X), 2 * X)
            assert first.stop() == 0
            command = [sys.executable, "-m", "gradwire_server", "--listen", f"127.0.0.1:{port}", "--workers", "1"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as second:
                try:
                    # Also before it listens: the client tries until it does. It names the program, which this server never saw.
                    np.testing.assert_array_equal(gradient(X), 2 * X)
                finally:
                    second.terminate()
                assert second.wait(30) == 0


def test_a_large_program_is_sent_when_the_server_asks_for_it(server):
    def chain(x):
        for number in range(300):
            x = np.sin(x + number)
        return x.sum()

    with gw.connect(server.address, inline_max_bytes=1000) as client:
        np.testing.assert_array_equal(client.grad(chain, reproducible=True)(X), gw.grad(chain, reproducible=True)(X))


def test_an_unreachable_server_is_named_within_seconds(nobody):
    began_s = time.monotonic()
    with gw.connect(nobody, unreachable_s=1.0) as client, pytest.raises(gw.UnreachableError) as caught:
        client.grad(lambda x: x**2)(1.0)
    assert time.monotonic() - began_s < 5.0
    assert caught.value.message.startswith(f"{nobody}: needed a gradwire server, got no connection in ")
    assert "Connection refused" in caught.value.message
    assert caught.value.message.endswith(f"gradwire serve --listen {nobody}")


def test_an_unreachable_server_is_named_to_asyncio_too(nobody):
    import asyncio

    async def run():
        async with gw.AsyncClient(nobody, gw.ClientConfig(unreachable_s=0.5)) as client:
            await client.capabilities()

    with pytest.raises(gw.UnreachableError, match=nobody):
        asyncio.run(run())


def test_a_server_that_accepts_and_says_nothing_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        began_s = time.monotonic()
        with gw.connect(target, unreachable_s=1.0) as client, pytest.raises((gw.UnreachableError, gw.DeadlineError)):
            client.grad(lambda x: x**2)(1.0)
        assert time.monotonic() - began_s < 8.0


def test_a_message_beyond_the_limit_is_a_limit_error(server):
    with gw.connect(server.address, message_max_bytes=10_000) as client, pytest.raises(gw.LimitError, match="10000 bytes"):
        client.evaluate(np.sum)(np.ones(10_000))


def test_a_call_that_takes_too_long_ends_at_its_deadline(server):
    with gw.connect(server.address, timeout_s=0.3) as client:
        began_s = time.monotonic()
        with pytest.raises(gw.DeadlineError):
            client.evaluate(lambda m: np.linalg.inv(m @ m.T) @ np.linalg.inv(m @ m))(
                np.random.default_rng(0).normal(size=(1500, 1500))
            )
        assert time.monotonic() - began_s < 3.0


def test_a_closed_client_says_so(server):
    client = gw.connect(server.address)
    client.close()
    with pytest.raises(gw.ArgumentError, match="needed an open client, got a closed one; connect again"):
        client.grad(lambda x: x**2)(1.0)
