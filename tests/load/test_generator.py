"""The generator in virtual time: what it reports is what happened, whatever the load and whoever stalls."""

import numpy as np
import pytest

from gradwire_load.arrivals import Arrivals, Step
from gradwire_load.generator import COLUMNS
from tests.load.test_histogram import ranked
from tests.load.virtual import DelayedEcho, Queue, send, share, steady


@pytest.mark.parametrize("kind", ["poisson", "uniform"])
def test_injected_latencies_are_reported(kind):
    """The percentiles reported are the injected ones, within the 0.1 % of three digits."""
    delays = np.random.default_rng(0).lognormal(np.log(2e-3), 0.8, 12_000)
    tally, _ = send(DelayedEcho(delays), steady(kind, 1000.0, 10.0))
    used = delays[: tally.ended]
    assert abs(tally.ended - 10_000) < 500
    for percent in (50.0, 99.0, 99.9):
        assert tally.latency.percentile_s(percent) == pytest.approx(ranked(used, percent), rel=2e-3)
    assert tally.latency.mean_s == pytest.approx(used.mean(), rel=1e-6)
    assert tally.late == 0
    assert tally.failed == {}


def test_a_stall_of_the_server_is_seen_by_all_who_were_due_in_it():
    """A queue that stops for 200 ms: requests due meanwhile waited, the first 200 ms and the last hardly."""
    tally, batch = send(Queue(1e-5, 1005.0, 0.2), steady("uniform", 1000.0, 10.0))
    due, _, done, _, _ = np.frombuffer(batch.rows).reshape(-1, COLUMNS).T
    latency = done - due
    assert np.count_nonzero(latency > 0.1) == pytest.approx(100, abs=4)
    assert np.count_nonzero(latency > 0.05) == pytest.approx(150, abs=4)
    assert tally.latency.max_s == pytest.approx(0.2, abs=2e-3)
    assert tally.latency.percentile_s(99.0) == pytest.approx(0.1, abs=5e-3)
    assert tally.is_valid


def test_a_stall_of_the_generator_is_seen_too_and_makes_the_run_invalid():
    """The process stands still for 200 ms of 10 s: service is fast all the time, but 2 % were sent late."""
    tally, _ = send(DelayedEcho([1e-3]), steady("uniform", 1000.0, 10.0), pauses=[(1005.0, 0.2)])
    assert tally.ended == 10_000
    assert tally.service.max_s == pytest.approx(1e-3, abs=1e-6)
    assert tally.latency.max_s == pytest.approx(0.2, abs=3e-3)
    assert tally.late_share == pytest.approx(0.0195, abs=1e-3)
    assert not tally.is_valid


def test_one_percent_late_is_still_valid():
    tally, _ = send(DelayedEcho([1e-3]), steady("uniform", 1000.0, 10.0), pauses=[(1005.0, 0.1)])
    assert 0 < tally.late <= 100
    assert tally.is_valid


def test_a_closed_loop_keeps_its_requests_under_way():
    echo = DelayedEcho([0.01])
    tally, _ = send(echo, steady("closed", 8, 5.0))
    assert echo.most == 8
    assert tally.ended == pytest.approx(8 * 5.0 / 0.01, rel=0.01)
    assert tally.throughput() == pytest.approx(800.0, rel=0.02)
    assert tally.is_valid


def test_steps_of_a_closed_loop():
    echo = DelayedEcho([0.01])
    tally, _ = send(echo, Arrivals("closed", (Step(1.0, 2), Step(1.0, 6), Step(1.0, 1))))
    assert echo.most == 6
    answered = tally.series([], 3)["answered"]
    assert answered == pytest.approx([200, 600, 100], abs=8)


def test_requests_past_the_most_under_way_wait_and_are_late():
    echo = DelayedEcho([0.1])
    tally, batch = send(echo, steady("uniform", 1000.0, 1.0), of=share(in_flight_max=20))
    assert echo.most == 20
    assert batch.held > 900
    assert not tally.is_valid


def test_operations_come_as_often_as_their_weights_say():
    tally, _ = send(DelayedEcho([1e-3]), steady("uniform", 4096.0, 1.0), of=share(3, weights=(6.0, 3.0, 1.0)))
    counts = [item.latency.count for item in tally.operations]
    assert counts == pytest.approx([2458, 1229, 410], abs=2)


def test_failures_are_counted_by_reason_and_apart_from_latency():
    tally, _ = send(DelayedEcho([2e-3], "OVERLOADED"), steady("poisson", 500.0, 2.0))
    assert tally.failed == {"OVERLOADED": tally.ended}
    assert tally.latency.count == 0
    assert tally.failures.percentile_s(50.0) == pytest.approx(2e-3, rel=1e-3)
    assert tally.texts == {"OVERLOADED": ["what the server said"] * 3}


def test_each_variant_is_checked_once_at_least():
    _, batch = send(DelayedEcho([1e-3]), steady("uniform", 1000.0, 1.0), of=share(2, variants=5, check=1e-9))
    assert sorted((item.operation, item.variant) for item in batch.answers) == [
        (number, place) for number in range(2) for place in range(5)
    ]
    assert all(item.data == bytes([item.operation, 0, 0, 0, item.variant, 0, 0, 0]) for item in batch.answers)


def test_the_share_of_answers_that_is_checked():
    _, batch = send(DelayedEcho([1e-3]), steady("uniform", 10_000.0, 1.0), of=share(check=0.1))
    assert len(batch.answers) == pytest.approx(1000, abs=120)


def test_a_seed_repeats_the_schedule():
    _, one = send(DelayedEcho([1e-3]), steady("poisson", 300.0, 2.0), of=share(3))
    _, other = send(DelayedEcho([1e-3]), steady("poisson", 300.0, 2.0), of=share(3))
    _, third = send(DelayedEcho([1e-3]), steady("poisson", 300.0, 2.0), of=share(3, seed=2))
    assert one.rows == other.rows
    assert one.rows != third.rows
