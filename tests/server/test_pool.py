"""The pool against everything that can happen to a worker or a task."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from gradwire_core.errors import DeadlineError, OverloadedError, PoisonedTaskError, WorkerLostError
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.frames import Frame, Kind
from gradwire_server.metrics import NoMetrics
from gradwire_server.pool import WorkerPool
from tests.server.requests import FOREVER, PATIENCE_S, X, quick, slow, until, value

QUICK = Frame(Kind.EVALUATE, (b"quick", quick().SerializeToString()))
SHORT = Frame(Kind.EVALUATE, (b"short", slow(30).SerializeToString()))
ENDLESS = Frame(Kind.EVALUATE, (b"endless", slow(FOREVER).SerializeToString()))


@asynccontextmanager
async def started(**settings) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(ServerConfig(max_peak_bytes=2**50, **settings), NoMetrics())
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def with_pool(**settings) -> Callable[[Callable[[WorkerPool], Awaitable[None]]], Callable[[], None]]:
    """Make a test of a coroutine that is given a pool."""

    def decorate(scenario):
        async def run() -> None:
            async with asyncio.timeout(2 * PATIENCE_S), started(**settings) as pool:
                await scenario(pool)

        def test() -> None:
            asyncio.run(run())

        test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
        return test

    return decorate


def busy(pool: WorkerPool) -> list[int]:
    return [worker.pid for worker in pool._workers if worker not in pool._idle and not worker.was_stopped]


async def assert_works(pool: WorkerPool) -> None:
    answer = await pool.run(QUICK, PATIENCE_S)
    assert answer.kind is Kind.RESULT
    np.testing.assert_allclose(value(pb.EvaluateResponse.FromString(answer.parts[1])), np.sin(X) * X, rtol=1e-15)


@with_pool(workers=2)
async def test_tasks_run_side_by_side_and_the_last_idle_worker_is_the_next(pool):
    first = asyncio.create_task(pool.run(SHORT, PATIENCE_S))
    second = asyncio.create_task(pool.run(SHORT, PATIENCE_S))
    await until(lambda: len(busy(pool)) == 2)
    assert {(await first).kind, (await second).kind} == {Kind.RESULT}
    last = pool._idle[-1]
    await assert_works(pool)
    assert pool._idle[-1] is last


@with_pool(workers=1)
async def test_a_killed_worker_is_replaced_and_its_task_runs_again(pool):
    task = asyncio.create_task(pool.run(SHORT, PATIENCE_S))
    await until(lambda: busy(pool))
    killed = busy(pool)[0]
    os.kill(killed, signal.SIGKILL)
    assert (await task).kind is Kind.RESULT
    assert killed not in pool.pids
    await until(lambda: len(pool.pids) == 1)


@with_pool(workers=2)
async def test_a_task_that_ends_two_workers_fails_alone(pool):
    task = asyncio.create_task(pool.run(ENDLESS, PATIENCE_S))
    await until(lambda: busy(pool))
    first = busy(pool)[0]
    os.kill(first, signal.SIGKILL)
    await until(lambda: set(busy(pool)) - {first})
    (second,) = set(busy(pool)) - {first}
    os.kill(second, signal.SIGKILL)
    with pytest.raises(PoisonedTaskError, match="needed a worker that survives it, got 2 that died"):
        await task
    await assert_works(pool)
    await until(lambda: len(pool.pids) == 2)


@with_pool(workers=2)
async def test_a_worker_killed_while_idle_costs_nobody_anything(pool):
    killed = pool._idle[-1].pid
    os.kill(killed, signal.SIGKILL)
    await assert_works(pool)
    await until(lambda: killed not in pool.pids and len(pool.pids) == 2)
    await assert_works(pool)


@with_pool(workers=1)
async def test_a_deadline_stops_a_running_task(pool):
    before = pool.pids
    with pytest.raises(DeadlineError, match="needed an answer within"):
        await pool.run(ENDLESS, 0.3)
    await until(lambda: pool.pids and pool.pids != before)
    await assert_works(pool)


@with_pool(workers=1)
async def test_a_deadline_drops_a_waiting_task_and_leaves_the_running_one_alone(pool):
    before = pool.pids
    running = asyncio.create_task(pool.run(SHORT, PATIENCE_S))
    await until(lambda: busy(pool))
    with pytest.raises(DeadlineError):
        await pool.run(QUICK, 0.0)
    assert pool.queue_length == 0
    assert (await running).kind is Kind.RESULT
    assert pool.pids == before


@with_pool(workers=1)
async def test_cancelling_stops_a_running_task_and_drops_a_waiting_one(pool):
    before = pool.pids
    running = asyncio.create_task(pool.run(ENDLESS, PATIENCE_S))
    await until(lambda: busy(pool))
    waiting = asyncio.create_task(pool.run(QUICK, PATIENCE_S))
    await until(lambda: pool.queue_length == 1)
    for task in (waiting, running):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert pool.queue_length == 0
    await until(lambda: pool.pids and pool.pids != before)
    await assert_works(pool)


@with_pool(workers=1, queue_count=1)
async def test_a_full_queue_refuses(pool):
    running = asyncio.create_task(pool.run(SHORT, PATIENCE_S))
    await until(lambda: busy(pool))
    waiting = asyncio.create_task(pool.run(QUICK, PATIENCE_S))
    await until(lambda: pool.queue_length == 1)
    with pytest.raises(OverloadedError, match="got 1 tasks waiting"):
        await pool.run(QUICK, PATIENCE_S)
    assert {(await running).kind, (await waiting).kind} == {Kind.RESULT}


@with_pool(workers=1)
async def test_closing_fails_those_that_wait(pool):
    running = asyncio.create_task(pool.run(ENDLESS, PATIENCE_S))
    await until(lambda: busy(pool))
    waiting = asyncio.create_task(pool.run(QUICK, PATIENCE_S))
    await until(lambda: pool.queue_length == 1)
    running.cancel()
    await pool.close()
    with pytest.raises(WorkerLostError):
        await waiting
    with pytest.raises(WorkerLostError):
        await pool.run(QUICK, PATIENCE_S)


def test_workers_that_do_not_start_are_an_error_of_the_configuration():
    async def run() -> None:
        async with started(workers=1, worker_start_timeout_s=0.001):
            raise AssertionError

    with pytest.raises(ConfigError, match="needed 1 to start, got 0"):
        asyncio.run(run())
