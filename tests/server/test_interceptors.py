import asyncio

import pytest

from gradwire_core.errors import DrainingError
from gradwire_server.admission import Gate


def test_a_gate_without_calls_drains_at_once_and_refuses_from_then_on():
    async def scenario() -> None:
        gate = Gate()
        gate.close()
        assert await gate.drain(0.0)
        with pytest.raises(DrainingError), gate:
            raise AssertionError

    asyncio.run(scenario())


def test_a_gate_drains_when_the_last_call_is_out():
    async def scenario() -> None:
        gate = Gate()
        with gate:
            with gate:
                gate.close()
                draining = asyncio.create_task(gate.drain(30.0))
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not draining.done()
        assert await draining

    asyncio.run(scenario())


def test_a_gate_gives_up_after_its_time():
    async def scenario() -> None:
        gate = Gate()
        with gate:
            gate.close()
            assert not await gate.drain(0.01)

    asyncio.run(scenario())


def test_a_gate_drains_when_all_of_the_last_call_is_sent():
    async def scenario() -> None:
        gate = Gate()
        assert gate.hold()
        with gate:
            gate.close()
            assert not gate.hold()
        draining = asyncio.create_task(gate.drain(30.0))
        await asyncio.sleep(0)
        assert not draining.done()
        gate.let_go()
        assert await draining

    asyncio.run(scenario())
