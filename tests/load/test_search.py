"""The saturation point is found within its precision, in few trials, also if trials fail by bad luck."""

import math

import pytest

from gradwire_load.search import MOST_RATES, PRECISION, TRIALS, Outcome, find_max


class Server:
    """Holds up to a rate."""

    def __init__(self, capacity, sendable=math.inf, unlucky=()):
        self.capacity, self.sendable, self.unlucky = capacity, sendable, set(unlucky)
        self.rates = []

    def __call__(self, rate):
        self.rates.append(rate)
        if rate > self.sendable:
            return Outcome.UNSENT
        return Outcome.HELD if rate <= self.capacity and len(self.rates) not in self.unlucky else Outcome.FAILED


@pytest.mark.parametrize("capacity", [3.0, 90.0, 100.0, 101.0, 755.0, 12_345.0])
def test_the_saturation_point_is_found(capacity):
    server = Server(capacity)
    found = find_max(100.0, server)
    assert found.rate <= capacity < found.failed
    assert found.failed - found.rate <= PRECISION * found.failed
    assert not found.is_limited
    assert len(server.rates) <= MOST_RATES * TRIALS


def test_one_unlucky_trial_changes_nothing():
    assert find_max(100.0, Server(700.0, unlucky=[2, 6])) == find_max(100.0, Server(700.0))


def test_a_generator_that_can_do_no_more_is_told():
    found = find_max(100.0, Server(1e9, sendable=1500.0))
    assert found.is_limited
    assert 1400.0 < found.rate <= 1500.0


def test_a_server_that_never_holds():
    found = find_max(100.0, Server(0.0))
    assert found.rate == 0.0
    assert math.isfinite(found.failed)
