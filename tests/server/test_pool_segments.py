"""Segments through the pool: whatever ends a worker or a call, and whenever, no descriptor is left open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import numpy as np
import pytest

from gradwire_core.errors import PoisonedTaskError
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.program import encode_program
from gradwire_proto.tensor import encode_head
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.frames import CHUNKED_BYTES, Frame, Kind
from gradwire_server.pool import WorkerPool
from gradwire_server.process import WorkerProcess
from gradwire_server.segments import Segment, copy_elements
from tests.server.descriptors import open_count
from tests.server.requests import PATIENCE_S, product, until
from tests.server.test_pool import assert_works, with_pool

X = np.linspace(0.0, 1.0, CHUNKED_BYTES // 4)


def task(segment: Segment) -> Frame:
    type = TensorType(Dtype.FLOAT64, X.shape)
    request = pb.EvaluateRequest(program=encode_program(product(type)), inputs=[encode_head(X)], outputs=[{}, {}])
    return Frame(Kind.EVALUATE_IN_CHUNKS, (b"id", request.SerializeToString(), b"", segment))


def assert_is_right(answer: Frame) -> None:
    assert answer.kind is Kind.RESULT
    found = list(answer.segments)
    assert len(found) == 2
    for segment in found:
        np.testing.assert_array_equal(np.frombuffer(segment.buffer), np.sin(X) * X)
    answer.close()


@with_pool(workers=1, spare_workers=0)
async def test_tasks_that_are_answered_leave_nothing_open(pool: WorkerPool):
    with copy_elements(X) as x:
        assert_is_right(await pool.run(task(x), PATIENCE_S))
        (pid,) = pool.pids
        before, theirs = open_count(), open_count(pid)
        for _ in range(20):
            assert_is_right(await pool.run(task(x), PATIENCE_S))
        assert (open_count(), open_count(pid)) == (before, theirs)
        assert x.descriptor >= 0


@with_pool(workers=1, spare_workers=0)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_that_ends_at_any_moment_leaves_nothing_open_and_its_task_runs_again(pool: WorkerPool, number):
    with copy_elements(X) as x:
        assert_is_right(await pool.run(task(x), PATIENCE_S))
        before = open_count()
        for moment in range(3):
            running = asyncio.create_task(pool.run(task(x), PATIENCE_S))
            for _ in range(moment):
                await asyncio.sleep(0.002 * moment)
            await until(lambda: pool.pids)
            os.kill(pool.pids[0], number)
            assert_is_right(await running)
        await until(lambda: open_count() == before)


@with_pool(workers=1, spare_workers=0)
async def test_calls_cancelled_at_any_moment_leave_nothing_open(pool: WorkerPool):
    with copy_elements(X) as x:
        assert_is_right(await pool.run(task(x), PATIENCE_S))
        before = open_count()
        for moment in range(4):
            running = asyncio.create_task(pool.run(task(x), PATIENCE_S))
            await asyncio.sleep(0.004 * moment)
            running.cancel()
            await asyncio.wait([running])
            if not running.cancelled():
                running.result().close()
            del running
            await assert_works(pool)
        await until(lambda: open_count() == before)


@with_pool(workers=1, spare_workers=0)
async def test_a_task_with_segments_that_ends_two_workers_fails_alone(pool: WorkerPool):
    ask = WorkerProcess.ask

    def end(worker, frame, listener):
        if frame.kind is Kind.EVALUATE_IN_CHUNKS:
            os.kill(worker.pid, signal.SIGABRT)
        ask(worker, frame, listener)

    before = open_count()
    with copy_elements(X) as x, pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkerProcess, "ask", end)
        with pytest.raises(PoisonedTaskError):
            await pool.run(task(x), PATIENCE_S)
        assert x.descriptor >= 0
    del x
    await assert_works(pool)
    await until(lambda: open_count() == before)


@with_pool(workers=2, spare_workers=0)
async def test_a_worker_that_is_killed_while_it_writes_to_memory_that_was_used_before_spoils_no_answer(pool: WorkerPool):
    with copy_elements(X) as x, copy_elements(0.0 * X) as one, copy_elements(0.0 * X) as other:
        given = task(x)
        again = Frame(given.kind, (*given.parts, one, other))
        for moment in range(8):
            running = asyncio.create_task(pool.run(again, PATIENCE_S))
            await asyncio.sleep(0.001 * moment)
            with contextlib.suppress(ProcessLookupError):  # the last one to be killed may not be missed yet
                if pool.pids:
                    os.kill(pool.pids[moment % len(pool.pids)], signal.SIGKILL)
            answer = await running
            assert {segment.mark for segment in answer.segments} == {one.mark, other.mark}
            assert_is_right(answer)
            one.buffer[:] = other.buffer[:] = bytes(X.nbytes)
