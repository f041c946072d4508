"""Threads that share the blocks of a cluster: the bits of one thread, errors that arrive, and helpers that outlive nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings

import numpy as np
import pytest

from gradwire_core.executor import Executor
from gradwire_core.kernels import blocks, cluster
from gradwire_core.kernels.blocks import Blocks
from gradwire_core.kernels.cluster import find_clusters
from gradwire_core.kernels.expressions import TEMPLATES
from gradwire_core.kernels.team import Team
from gradwire_core.planner import plan
from gradwire_core.types import Dtype, TensorType
from tests.core.test_clusters import clusters, elementwise, mixed
from tests.core.test_executor import floats, same_bits, trace

PATIENCE_S = 60.0


@pytest.fixture
def is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make clusters of small arrays, in short blocks."""
    monkeypatch.setattr(cluster, "LEAST_BYTES", 0)
    monkeypatch.setattr(cluster, "LEAST_SHARE", 1)
    monkeypatch.setattr(blocks, "LENGTH", 8)


# -- a team --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_results_stand_in_order(count: int) -> None:
    team = Team(3)
    for _ in range(20):
        assert team.run(lambda number: number * number, count) == [number * number for number in range(count)]


def test_pieces_run_on_several_threads() -> None:
    together = threading.Barrier(3, timeout=PATIENCE_S)

    def work(_: int) -> int:
        together.wait()  # all three are here at a time
        return threading.get_ident()

    assert len(set(Team(3).run(work, 3))) == 3


def test_no_more_threads_than_wanted() -> None:
    team = Team(4)
    assert set(team.run(lambda _: threading.get_ident(), 50, 1)) == {threading.get_ident()}
    assert len(set(team.run(lambda _: threading.get_ident(), 50, 2))) <= 2


def test_an_error_arrives_and_ends_the_job() -> None:
    team, done = Team(2), []

    def work(number: int) -> None:
        if number == 5:
            raise ArithmeticError(number)
        done.append(number)

    for _ in range(20):
        done.clear()
        with pytest.raises(ArithmeticError, match="5"):
            team.run(work, 10_000)
        assert len(done) < 10_000
    assert team.run(lambda number: number, 3) == [0, 1, 2]


def test_an_error_in_a_helper_is_raised_where_the_job_was_given() -> None:
    caller, helping = threading.get_ident(), threading.Event()

    def work(_: int) -> None:
        if threading.get_ident() != caller:
            helping.set()
            raise MemoryError("helper")
        assert helping.wait(PATIENCE_S)

    with pytest.raises(MemoryError, match="helper"):
        Team(2).run(work, 2)


def test_a_job_does_not_wait_for_helpers_that_are_busy() -> None:
    team, let_go, held = Team(2), threading.Event(), threading.Barrier(3, timeout=PATIENCE_S)

    def hold(_: int) -> None:
        held.wait()
        let_go.wait(PATIENCE_S)

    other = threading.Thread(target=team.run, args=(hold, 2))
    other.start()
    held.wait()  # the other caller, and the only helper, are at work
    try:
        assert team.run(lambda number: number, 4) == [0, 1, 2, 3]
    finally:
        let_go.set()
        other.join()


def test_a_job_may_give_jobs() -> None:
    team = Team(2)
    assert team.run(lambda one: sum(team.run(lambda other: one * other, 4)), 4) == [0, 6, 12, 18]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_child_has_helpers_of_its_own() -> None:
    team = Team(2)
    team.run(lambda number: number, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        child = os.fork()
    if not child:
        together = threading.Barrier(2, timeout=PATIENCE_S)
        signal.alarm(int(PATIENCE_S))
        os._exit(0 if len(set(team.run(lambda _: together.wait(), 2))) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- blocks --------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("is_small")
@pytest.mark.parametrize("given", [(), TEMPLATES])
@pytest.mark.parametrize("dtype", [Dtype.FLOAT64, Dtype.FLOAT32])
@pytest.mark.parametrize("shape", [(7,), (8,), (41,), (1000,), (3, 50), (40, 3, 5)])
def test_threads_change_no_bit_but_of_sums_which_repeat(shape: tuple[int, ...], dtype: Dtype, given) -> None:
    (body,) = clusters(trace(mixed, *[TensorType(dtype, shape)] * 2, TensorType(dtype, ())))
    rng = np.random.default_rng(0)
    team = Team(3)
    one, two, three = Blocks(body, given=given), Blocks(body, team, 2, given), Blocks(body, team, given=given)
    for order in "CFCF":
        arrays = [rng.normal(size=type.shape).astype(type.dtype.numpy, order=order) for type in body.input_types]
        needed = one(*arrays)
        for run in (two, three):
            found = run(*arrays)
            assert all(map(same_bits, run(*arrays), found))
            for item, other in zip(found, needed, strict=True):
                is_same = same_bits(item, other) or not item.shape
                assert is_same
                np.testing.assert_allclose(item, other, rtol=1e-12 if dtype is Dtype.FLOAT64 else 1e-4)


@pytest.mark.parametrize(
    ("size", "threads", "length"), [(2**20, 1, 2**13), (2**20, 2, 2**15), (2**18, 4, 2**14), (2**17, 64, 2**13)]
)
def test_blocks_that_threads_share_are_longer_where_each_has_some(size: int, threads: int, length: int) -> None:
    program = trace(lambda x: np.sin(x) * x + 1.0, floats(size))
    assert Blocks(program, Team(64), threads)._length == length


def test_helpers_warn_of_nothing() -> None:
    program = trace(lambda x: np.log(x) / x + np.sqrt(x), floats(200_000))
    x = np.zeros(200_000) - 1.0
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error")
        assert np.isnan(Blocks(program, Team(2))(x)).all()


@pytest.mark.usefixtures("is_small")
def test_threads_share_a_cluster_and_its_team() -> None:
    (body,) = clusters(trace(elementwise, floats(300)))
    run, alone = Blocks(body, Team(2)), Blocks(body, Team(2))
    wrong = []

    def work(seed: int) -> None:
        array = np.random.default_rng(seed).normal(size=300)
        needed = alone(array)
        wrong.extend([seed for _ in range(30) if not all(map(same_bits, run(array), needed))])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_each_thread_has_buffers_of_its_own_which_the_plan_counts() -> None:
    (body,) = clusters(trace(elementwise, floats(300_000)))
    found = find_clusters(trace(elementwise, floats(300_000)), threads=3).equations[0].params["scratch_bytes"]
    run = Blocks(body, Team(3))
    for _ in range(10):
        run(np.linspace(0.1, 1.0, 300_000))
    spare = [buffer for shape in (run._length, 300_000 % run._length) for own in run._block((shape,)).spare for buffer in own]
    assert sum(buffer.nbytes for buffer in spare) <= found


def test_a_plan_counts_the_buffers_of_its_threads() -> None:
    program = trace(elementwise, floats(300_000))
    one, many = plan(find_clusters(program)), plan(find_clusters(program, threads=4))
    assert one.peak_bytes < many.peak_bytes
    x = np.linspace(0.1, 1.0, 300_000)
    for found, needed in zip(Executor(many)(x), Executor(one)(x), strict=True):
        np.testing.assert_allclose(found, needed, rtol=1e-13)
