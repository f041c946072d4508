"""Calibration: a table that is measured once and kept, and what is chosen by it."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

import gradwire as gw
from gradwire_core.engine import ExecutableCache, Output, compile
from gradwire_core.executor import Executor
from gradwire_core.kernels import calibration, measuring
from gradwire_core.kernels.blocks import Blocks
from gradwire_core.kernels.calibration import CLASSES, KERNELS, Calibration, Table, find, keep, path_in
from gradwire_core.kernels.choice import Chooser, Way, choose, open_chooser
from gradwire_core.kernels.expressions import TEMPLATES
from gradwire_core.planner import plan
from gradwire_core.program import Program
from gradwire_core.transforms import Transform
from gradwire_core.types import Dtype, TensorType
from tests.core.tables import table_of
from tests.core.test_clusters import clusters
from tests.core.test_executor import floats, same_bits, trace

SIZE = 300_000
PATIENCE_S = 60.0


def waves(x):
    return np.sum(np.sin(x) * np.exp(-0.5 * x * x) + x * 3.0)


def cluster_of(function, dtype: Dtype = Dtype.FLOAT64) -> Program:
    (body,) = clusters(trace(function, TensorType(dtype, (600_000,))))
    return body


def polynomial(x):
    return ((x * x + 3.0) * x - x) * x + 2.0


def wait_for_calibration() -> None:
    for thread in threading.enumerate():
        if thread.name == "gradwire-calibration":
            thread.join(PATIENCE_S)


# -- what is chosen ------------------------------------------------------------------------------------------------------------


def test_numpy_is_chosen_where_it_is_quicker() -> None:
    best, rejected = choose(cluster_of(waves), table_of())
    assert (best.threads, best.given) == (2, frozenset())
    assert str(best).startswith("blocks on 2 threads, ")
    assert [way.seconds for way in rejected] == sorted(way.seconds for way in rejected)


def test_numexpr_gets_what_it_is_quicker_at_and_no_more() -> None:
    best, _ = choose(cluster_of(waves), table_of(numexpr=(1.0, 2.0)))
    assert best.given == {"exp", "sin"}
    assert str(best).startswith("numexpr for exp, sin on 2 threads, ")
    best, _ = choose(cluster_of(polynomial), table_of(numexpr=(0.1, 9.0)))
    assert best.given == {"add", "multiply", "subtract"}


def test_a_small_gain_is_not_worth_other_bits() -> None:
    assert not choose(cluster_of(waves), table_of(numexpr=(0.5, 4.9)))[0].given


def test_dtypes_are_looked_up_apart() -> None:
    table = table_of(numexpr=(1.0, 2.0))
    slow = dict.fromkeys(table.element_s["numexpr"]["float32"], 1e-06)
    mixed = {**table.element_s, "numexpr": {**table.element_s["numexpr"], "float32": slow}}
    table = Table(table.key, table.threads, mixed, table.shares, table.call_s)
    assert choose(cluster_of(waves), table)[0].given
    assert not choose(cluster_of(waves, Dtype.FLOAT32), table)[0].given


@pytest.mark.parametrize(
    ("shares", "threads"), [((1.0, 0.5, 0.25), 4), ((1.0, 0.5, 0.49), 2), ((1.0, 0.98, 1.2), 1), ((1.0, 1.5, 3.0), 1)]
)
def test_no_more_threads_than_pay(shares: tuple[float, ...], threads: int) -> None:
    assert choose(cluster_of(waves), table_of((1, 2, 4), shares=shares))[0].threads == threads


def test_handing_a_call_over_counts() -> None:
    table = table_of()
    slow = Table(table.key, table.threads, table.element_s, table.shares, (1e-6, 1.0))
    assert choose(cluster_of(waves), slow)[0].threads == 1


def test_operations_that_were_not_measured_are_like_others_of_their_class() -> None:
    table = table_of()
    assert table.seconds("numpy", Dtype.FLOAT64, "tanh", 1) == table.seconds("numpy", Dtype.FLOAT64, "exp", 1)
    assert table.seconds("numpy", Dtype.FLOAT64, "maximum", 2) == table.seconds("numpy", Dtype.FLOAT64, "add", 1) / 2
    best, _ = choose(cluster_of(lambda x: np.tanh(x) * np.maximum(x, 0.5) + 1.0), table_of(numexpr=(0.1, 0.1)))
    assert best.given <= {"add", "multiply"}, "numexpr has neither"


# -- what runs -----------------------------------------------------------------------------------------------------------------


def calibrated(table: Table, folder: Path | None = None, kernels: str = "auto") -> Chooser:
    return Chooser(table.threads[-1], kernels, Calibration(table.threads[-1], folder, lambda _: table))


@pytest.mark.parametrize("table", [table_of(), table_of(numexpr=(0.1, 0.1)), table_of(shares=(1.0, 2.0))])
def test_what_is_chosen_computes_the_same(table: Table) -> None:
    body = cluster_of(lambda x: (waves(x), polynomial(x) * np.tanh(x)))
    x = np.linspace(0.1, 1.0, 600_000)
    kernel = calibrated(table).kernel(body)
    needed = Blocks(body)(x)
    for _ in range(2):
        found = kernel(x)
        wait_for_calibration()
        for one, other in zip(found, needed, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)
    assert str(kernel).startswith(str(choose(body, table)[0]))


def test_until_the_machine_is_calibrated_a_cluster_runs_by_numpy() -> None:
    let_go, asked = threading.Event(), []

    def measure(threads: int) -> Table:
        asked.append(threads)
        let_go.wait(PATIENCE_S)
        return table_of()

    chooser = Chooser(2, "auto", Calibration(2, None, measure))
    kernels = [chooser.kernel(cluster_of(waves)) for _ in range(2)]
    x = np.linspace(-1.0, 1.0, 600_000)
    for kernel in kernels:
        kernel(x)
    assert str(kernels[0]) == "blocks on 1 thread, until this machine is calibrated"
    let_go.set()
    wait_for_calibration()
    assert [str(kernel).partition(",")[0] for kernel in kernels] == ["blocks on 2 threads"] * 2
    assert asked == [2]


def test_a_machine_that_cannot_be_calibrated_runs_by_numpy(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: int) -> Table:
        raise OSError("no process")

    chooser = Chooser(2, "auto", Calibration(2, None, fail))
    kernel = chooser.kernel(cluster_of(waves))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            kernel(np.linspace(-1.0, 1.0, 600_000))
            wait_for_calibration()
    assert "no process" in caplog.text
    assert len(caplog.records) == 1
    assert "until this machine is calibrated" in str(kernel)


@pytest.mark.parametrize(("kernels", "text"), [("blocks", "blocks on 3 threads"), ("numexpr", "numexpr on 3 threads")])
def test_a_setting_overrides_the_calibration(kernels: str, text: str) -> None:
    def measure(_: int) -> Table:
        raise AssertionError("it is not asked")

    kernel = Chooser(3, kernels, Calibration(3, None, measure)).kernel(cluster_of(waves))
    kernel(np.linspace(-1.0, 1.0, 600_000))
    assert str(kernel) == text


def gradient(chooser: Chooser | None = None, *, reproducible: bool = False):
    program = gw.trace(waves, np.ones(SIZE))
    return compile(program, [Output((Transform("grad", (0,)),))], chooser=chooser, reproducible=reproducible)


def test_the_report_says_what_runs_and_what_was_rejected() -> None:
    found = gradient(Chooser(2, "numexpr"))
    assert "kernel       numexpr on 2 threads" in found.plan.report
    chooser = calibrated(table_of())
    found = gradient(chooser)
    found.run([np.ones(SIZE)])
    wait_for_calibration()
    assert "kernel       blocks on 2 threads" in str(found.plan)
    assert "; rejected: blocks on 1 thread" in str(found.plan)
    assert "kernel       blocks on 1 thread" in gradient().plan.report


def test_answers_that_must_repeat_are_computed_by_one_kernel_on_one_thread() -> None:
    x = np.linspace(-1.0, 1.0, SIZE)
    fixed = gradient(Chooser(3, "numexpr"), reproducible=True)
    plain = gradient(reproducible=True)
    assert same_bits(fixed.run([x])[0][0], plain.run([x])[0][0])
    assert fixed.plan.peak_bytes == plain.plan.peak_bytes
    assert "kernel       blocks on 1 thread" in fixed.plan.report


def test_a_cache_hands_its_chooser_on() -> None:
    cache = ExecutableCache(chooser=Chooser(2, "blocks"))
    found = cache.get(gw.trace(waves, np.ones(SIZE)), [Output()])
    assert "blocks on 2 threads" in found.plan.report


def test_long_plans_choose_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradwire_core import executor
    from gradwire_core.kernels.cluster import find_clusters

    monkeypatch.setattr(executor, "STRAIGHT", 0)
    program = trace(lambda x: polynomial(x)[::-1] * x, floats(SIZE))
    run = Executor(plan(find_clusters(program)), chooser=Chooser(2, "blocks"))
    assert len(run.plan.kernels) == 1
    x = np.linspace(0.0, 1.0, SIZE)
    assert same_bits(run(x)[0], Executor(plan(program))(x)[0])


def test_a_process_has_one_chooser_for_each_setting(tmp_path: Path) -> None:
    one = open_chooser(2, "auto", str(tmp_path))
    assert open_chooser(2, "auto", str(tmp_path)) is one
    assert open_chooser(1, "auto", "") is not one


def test_a_way_prints() -> None:
    assert str(Way()) == "blocks on 1 thread"
    assert str(Way(3, frozenset({"sin", "exp"}), 0.0123)) == "numexpr for exp, sin on 3 threads, 12.3 ms"
    assert str(Way(2, frozenset(TEMPLATES))) == "numexpr on 2 threads"


# -- what is kept --------------------------------------------------------------------------------------------------------------


def test_a_table_is_read_as_it_was_written() -> None:
    table = table_of(is_disturbed=True)
    assert Table.from_json(table.to_json()) == table


def without(name: str):
    def change(read: dict) -> None:
        del read[name]

    return change


DAMAGES = {
    "another format": lambda read: read.update(format=0),
    "no key": without("key"),
    "no times": without("element_s"),
    "an operation is missing": lambda read: read["element_s"]["numpy"]["float64"].pop("exp"),
    "a time of zero": lambda read: read["element_s"]["numpy"]["float64"].update(exp=0.0),
    "a time that is none": lambda read: read["element_s"]["numexpr"]["float32"].update(add=float("nan")),
    "a text for a time": lambda read: read["element_s"]["numexpr"]["float32"].update(add="fast"),
    "a column is missing": lambda read: read["shares"]["numpy"]["float64"].update(arithmetic=[1.0]),
    "a call is missing": lambda read: read.update(call_s=[1e-6]),
    "threads from two on": lambda read: read.update(threads=[2, 4]),
    "a list": lambda read: read.update(element_s=[1, 2]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_table_is_measured_anew(tmp_path: Path, name: str) -> None:
    read = json.loads(table_of().to_json())
    DAMAGES[name](read)
    path_in(tmp_path, 2).write_text(json.dumps(read))
    assert find(tmp_path, 2) is None
    assert Calibration(2, tmp_path, lambda _: table_of()).refresh() == table_of()
    assert find(tmp_path, 2) == table_of()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff", "3"])
def test_a_file_that_is_no_table_is_measured_anew(tmp_path: Path, text: str) -> None:
    path_in(tmp_path, 2).write_text(text)
    assert find(tmp_path, 2) is None
    assert Calibration(2, tmp_path, lambda _: table_of()).refresh() == table_of()


def test_a_table_of_another_machine_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, 2, table_of())
    assert find(tmp_path, 1) is None
    monkeypatch.setattr(calibration, "processor", lambda: "another")
    assert find(tmp_path, 2) is None


def test_a_table_is_measured_once_and_found_by_other_processes(tmp_path: Path) -> None:
    asked = []
    may_end = threading.Event()

    def measure(threads: int) -> Table:
        asked.append(threads)
        assert may_end.wait(60.0)
        return table_of()

    folder = tmp_path / "a" / "b"
    first = Calibration(2, folder, measure)
    assert first.ask() is None
    may_end.set()
    wait_for_calibration()
    assert first.ask() == table_of()
    assert Calibration(2, folder, measure).ask() == table_of()
    assert asked == [2]
    Calibration(2, folder, measure).refresh(is_forced=True)
    assert asked == [2, 2]


def test_a_table_that_others_disturbed_serves_and_is_measured_again(tmp_path: Path) -> None:
    keep(tmp_path, 2, table_of(is_disturbed=True))
    found = Calibration(2, tmp_path, lambda _: table_of(numpy=(1.0, 1.0)))
    assert found.ask() in (table_of(is_disturbed=True), table_of(numpy=(1.0, 1.0)))
    wait_for_calibration()
    assert found.ask() == table_of(numpy=(1.0, 1.0)) == find(tmp_path, 2)


def test_a_folder_that_cannot_be_used_is_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    found = Calibration(2, tmp_path / "file" / "folder", lambda _: table_of())
    with caplog.at_level(logging.WARNING):
        found.ask()
        wait_for_calibration()
    assert "is not kept" in caplog.text
    assert found.ask() == table_of()


# -- what is measured ----------------------------------------------------------------------------------------------------------


def test_numbers_of_threads_are_powers_of_two_and_the_last() -> None:
    found = [measuring.thread_counts(threads) for threads in (1, 2, 3, 4, 6)]
    assert found == [(1,), (1, 2), (1, 2, 3), (1, 2, 4), (1, 2, 4, 6)]


def test_what_is_measured_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SIZE", 64)
    monkeypatch.setattr(measuring, "LARGE_SIZE", 64)
    table = measuring.measure(2)
    assert Table.from_json(table.to_json()) == table
    assert table.threads == (1, 2)
    assert all(table.shares[kernel]["float64"][name][0] == 1.0 for kernel in KERNELS for name in CLASSES)


def test_a_process_of_its_own_measures() -> None:
    table = calibration.measure_apart(1)
    assert table.key == calibration.key_of(1)
    assert table.threads == (1,)
