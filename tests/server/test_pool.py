"""The pool against everything that can happen to a worker or a task."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import pytest

from gradwire_core.errors import DeadlineError, OverloadedError, PoisonedTaskError, WorkerLostError
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server import pool as pool_module
from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.frames import Frame, Kind, Prediction, split_frame
from gradwire_server.metrics import NoMetrics
from gradwire_server.pool import WorkerPool
from gradwire_server.process import WorkerProcess
from tests.server.processes import is_alive
from tests.server.requests import FOREVER, PATIENCE_S, X, locking, product, quick, slow, until, value

QUICK = Frame(Kind.EVALUATE, (b"quick", quick().SerializeToString()))
SHORT = Frame(Kind.EVALUATE, (b"short", slow(30).SerializeToString()))
ENDLESS = Frame(Kind.EVALUATE, (b"endless", slow(FOREVER).SerializeToString()))

LOCKING = Frame(Kind.EVALUATE, (b"locking", locking().SerializeToString()))


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
        async def run(given: dict[str, object]) -> None:
            async with asyncio.timeout(2 * PATIENCE_S), started(**settings) as pool:
                await scenario(pool, **given)

        def test(**given: object) -> None:
            asyncio.run(run(given))

        test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
        test.pytestmark = getattr(scenario, "pytestmark", [])
        _, *others = inspect.signature(scenario).parameters.values()
        test.__signature__ = inspect.Signature(others)
        return test

    return decorate


def busy(pool: WorkerPool) -> list[int]:
    return [worker.pid for worker in pool._workers if worker not in pool._idle and not worker.was_stopped]


async def end_again_and_again(pool: WorkerPool, task: asyncio.Task[Frame], number: int, count: int) -> None:
    """Send a signal to the worker of the only task, and to the next that has it, so many times."""
    ended: set[int] = set()
    for _ in range(count):
        await until(lambda: set(busy(pool)) - ended or task.done())
        (pid,) = set(busy(pool)) - ended
        os.kill(pid, number)
        ended.add(pid)


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
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
async def test_a_task_that_ends_two_workers_fails_alone(pool, number):
    task = asyncio.create_task(pool.run(ENDLESS, PATIENCE_S))
    await end_again_and_again(pool, task, number, 2)
    with pytest.raises(PoisonedTaskError, match="needed a worker that survives it, got 2 that died"):
        await task
    await assert_works(pool)
    await until(lambda: len(pool.pids) == 2)


@with_pool(workers=2)
async def test_a_task_whose_workers_are_killed_from_outside_is_not_to_blame(pool):
    task = asyncio.create_task(pool.run(SHORT, PATIENCE_S))
    await end_again_and_again(pool, task, signal.SIGKILL, 4)
    assert (await task).kind is Kind.RESULT


@with_pool(workers=1, spare_workers=0)
async def test_a_task_whose_workers_the_kernel_kills_for_lack_of_memory_is_to_blame(pool):
    kills = itertools.count(pool._kernel_kills[0] + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "count_kernel_kills", lambda: next(kills))
        task = asyncio.create_task(pool.run(ENDLESS, PATIENCE_S))
        await end_again_and_again(pool, task, signal.SIGKILL, 2)
        with pytest.raises(PoisonedTaskError):
            await task


@with_pool(workers=1)
async def test_a_task_whose_workers_never_last_ends(pool):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "_LOSS_COUNT", 2)
        task = asyncio.create_task(pool.run(ENDLESS, PATIENCE_S))
        await end_again_and_again(pool, task, signal.SIGKILL, 2)
        with pytest.raises(WorkerLostError, match="got 2 that were killed from outside"):
            await task


@with_pool(workers=1)
async def test_a_suspended_worker_is_replaced_and_its_task_runs_again(pool):
    task = asyncio.create_task(pool.run(SHORT, PATIENCE_S))
    await until(lambda: busy(pool))
    suspended = busy(pool)[0]
    os.kill(suspended, signal.SIGSTOP)
    began_s = time.monotonic()
    await until(lambda: suspended not in pool.pids)
    assert time.monotonic() - began_s < 1.5
    assert (await task).kind is Kind.RESULT


@with_pool(workers=1)
async def test_a_worker_suspended_while_idle_costs_nobody_anything(pool):
    os.kill(pool.pids[0], signal.SIGSTOP)
    await assert_works(pool)


@with_pool(workers=1)
async def test_a_worker_that_computes_for_long_is_not_taken_for_a_suspended_one(pool):
    before = pool.pids
    with pytest.raises(DeadlineError):
        await pool.run(LOCKING, 1.5)  # all the while in one NumPy call
    await until(lambda: pool.pids and pool.pids != before)
    assert pool.suspended_count == 0


@with_pool(workers=1)
async def test_a_spare_worker_takes_the_place_of_one_that_was_stopped_at_once(pool):
    taken_s = []
    for _ in range(3):
        await until(lambda: pool.spare_pids)
        spares = pool.spare_pids
        task = asyncio.create_task(pool.run(ENDLESS, PATIENCE_S))
        await until(lambda: busy(pool))
        (stopped,) = busy(pool)
        began_s = time.monotonic()
        task.cancel()
        await until(lambda spares=spares: pool.pids == spares)
        taken_s.append(time.monotonic() - began_s)
        assert not is_alive(stopped)
        await assert_works(pool)
    assert min(taken_s) < 0.25


@with_pool(workers=1)
async def test_a_spare_worker_that_ends_is_replaced(pool):
    await until(lambda: pool.spare_pids)
    before, working = pool.spare_pids, pool.pids
    os.kill(before[0], signal.SIGKILL)
    await until(lambda: pool.spare_pids and pool.spare_pids != before)
    assert pool.pids == working


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


@with_pool(workers=1)
async def test_a_cancelled_task_that_is_over_in_a_moment_keeps_its_worker(pool, monkeypatch):
    monkeypatch.setattr(pool_module, "_STOP_AFTER_S", PATIENCE_S)  # however long a moment is here
    await warm_up(pool)
    before = pool.pids
    for _ in range(20):
        task = asyncio.create_task(pool.run(QUICK, PATIENCE_S))
        await until(lambda: busy(pool))
        task.cancel()
        await until(lambda: not busy(pool))
    await assert_works(pool)
    assert pool.pids == before


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


@with_pool(workers=1, max_queue_s=0.2)
async def test_more_predicted_work_than_may_wait_is_refused(pool):
    running = asyncio.create_task(pool.run(SHORT, PATIENCE_S))
    await until(lambda: busy(pool))
    waiting = [asyncio.create_task(pool.run(QUICK, PATIENCE_S, cost=Prediction(0.15, 1))) for _ in range(2)]
    await until(lambda: pool.queue_length == 2)
    with pytest.raises(OverloadedError, match=r"needed at most 0\.2 s of work waiting for each worker, got 0\.3 s") as refused:
        await pool.run(QUICK, PATIENCE_S, cost=Prediction(0.15, 1))
    assert float(refused.value.metadata["retry_after_s"]) >= 0.1
    ahead = asyncio.create_task(pool.run(QUICK, PATIENCE_S, cost=Prediction(0.0, 1)))  # which need not wait for the others
    assert {answer.kind for answer in await asyncio.gather(running, *waiting, ahead)} == {Kind.RESULT}
    await assert_works(pool)


@with_pool(workers=1, max_queue_s=0.2)
async def test_once_far_more_comes_than_is_done_what_waits_too_long_for_that_is_refused_too(pool):
    running = asyncio.create_task(pool.run(SHORT, PATIENCE_S))
    await until(lambda: busy(pool))
    waiting = [asyncio.create_task(pool.run(QUICK, PATIENCE_S, cost=Prediction(0.15, 1))) for _ in range(2)]
    await until(lambda: pool.queue_length == 2)
    refused = []
    while pool.queue_length == 2:
        with pytest.raises(OverloadedError) as found:
            await pool.run(QUICK, PATIENCE_S, cost=Prediction(0.15, 1))
        refused.append(found.value.metadata)
    assert [metadata.get("refused_for_s") for metadata in refused] == [*[None] * (len(refused) - 1), "0.003"]
    assert len(refused) >= 7  # 1 s of work
    with pytest.raises(OverloadedError, match=r"needed at most 0\.0375 s of work waiting for each worker, got 0\.15 s"):
        await waiting.pop()  # as that was not known when it came
    assert {answer.kind for answer in await asyncio.gather(running, *waiting)} == {Kind.RESULT}
    await assert_works(pool)


@with_pool(workers=2, max_queue_s=0.2)
async def test_in_a_flood_one_task_for_all_workers_may_wait(pool):
    cost = Prediction(0.09, 1)
    running = [asyncio.create_task(pool.run(SHORT, PATIENCE_S, cost=cost)) for _ in range(2)]
    await until(lambda: len(busy(pool)) == 2)
    waiting = [asyncio.create_task(pool.run(QUICK, PATIENCE_S, cost=cost)) for _ in range(5)]
    await until(lambda: pool.queue_length == 5)
    while pool.queue_length == 5:
        with pytest.raises(OverloadedError):
            await pool.run(QUICK, PATIENCE_S, cost=cost)
    assert pool.queue_length == 1
    with pytest.raises(OverloadedError, match=r"needed at most 0\.0225 s of work waiting for each worker, got 0\.045 s"):
        await pool.run(QUICK, PATIENCE_S, cost=cost)
    found = await asyncio.gather(*running, *waiting, return_exceptions=True)
    assert [isinstance(item, OverloadedError) for item in found] == [False] * 3 + [True] * 4


@with_pool(workers=2, max_queue_s=0.0)
async def test_one_task_for_each_worker_may_wait_in_any_case(pool):
    costs = [Prediction(0.05, 1)] * 4
    tasks = [asyncio.create_task(pool.run(SHORT, PATIENCE_S, cost=cost)) for cost in costs]
    await until(lambda: pool.queue_length == 2)
    with pytest.raises(OverloadedError, match=r"needed at most 0 s of work waiting for each worker, got 0\.05 s"):
        await pool.run(QUICK, PATIENCE_S, cost=Prediction(0.05, 1))
    assert {answer.kind for answer in await asyncio.gather(*tasks)} == {Kind.RESULT}


@with_pool(workers=1, max_queue_s=10.0)
async def test_a_task_that_would_wait_until_it_is_too_late_is_refused_at_once(pool):
    running = asyncio.create_task(pool.run(SHORT, PATIENCE_S))
    await until(lambda: busy(pool))
    waiting = asyncio.create_task(pool.run(QUICK, PATIENCE_S, cost=Prediction(3.0, 1)))
    await until(lambda: pool.queue_length == 1)
    with pytest.raises(OverloadedError, match=r"needed at most 1 s of work waiting for each worker, got 3 s"):
        await pool.run(QUICK, 5.0, cost=Prediction(4.0, 1))
    in_time = asyncio.create_task(pool.run(QUICK, PATIENCE_S, cost=Prediction(4.0, 1)))
    assert {answer.kind for answer in await asyncio.gather(running, waiting, in_time)} == {Kind.RESULT}


@with_pool(workers=1, max_pool_bytes=1000)
async def test_more_predicted_bytes_than_may_be_taken_are_refused(pool):
    running = asyncio.create_task(pool.run(SHORT, PATIENCE_S, cost=Prediction(0.0, 5000)))
    await until(lambda: busy(pool))
    with pytest.raises(OverloadedError, match="needed at most 1000 predicted bytes in all, got 5001"):
        await pool.run(QUICK, PATIENCE_S, cost=Prediction(0.0, 1))
    await running
    await assert_works(pool)


@with_pool(workers=2)
async def test_one_of_several_workers_is_kept_for_short_tasks_while_such_come(pool):
    await assert_works(pool)
    tasks = [asyncio.create_task(pool.run(SHORT, PATIENCE_S, cost=Prediction(10.0, 1))) for _ in range(2)]
    await until(lambda: pool.queue_length == 1)
    assert len(busy(pool)) == 1
    await assert_works(pool)
    assert {answer.kind for answer in await asyncio.gather(*tasks)} == {Kind.RESULT}


@with_pool(workers=2, max_queue_s=1.0)
async def test_long_tasks_that_no_worker_is_free_for_are_refused_though_one_is_idle(pool):
    await assert_works(pool)
    tasks = [asyncio.create_task(pool.run(SHORT, PATIENCE_S, cost=Prediction(10.0, 1))) for _ in range(3)]
    await until(lambda: pool.queue_length == 2)
    with pytest.raises(OverloadedError, match=r"needed at most 1 s of work waiting for each worker, got 10 s"):
        await pool.run(SHORT, PATIENCE_S, cost=Prediction(10.0, 1))
    await assert_works(pool)
    assert {answer.kind for answer in await asyncio.gather(*tasks)} == {Kind.RESULT}


@with_pool(workers=2)
async def test_long_tasks_alone_have_all_workers(pool):
    tasks = [asyncio.create_task(pool.run(SHORT, PATIENCE_S, cost=Prediction(10.0, 1))) for _ in range(2)]
    await until(lambda: len(busy(pool)) == 2)
    await asyncio.gather(*tasks)


def numbered(number: float) -> Frame:
    """One of many tasks that are alike in all but their numbers."""
    request = pb.EvaluateRequest(program_name="programs/" + product().digest, outputs=[pb.Output()])
    request.inputs.append(encode_tensor(np.full(3, float(number))))
    return Frame(Kind.EVALUATE, (b"%g" % number, request.SerializeToString()))


async def warm_up(pool: WorkerPool) -> None:
    """Have a worker hold the program of numbered tasks, and the pool know that several can go together."""
    await pool.run(QUICK, PATIENCE_S)
    for number in range(2):
        assert (await pool.run(numbered(number), PATIENCE_S)).kind is Kind.RESULT


@contextmanager
def intercepted(pool: WorkerPool, before: Callable[[WorkerProcess, Frame], object]) -> Iterator[None]:
    """Have something done before a frame is sent to a worker."""
    ask = WorkerProcess.ask

    def ask_then(worker, task, listener):
        before(worker, task)
        ask(worker, task, listener)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkerProcess, "ask", ask_then)
        yield


async def queue_up(pool: WorkerPool, *tasks: Frame) -> list[asyncio.Task[Frame]]:
    """Have tasks wait behind another one."""
    first = asyncio.create_task(pool.run(QUICK, PATIENCE_S))
    found = [asyncio.create_task(pool.run(task, PATIENCE_S)) for task in tasks]
    await asyncio.sleep(0)
    assert pool.queue_length == len(tasks)
    assert not first.done()
    return found


def assert_is(answer: Frame, number: float) -> None:
    response = pb.EvaluateResponse.FromString(bytes(answer.parts[1]))
    np.testing.assert_allclose(value(response), np.sin(number) * np.full(3, number), rtol=1e-14)


@with_pool(workers=1, spare_workers=0)
async def test_tasks_that_are_alike_and_wait_go_together(pool):
    await warm_up(pool)
    sent = []
    with intercepted(pool, lambda _, task: sent.append(len(split_frame(task)) if task.kind is Kind.BATCH else 1)):
        tasks = await queue_up(pool, *map(numbered, range(5)), QUICK)
        for number, task in enumerate(tasks[:5]):
            assert_is(await task, number)
        assert (await tasks[5]).kind is Kind.RESULT
    assert sorted(sent) == [1, 1, 5]


@contextmanager
def all_brief(pool: WorkerPool) -> Iterator[list[int]]:
    """Have all tasks that can go together count as brief; give the numbers of tasks that are sent together."""
    sent: list[int] = []
    with (
        pytest.MonkeyPatch.context() as patch,
        intercepted(pool, lambda _, task: sent.append(len(split_frame(task)) if task.kind is Kind.BATCH else 1)),
    ):
        patch.setattr(pool_module, "_BRIEF_S", 100.0)
        yield sent


@with_pool(workers=2, spare_workers=0)
async def test_brief_tasks_that_come_in_one_turn_go_together_though_other_workers_are_idle(pool):
    await warm_up(pool)
    with all_brief(pool) as sent:
        answers = await asyncio.gather(*(pool.run(numbered(number), PATIENCE_S) for number in range(4)))
        for number, answer in enumerate(answers):
            assert_is(answer, number)
        assert_is(await pool.run(numbered(7), PATIENCE_S), 7)
    assert sent == [4, 1]


@with_pool(workers=2, spare_workers=0)
async def test_tasks_that_take_longer_are_sent_at_once_to_workers_that_are_idle(pool):
    await warm_up(pool)
    with pytest.MonkeyPatch.context() as patch, all_brief(pool) as sent:
        patch.setattr(pool_module, "_BRIEF_S", 0.0)
        await asyncio.gather(*(pool.run(numbered(number), PATIENCE_S) for number in range(2)))
    assert sent[:2] == [1, 1]


@with_pool(workers=1, spare_workers=0, max_batch_count=2, queue_count=2)
async def test_tasks_that_are_about_to_be_sent_count_on_no_worker_twice(pool):
    await warm_up(pool)
    with all_brief(pool) as sent:
        found = await asyncio.gather(*(pool.run(numbered(number), PATIENCE_S) for number in range(5)), return_exceptions=True)
        assert [isinstance(answer, OverloadedError) for answer in found] == [False] * 4 + [True]
        tasks = [pool.run(task, PATIENCE_S) for task in (numbered(1), QUICK, QUICK, QUICK)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(answer, OverloadedError) for answer in found] == [False] * 3 + [True]
    assert sent == [2, 2, 1, 1, 1]


@with_pool(workers=1, spare_workers=0)
async def test_a_task_given_up_before_it_is_sent_is_not_sent(pool):
    await warm_up(pool)
    with all_brief(pool) as sent:
        task = asyncio.create_task(pool.run(numbered(1), PATIENCE_S))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert sent in ([], [1]), "it may have been on its way"
        assert_is(await pool.run(numbered(2), PATIENCE_S), 2)
    assert pool.queue_length == 0


@with_pool(workers=1, spare_workers=0, max_batch_count=2)
async def test_no_more_go_together_than_may(pool):
    await warm_up(pool)
    sent = []
    with intercepted(pool, lambda _, task: sent.append(task.kind)):
        await asyncio.gather(*await queue_up(pool, *map(numbered, range(5))))
    assert sent.count(Kind.BATCH) == 2
    assert len(sent) == 4


@with_pool(workers=1, spare_workers=0)
async def test_one_of_several_that_is_cancelled_or_late_does_not_disturb_the_others(pool):
    await warm_up(pool)
    before = pool.pids
    tasks: list[asyncio.Task[Frame]] = []

    def cancel(_worker: WorkerProcess, task: Frame) -> None:
        if task.kind is Kind.BATCH:
            tasks[1].cancel()

    with intercepted(pool, cancel):
        tasks += await queue_up(pool, *map(numbered, range(4)))
        await asyncio.wait(tasks)
    assert tasks[1].cancelled()
    for number in (0, 2, 3):
        assert_is(tasks[number].result(), number)
    assert pool.pids == before


@with_pool(workers=1)
async def test_when_all_of_several_are_cancelled_their_worker_is_stopped(pool):
    await warm_up(pool)
    (before,) = pool.pids
    tasks: list[asyncio.Task[Frame]] = []

    def suspend(worker: WorkerProcess, task: Frame) -> None:
        if task.kind is Kind.BATCH:
            os.kill(worker.pid, signal.SIGSTOP)
            for item in tasks:
                item.cancel()

    with intercepted(pool, suspend):
        tasks += await queue_up(pool, *map(numbered, range(4)))
        await asyncio.wait(tasks)
    await until(lambda: pool.pids and before not in pool.pids)
    assert pool.suspended_count == 0


@with_pool(workers=1, spare_workers=0)
async def test_of_several_that_end_a_worker_the_guilty_one_alone_is_blamed(pool):
    await warm_up(pool)
    ended = []

    def end(worker: WorkerProcess, task: Frame) -> None:
        members = split_frame(task) if task.kind is Kind.BATCH else [task]
        if any(member.parts[0] == b"2" for member in members):
            ended.append(len(members))
            os.kill(worker.pid, signal.SIGABRT)

    with intercepted(pool, end):
        tasks = await queue_up(pool, *map(numbered, range(4)))
        await asyncio.wait(tasks)
    assert ended == [4, 1, 1]
    with pytest.raises(PoisonedTaskError, match="got 2 that died"):
        tasks[2].result()
    for number in (0, 1, 3):
        answer = tasks[number].result()
        assert answer.kind is Kind.MISSING  # the new worker does not hold the program
    await assert_works(pool)
