"""Evaluations in shards by workers: joined they are what one worker answers, whatever happens to workers meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

import gradwire as gw
from gradwire_core import engine
from gradwire_core.builder import Builder
from gradwire_core.engine import Output
from gradwire_core.errors import DeadlineError, LimitError, OverloadedError, PoisonedTaskError
from gradwire_core.program import Program
from gradwire_core.transforms import Transform
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.evaluation import decode_result, encode_output
from gradwire_proto.program import encode_program
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import decode_tensor, encode_head, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.frames import CHUNKED_BYTES, Frame, Kind
from gradwire_server.metrics import NoMetrics
from gradwire_server.pool import WorkerPool
from gradwire_server.segments import Segment, copy_elements
from gradwire_server.sharding import Sharding
from gradwire_server.shards import Outline
from gradwire_server.worker import Worker
from tests.core.strategies import examples, programs
from tests.server.processes import serving
from tests.server.requests import PATIENCE_S, until

JACOBIAN = Transform("jacobian")


class OneWorker:
    """A pool whose only worker is in this process."""

    def __init__(self, config: ServerConfig) -> None:
        self.worker = Worker(config)
        self.tasks: list[Frame] = []

    async def run(self, task, timeout_s, *, key=None, cost=None):
        self.tasks.append(task)
        return self.worker.answer(task)


def traced(function, *shapes: tuple[int, ...]) -> Program:
    builder = Builder()
    return builder.build([function(*[builder.input(TensorType(Dtype.FLOAT64, shape)) for shape in shapes])])


def mixing(count: int) -> Program:
    """A function of a dense Jacobian."""
    weights = np.random.default_rng(3).normal(size=(count, count)) / count
    return traced(lambda x: np.tanh(weights @ np.sin(weights @ x)), (count,))


def asked(program: Program, outputs, arrays, *, kind=Kind.EVALUATE_IN_CHUNKS) -> Frame:
    """A task, in which arrays of more than CHUNKED_BYTES are apart."""
    is_large = [array.nbytes > CHUNKED_BYTES and kind is Kind.EVALUATE_IN_CHUNKS for array in arrays]
    inputs = [encode_head(array) if large else encode_tensor(array) for array, large in zip(arrays, is_large, strict=True)]
    request = pb.EvaluateRequest(program=encode_program(program), inputs=inputs, outputs=map(encode_output, outputs))
    segments = [copy_elements(array) for array, large in zip(arrays, is_large, strict=True) if large]
    return Frame(kind, (b"id", request.SerializeToString(), *([b"", *segments] if segments else [])))


def values(answer: Frame) -> list[list]:
    """The results of an answer."""
    if answer.kind is Kind.ERROR:
        raise decode_status(Status.FromString(bytes(answer.parts[0])))
    assert answer.kind is Kind.RESULT
    segments = answer.segments

    def read(tensor, where):
        return decode_tensor(tensor, where, None if tensor.data or 0 in tensor.shape else next(segments).buffer)

    response = pb.EvaluateResponse.FromString(bytes(answer.parts[1]))
    return [[decode_result(item, read=read) for item in output.results] for output in response.results]


def limited(program: Program, outputs, share: float, **settings) -> ServerConfig:
    """Settings under which a worker may take a share of the memory of an evaluation."""
    peak = engine.compile(program, outputs).plan.peak_bytes
    return ServerConfig(max_peak_bytes=max(1, int(peak * share)), max_shards=16, **settings)


def ask(config: ServerConfig, task: Frame) -> tuple[Frame, OneWorker]:
    pool = OneWorker(config)
    return asyncio.run(Sharding(pool, 2, NoMetrics()).run(task, PATIENCE_S)), pool


def shard_count(pool: OneWorker) -> int:
    return len({bytes(task.parts[1]) for task in pool.tasks if task.kind is Kind.EVALUATE_SHARD})


@examples(30)
@given(programs(), st.sampled_from([0.7, 0.4]), st.booleans())
def test_what_is_joined_is_what_one_worker_answers(case, share, is_batched):
    arrays, outputs = case.arrays, (Output((Transform("jacobian", case.argnums),)), Output())
    if is_batched:
        arrays = [np.stack([array * (1 + 0.1 * item) for item in range(5)]) for array in arrays]
        vmap = Transform("vmap", in_axes=(0,) * len(arrays), axis_size=5)
        outputs = tuple(Output((*output.transforms, vmap)) for output in outputs)
    expected = engine.compile(case.program, outputs).run(arrays)
    answer, _ = ask(limited(case.program, outputs, share), asked(case.program, outputs, arrays, kind=Kind.EVALUATE))
    if answer.kind is Kind.ERROR:
        with pytest.raises(LimitError):  # where nothing can be cut
            values(answer)
        return
    for ours, theirs in zip(values(answer), expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_an_answer_in_shards_looks_as_any_other():
    program, outputs, x = mixing(300), (Output(), Output((JACOBIAN,))), np.linspace(-1, 1, 300)
    task = asked(program, outputs, [x], kind=Kind.EVALUATE)
    answer, pool = ask(limited(program, outputs, 0.4), task)
    whole = Worker(ServerConfig()).answer(task)
    assert shard_count(pool) >= 3
    assert answer.parts[0] == whole.parts[0]
    assert answer.parts[2:] == whole.parts[2:]
    for ours, theirs in zip(values(answer), values(whole), strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12, atol=1e-14)


def test_large_arrays_are_passed_on_whole_or_sliced_and_come_back_apart():
    program, rng = traced(lambda x, w: np.tanh(w @ np.sin(x)), (200,), (400, 200)), np.random.default_rng(2)
    arrays = [rng.normal(size=(2000, 200)), rng.normal(size=(400, 200))]
    assert arrays[1].nbytes < CHUNKED_BYTES < arrays[0].nbytes
    outputs = (Output((Transform("vmap", in_axes=(0, None), axis_size=2000),)),)
    task = asked(program, outputs, arrays)
    answer, pool = ask(limited(program, outputs, 0.4), task)
    assert len(list(answer.segments)) == 1
    np.testing.assert_allclose(values(answer)[0][0], np.tanh(np.sin(arrays[0]) @ arrays[1].T), rtol=1e-12)
    sizes = [sum(map(len, item.segments)) for item in pool.tasks if item.kind is Kind.EVALUATE_SHARD]
    assert max(sizes) < 0.4 * arrays[0].nbytes


def test_an_array_that_all_shards_need_is_the_same_segment_for_all():
    program = traced(lambda x, w: np.cumsum(np.sin(w @ x)), (400,), (400, 400))
    rng = np.random.default_rng(2)
    arrays = [rng.normal(size=400), rng.normal(size=(400, 400))]
    task = asked(program, (Output((JACOBIAN,)),), arrays)
    answer, pool = ask(limited(program, (Output((JACOBIAN,)),), 0.8), task)
    expected = np.cumsum(np.cos(arrays[1] @ arrays[0])[:, None] * arrays[1], axis=0)
    np.testing.assert_allclose(values(answer)[0][0], expected, rtol=1e-9, atol=1e-12)
    (given_,) = task.segments
    shards = [item for item in pool.tasks if item.kind is Kind.EVALUATE_SHARD]
    assert len(shards) >= 2
    assert all(segment is given_ for item in shards for segment in item.segments)


def test_a_split_is_found_once_and_its_programs_are_sent_once():
    program, outputs, x = mixing(200), (Output((JACOBIAN,)),), np.ones(200)
    pool = OneWorker(limited(program, outputs, 0.4))
    sharding = Sharding(pool, 1, NoMetrics())
    first = asyncio.run(sharding.run(asked(program, outputs, [x]), PATIENCE_S))
    count, misses = shard_count(pool), pool.worker._executables.misses
    second = asyncio.run(sharding.run(asked(program, outputs, [x]), PATIENCE_S))
    assert shard_count(pool) == count
    assert pool.worker._executables.misses == misses
    np.testing.assert_array_equal(values(first)[0][0], values(second)[0][0])


def test_results_that_are_too_many_are_refused_before_anything_runs():
    program = traced(lambda x: np.cumsum(np.sin(np.cumsum(x))), (200,))
    outputs, x = (Output((JACOBIAN,)),), np.ones(200)
    for kind, setting, limit in (
        (Kind.EVALUATE, "max_message_bytes", "message_bytes"),
        (Kind.EVALUATE_IN_CHUNKS, "chunked_bytes", "chunked_bytes"),
    ):
        answer, pool = ask(limited(program, outputs, 0.4, **{setting: 300_000}), asked(program, outputs, [x], kind=kind))
        with pytest.raises(LimitError) as caught:
            values(answer)
        assert caught.value.metadata["limit"] == limit
        assert len(pool.tasks) == 1


def test_nothing_is_split_unless_it_may_be():
    program, outputs, x = mixing(200), (Output((JACOBIAN,)),), np.ones(200)
    peak = engine.compile(program, outputs).plan.peak_bytes
    for settings in ({}, {"max_shards": 2}):
        answer, pool = ask(ServerConfig(max_peak_bytes=peak // 5, **settings), asked(program, outputs, [x]))
        with pytest.raises(LimitError) as caught:
            values(answer)
        assert caught.value.metadata["limit"] == "peak_bytes"
        assert len(pool.tasks) == 1


def test_outlines_are_told_as_json():
    program, outputs = mixing(400), (Output((JACOBIAN,)), Output())
    answer = Worker(limited(program, outputs, 0.4)).answer(asked(program, outputs, [np.ones(400)]))
    assert answer.kind is Kind.SPLIT
    told = bytes(answer.parts[3])
    assert Outline.from_json(told).to_json() == told


def test_a_shard_that_waits_for_a_place_is_not_refused():
    program, outputs, x = mixing(200), (Output((JACOBIAN,)),), np.ones(200)

    class Full(OneWorker):
        refused = 0

        async def run(self, task, timeout_s, *, key=None, cost=None):
            if len(self.tasks) > 2 and self.refused < 2:
                self.refused += 1
                raise OverloadedError("full", retry_after_s="0")
            return await super().run(task, timeout_s)

    pool = Full(limited(program, outputs, 0.4))
    answer = asyncio.run(Sharding(pool, 1, NoMetrics()).run(asked(program, outputs, [x]), PATIENCE_S))
    assert pool.refused == 2
    assert values(answer)[0][0].shape == (200, 200)


# -- workers in processes ----------------------------------------------------------------------------------------------------


def run_with_pool(config: ServerConfig, scenario):
    async def run():
        pool = WorkerPool(config, NoMetrics())
        await pool.start()
        try:
            async with asyncio.timeout(2 * PATIENCE_S):
                return await scenario(pool, Sharding(pool, config.workers, NoMetrics()))
        finally:
            await pool.close()

    return asyncio.run(run())


def heavy(count: int, rounds: int) -> tuple[Program, list[np.ndarray]]:
    """A function of a dense Jacobian that takes long, and its inputs."""

    def function(x, weights):
        for _ in range(rounds):
            x = np.tanh(weights @ x)
        return x

    weights = np.random.default_rng(3).normal(size=(count, count)) / count**0.5
    return traced(function, (count,), (count, count)), [np.linspace(-1, 1, count), weights]


def shards_running(pool: WorkerPool, *, with_program: bool = False) -> list[int]:
    tasks = ((worker.pid, run.items[0].task) for worker, run in pool._runs.items())
    return [pid for pid, task in tasks if task.kind is Kind.EVALUATE_SHARD and (task.parts[2] or not with_program)]


def test_workers_in_processes_give_the_same_bits():
    program, outputs, x = mixing(400), (Output((JACOBIAN,)),), np.linspace(-1, 1, 400)
    config = limited(program, outputs, 0.3, workers=2)

    async def scenario(pool, sharding):
        return values(await sharding.run(asked(program, outputs, [x]), PATIENCE_S))[0][0].copy()

    here, _ = ask(config, asked(program, outputs, [x]))
    np.testing.assert_array_equal(run_with_pool(config, scenario), values(here)[0][0])


def test_a_shard_whose_worker_is_killed_runs_again():
    (program, arrays), outputs = heavy(400, 60), (Output((JACOBIAN,)),)
    config = limited(program, outputs, 0.6, workers=2)

    async def scenario(pool, sharding):
        running = asyncio.create_task(sharding.run(asked(program, outputs, arrays), 2 * PATIENCE_S))
        await until(lambda: shards_running(pool))
        os.kill(shards_running(pool)[0], signal.SIGKILL)
        return values(await running)[0][0].copy()

    here, _ = ask(config, asked(program, outputs, arrays))
    np.testing.assert_array_equal(run_with_pool(config, scenario), values(here)[0][0])


def test_a_shard_that_ends_two_workers_is_the_end_of_the_request_alone():
    (program, arrays), outputs = heavy(700, 100), (Output((JACOBIAN,)),)
    config = limited(program, outputs, 0.6, workers=2)

    async def scenario(pool, sharding):
        running = asyncio.create_task(sharding.run(asked(program, outputs, arrays), 2 * PATIENCE_S))
        ended: set[int] = set()
        await until(lambda: shards_running(pool, with_program=True))
        (shard,) = {run.items[0].task.parts[1] for run in pool._runs.values() if run.items[0].task.parts[2]}
        for _ in range(2):
            await until(lambda: set(at_shard(pool, shard)) - ended)
            (pid,) = set(at_shard(pool, shard)) - ended
            os.kill(pid, signal.SIGSEGV)
            ended.add(pid)
        with pytest.raises(PoisonedTaskError):
            await running
        return values(await pool.run(asked(*other), PATIENCE_S))[0][0]

    other = mixing(10), (Output(),), [np.ones(10)]
    np.testing.assert_array_equal(run_with_pool(config, scenario), values(Worker(ServerConfig()).answer(asked(*other)))[0][0])


def at_shard(pool: WorkerPool, shard: bytes) -> list[int]:
    return [worker.pid for worker, run in pool._runs.items() if run.items[0].task.parts[1] == shard]


def test_who_gives_up_ends_all_shards():
    (program, arrays), outputs = heavy(700, 100), (Output((JACOBIAN,)),)
    config = limited(program, outputs, 0.6, workers=2)

    async def scenario(pool, sharding):
        running = asyncio.create_task(sharding.run(asked(program, outputs, arrays), 2 * PATIENCE_S))
        await until(lambda: shards_running(pool, with_program=True))  # another is soon told to send it
        ended = shards_running(pool, with_program=True)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await until(lambda: not set(ended) & set(pool.pids) and not shards_running(pool))
        with pytest.raises(DeadlineError):
            await sharding.run(asked(program, outputs, arrays), 0.0)
        return pool.queue_length

    assert run_with_pool(config, scenario) == 0


@pytest.mark.parametrize("front_ends", ["1", "2"])
def test_the_sdk_is_answered_what_is_larger_than_a_worker(front_ends):
    def f(x, w):
        return np.tanh(w @ np.sin(w @ x))

    rng = np.random.default_rng(1)
    x, w = rng.normal(size=500), rng.normal(size=(500, 500)) / 500
    settings = ("--max-peak-bytes", "6000000", "--max-shards", "8", "--front-ends", front_ends)
    with serving(*settings) as server, gw.connect(server.address) as client:
        np.testing.assert_allclose(client.jacobian(f)(x, w), gw.jacobian(f)(x, w), rtol=1e-10, atol=1e-13)
        g = gw.jacobian(lambda x: np.sin(x) * np.cumsum(x))
        batch = rng.normal(size=(200, 60))
        np.testing.assert_allclose(client.vmap(g)(batch), gw.vmap(g)(batch), rtol=1e-10, atol=1e-13)
        with pytest.raises(LimitError, match="predicted bytes"):
            client.jacobian(lambda x: np.tanh(np.ones((3000, 500)) @ np.cumsum(x)))(x)


def test_segments_over_other_memory_are_read_in_place():
    memory = np.arange(10, dtype=np.uint8)
    with Segment.over(memoryview(memory)) as segment:
        assert np.shares_memory(np.asarray(segment.buffer), memory)
        assert len(segment) == 10


# -- where workers run -------------------------------------------------------------------------------------------------------


def test_ray_is_not_imported_unless_it_is_chosen():
    code = "import sys, gradwire_server.server, gradwire_server.keeper, gradwire_server.ray_worker; print('ray' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("False\n", "")


@pytest.mark.parametrize("settings", [{"pool": "dask"}, {"ray_address": "here"}, {"max_shards": 0}])
def test_where_workers_run_is_checked(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ServerConfig(**settings)
