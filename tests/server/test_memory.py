"""Memory that is asked for beyond what was allowed or predicted, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.rpc.status_pb2 import Status

from gradwire_core import errors
from gradwire_core.program import Program, Var
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.status import decode_status
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind
from gradwire_server.memory import count_kernel_kills
from gradwire_server.pool import WorkerPool
from gradwire_server.segments import copy_elements
from tests.server.requests import PATIENCE_S, X, equation, evaluation
from tests.server.test_pool import assert_works, with_pool
from tests.server.test_pool_segments import open_count

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process bound its own memory")

START = """
import numpy as np
from gradwire_server.memory import MemoryBound

def fits(size):
    try:
        np.ones(size, np.uint8)
    except MemoryError:
        return False
    return True
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", START + code], check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    return done.stdout.strip()


def wide(count: int) -> pb.EvaluateRequest:
    """The sum of the sines of `count` numbers, from three."""
    type = TensorType(Dtype.FLOAT64, (count, 3))
    x = Var(TensorType(Dtype.FLOAT64, (3,)))
    spread = equation("broadcast_to", (x,), type, shape=type.shape)
    sine = equation("sin", spread.results, type)
    squares = equation("cumsum", sine.results, type, axis=0, reverse=False)
    total = equation("sum", squares.results, TensorType(Dtype.FLOAT64, ()), axes=(0, 1))
    return evaluation(Program((x,), (spread, sine, squares, total), total.results), X)


def test_a_process_gets_what_it_may_take_and_no_more():
    code = "MemoryBound(300 * 2**20); print(fits(200 * 2**20), fits(400 * 2**20), fits(200 * 2**20))"
    assert run(code) == "True False True"


def test_a_block_gets_what_it_is_predicted_to_take_and_some_slack():
    code = """
bound = MemoryBound(4 * 2**30)
with bound.expecting(100 * 2**20, 0):
    print(fits(400 * 2**20), fits(600 * 2**20))
print(fits(600 * 2**20))
with bound.expecting(1000, 0):
    print(fits(600 * 2**20))
"""
    assert run(code).split() == ["True", "False", "True", "True"]


@with_pool(workers=1, spare_workers=0, worker_memory_bytes=256 * 2**20, queue_count=8)
async def test_a_task_that_needs_more_memory_than_its_worker_may_take_is_a_limit_and_the_worker_lives_on(pool: WorkerPool):
    before = pool.pids
    answer = await pool.run(Frame(Kind.EVALUATE, (b"wide", wide(20_000_000).SerializeToString())), PATIENCE_S)
    assert answer.kind is Kind.ERROR
    found = decode_status(Status.FromString(answer.parts[0]))
    assert isinstance(found, errors.LimitError)
    assert found.metadata["limit"] == "worker_memory_bytes"
    assert found.metadata["allowed"] == str(256 * 2**20)
    assert int(found.metadata["given"]) > 256 * 2**20
    await assert_works(pool)
    assert pool.pids == before


@with_pool(workers=1, spare_workers=0, worker_memory_bytes=256 * 2**20)
async def test_a_lack_of_memory_with_segments_leaves_nothing_open(pool: WorkerPool):
    (pid,) = pool.pids
    await assert_works(pool)
    request = wide(20_000_000)
    request.inputs[0].data = b""
    counts = []
    with copy_elements(X) as x:
        for _ in range(3):
            frame = Frame(Kind.EVALUATE_IN_CHUNKS, (b"wide", request.SerializeToString(), b"", x))
            answer = await pool.run(frame, PATIENCE_S)
            assert answer.kind is Kind.ERROR
            assert decode_status(Status.FromString(answer.parts[0])).metadata["limit"] == "worker_memory_bytes"
            counts.append((open_count(), open_count(pid)))
    assert counts[0] == counts[1] == counts[2]
    await assert_works(pool)
    assert pool.pids == [pid]


def test_the_bound_of_a_worker_leaves_room_for_all_it_may_hold():
    config = ServerConfig(max_peak_bytes=10**9)
    assert config.worker_memory_limit_bytes > 2 * 10**9 + config.executable_cache_bytes
    assert ServerConfig(worker_memory_bytes=10**8).worker_memory_limit_bytes == 10**8


def test_the_kernel_tells_how_often_it_killed():
    assert count_kernel_kills() >= 0


def test_a_server_may_have_as_many_descriptors_as_the_system_allows():
    code = (
        "import resource as r; from gradwire_server.memory import allow_descriptors as a;"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, r.getrlimit(r.RLIMIT_NOFILE)[1])); a(); print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    soft, hard = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert soft == (65536 if hard < 0 else min(hard, 65536))
