"""The pool over a cluster: the same answers to the bit, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import numpy as np
import pytest

from gradwire_core.engine import Output
from gradwire_core.errors import PoisonedTaskError
from gradwire_server.config import ServerConfig
from gradwire_server.frames import CHUNKED_BYTES, Kind
from gradwire_server.metrics import NoMetrics
from gradwire_server.pool import WorkerPool
from gradwire_server.sharding import Sharding
from tests.ray.filters import RAY_WARNINGS
from tests.server.requests import FOREVER, inverses, until
from tests.server.test_sharding import JACOBIAN, asked, heavy, limited, values

pytestmark = [pytest.mark.ray, *RAY_WARNINGS]
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as found:
        yield found


@pytest.fixture(scope="module")
def pool(nodes, runner):
    from gradwire_server.ray_pool import RayPool

    config = ServerConfig(
        pool="ray",
        ray_address=nodes.address,
        workers=2,
        spare_workers=1,
        worker_start_timeout_s=90,
        max_peak_bytes=LIMIT,
        max_shards=16,
    )
    found = RayPool(config, NoMetrics())
    runner.run(found.start())
    yield found
    runner.run(found.close())


PROGRAM, ARRAYS = heavy(700, 60)
OUTPUTS = (Output((JACOBIAN,)),)
LIMIT = limited(PROGRAM, OUTPUTS, 0.6).max_peak_bytes


def task():
    return asked(PROGRAM, OUTPUTS, ARRAYS)


async def answered(pool, given=None) -> np.ndarray:
    """The Jacobian, in shards."""
    found = await Sharding(pool, 2, NoMetrics()).run(given or task(), 2 * PATIENCE_S)
    return values(found)[0][0].copy()


@pytest.fixture(scope="module")
def expected():
    """What the pool of processes gives."""

    async def run():
        pool = WorkerPool(ServerConfig(workers=2, spare_workers=0, max_peak_bytes=LIMIT, max_shards=16), NoMetrics())
        await pool.start()
        try:
            return await answered(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


def at_work(pool):
    """The workers that are at shards."""
    return [worker for worker, run in pool._runs.items() if run.items[0].task.kind is Kind.EVALUATE_SHARD]


def test_shards_give_the_bits_that_processes_give(pool, runner, expected):
    np.testing.assert_array_equal(runner.run(answered(pool)), expected)
    assert len(pool.pids) == 2


def test_what_all_shards_are_given_is_put_into_the_store_once(pool, runner):
    given = task()
    (weights,) = given.segments
    assert len(weights) > CHUNKED_BYTES
    references = pool._source._references
    runner.run(answered(pool, given))
    assert weights in references
    before = references[weights]
    runner.run(answered(pool, given))
    assert references[weights] is before


def test_who_gives_up_ends_the_actor_and_a_spare_one_takes_its_place(pool, runner):
    async def scenario():
        forever = asked(inverses(FOREVER // 10), (Output(),), [2 * np.eye(300)])
        running = asyncio.create_task(pool.run(forever, PATIENCE_S))
        await until(lambda: pool._runs)
        (worker,) = pool._runs
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.wait_for(worker.wait(), PATIENCE_S)
        assert worker.was_stopped
        await until(lambda: len(pool.pids) == 2 and worker.pid not in pool.pids)

    runner.run(scenario())


def test_a_task_that_ends_two_actors_fails_alone(pool, runner, expected):
    async def scenario():
        running = asyncio.create_task(pool.run(asked(inverses(FOREVER // 10), (Output(),), [2 * np.eye(300)]), 4 * PATIENCE_S))
        alive = lambda: {worker.pid for worker in pool._runs if not worker.has_hung_up}  # one that ended before may be there still
        ended = set()
        for _ in range(2):
            await until(lambda: alive() - ended)
            (pid,) = alive() - ended
            ended.add(pid)
            os.kill(pid, signal.SIGKILL)  # a fault would first write a trace, for seconds, while its task goes on
        with pytest.raises(PoisonedTaskError):
            await running
        return await answered(pool)

    np.testing.assert_array_equal(runner.run(scenario()), expected)


def test_shards_on_a_node_that_is_killed_run_again_elsewhere(nodes, pool, runner, expected):
    async def scenario():
        running = asyncio.create_task(answered(pool))
        await until(lambda: any(worker._node != nodes.first for worker in at_work(pool)))
        worker = next(worker for worker in at_work(pool) if worker._node != nodes.first)
        await asyncio.to_thread(nodes.kill, worker._node)
        found = await running
        assert worker.pid not in pool.pids
        return found

    try:
        np.testing.assert_array_equal(runner.run(scenario()), expected)
    finally:
        with contextlib.suppress(Exception):
            nodes.add()
