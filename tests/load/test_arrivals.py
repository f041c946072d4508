"""Schedules: as many requests as expected, where they are expected, whoever sends them."""

import itertools

import numpy as np
import pytest

from gradwire_load.arrivals import Arrivals, Step
from tests.load.virtual import steady

STEPS = Arrivals("poisson", (Step(10.0, 100.0), Step(5.0, 1000.0), Step(10.0, 10.0)))


def merged(arrivals, of=1, seed=0):
    return np.sort(np.concatenate([list(arrivals.times(number, of, seed)) for number in range(of)]))


@pytest.mark.parametrize("of", [1, 3])
def test_even_arrivals_are_even_however_many_share_them(of):
    times = merged(steady("uniform", 100.0, 10.0), of)
    assert times.size == 1000
    assert np.diff(times) == pytest.approx(0.01)


@pytest.mark.parametrize("of", [1, 4])
def test_gaps_of_poisson_arrivals_are_exponential(of):
    times = merged(steady("poisson", 1000.0, 60.0), of)
    gaps = np.diff(times)
    assert times.size == pytest.approx(60_000, abs=4 * 60_000**0.5)
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(1e-3, rel=0.03)
    assert np.mean(gaps > 2e-3) == pytest.approx(np.exp(-2.0), abs=0.01)


def test_steps_have_their_rates():
    times = merged(STEPS)
    for start, stop, count in ((0.0, 10.0, 1000), (10.0, 15.0, 5000), (15.0, 25.0, 100)):
        assert np.count_nonzero((times >= start) & (times < stop)) == pytest.approx(count, abs=4 * count**0.5)
    assert STEPS.expected(5.0, 12.0) == pytest.approx(500 + 2000)
    assert STEPS.duration_s == 25.0
    assert STEPS.mean_level == pytest.approx((1000 + 5000 + 100) / 25)
    assert [STEPS.level_at(second) for second in (0.0, 9.9, 10.0, 14.9, 15.0, 25.0)] == [100.0, 100.0, 1000.0, 1000.0, 10.0, 0.0]


def test_processes_draw_apart_and_a_seed_repeats():
    one, other = (list(itertools.islice(STEPS.times(number, 2, 7), 50)) for number in (0, 1))
    assert not set(one) & set(other)
    assert one == list(itertools.islice(STEPS.times(0, 2, 7), 50))
    assert one != list(itertools.islice(STEPS.times(0, 2, 8), 50))


def test_a_warmup_comes_before_at_the_first_level():
    warm = STEPS.with_warmup(2.0)
    assert warm.steps[0] == Step(2.0, 100.0)
    assert warm.steps[1:] == STEPS.steps
    assert STEPS.with_warmup(0.0) == STEPS
