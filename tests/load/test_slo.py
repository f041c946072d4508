"""Objectives are read as they are written, and judged by what happened."""

import numpy as np
import pytest

from gradwire_core.errors import ArgumentError
from gradwire_load.slo import judge, read_objectives
from tests.load.virtual import DelayedEcho, send, steady


def verdicts(text, tally, tolerated=()):
    return {str(item.objective): item.is_met for item in judge(read_objectives(text), tally, tolerated)}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("p99=20ms,errors=0", ["p99 <= 20 ms", "errors <= 0"]),
        ("p99.9 <= 1.5s, p50=250us", ["p99.9 <= 1500 ms", "p50 <= 0.25 ms"]),
        ("mean=3 ms,max=1s", ["mean <= 3 ms", "max <= 1000 ms"]),
        ("errors=0.1%, throughput=500/s", ["errors <= 0.1 %", "throughput >= 500/s"]),
        ("errors=0.01,throughput>=20", ["errors <= 1 %", "throughput >= 20/s"]),
        ("", []),
    ],
)
def test_objectives_are_read(text, shown):
    assert [str(item) for item in read_objectives(text)] == shown


@pytest.mark.parametrize(
    "text", ["p99=20", "p99", "p101=1s", "latency=1s", "errors=2", "errors=1/s", "throughput=5%", "p99=-1ms", "=1s"]
)
def test_what_is_no_objective_is_refused(text):
    with pytest.raises(ArgumentError, match="needed objectives such as p99=20ms"):
        read_objectives(text)


def test_latency_is_judged():
    delays = np.repeat([1e-3, 10e-3], [990, 10])
    tally, _ = send(DelayedEcho(delays), steady("uniform", 1000.0, 1.0))
    found = verdicts("p99=1.01ms, p99.9=5ms, max=11ms, mean=1.2ms, errors=0, throughput=900, throughput=1100", tally)
    assert list(found.values()) == [True, False, True, True, True, True, False]


def test_errors_are_judged_save_the_tolerated():
    tally, _ = send(DelayedEcho([1e-3], "OVERLOADED"), steady("uniform", 100.0, 1.0))
    assert verdicts("errors=0", tally) == {"errors <= 0": False}
    assert verdicts("errors=100%", tally) == {"errors <= 1": True}
    assert verdicts("errors=0", tally, ("OVERLOADED",)) == {"errors <= 0": True}


def test_no_answer_meets_no_latency():
    tally, _ = send(DelayedEcho([1e-3], "OVERLOADED"), steady("uniform", 100.0, 1.0))
    assert verdicts("p99=1s", tally) == {"p99 <= 1000 ms": False}


def test_a_wrong_answer_is_an_error():
    tally, _ = send(DelayedEcho([1e-3]), steady("uniform", 100.0, 1.0))
    tally.add_check(0, 1001.5, None)
    tally.add_check(0, 1001.5, "x: needed another")
    tally.add_check(0, 1000.5, "x: needed another, in the warm-up")
    assert tally.checked == 3
    assert tally.wrong == 2
    assert tally.answered == 99
    assert tally.failed == {"WRONG_ANSWER": 1}
    assert verdicts("errors=0", tally) == {"errors <= 0": False}
