"""What is freed is given back while a server runs, and only then."""

from __future__ import annotations

import asyncio

from gradwire_server import lean
from gradwire_server.lean import staying_lean
from tests.server.requests import PATIENCE_S, until


def test_freed_memory_is_given_back_again_and_again_until_the_end(monkeypatch):
    given = []
    monkeypatch.setattr(lean, "INTERVAL_S", 0.001)
    monkeypatch.setattr(lean, "give_freed_memory_back", lambda: given.append(1))

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            before = asyncio.all_tasks()
            async with staying_lean():
                await until(lambda: len(given) > 2)
            assert asyncio.all_tasks() == before

    asyncio.run(run())
