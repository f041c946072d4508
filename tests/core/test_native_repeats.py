"""Repeats of a sequence: found where they were planted, wherever they begin, and never wrong."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_core.native.repeats import FEWEST_BLOCKS, LONGEST_PERIOD, Repeat, find_repeats


def check(codes, found, fewest_saved):
    """Check that repeats are some, in order, apart from each other, and long enough."""
    stop = 0
    for repeat in found:
        assert stop <= repeat.start
        stop = repeat.stop
        assert stop <= len(codes)
        blocks = codes[repeat.start : stop].reshape(repeat.count, repeat.period)
        assert (blocks == blocks[0]).all()
        assert repeat.count >= FEWEST_BLOCKS
        assert (repeat.count - 1) * repeat.period >= fewest_saved


def planted(rng, *parts):
    """Return a sequence of parts: numbers of unlike entries, and (period, count) of alike blocks."""
    pairs = [(part, 1) if isinstance(part, int) else part for part in parts]
    return np.concatenate([np.tile(rng.integers(0, 10**6, length), count) for length, count in pairs])


@pytest.mark.parametrize("seed", range(5))
def test_what_was_planted_is_found(seed):
    rng = np.random.default_rng(seed)
    codes = planted(rng, 17, (20, 50), 9, (3, 200), (41, 10), 100, (1, 80))
    found = find_repeats(codes, 32)
    check(codes, found, 32)
    assert [(repeat.period, repeat.count) for repeat in found] == [(20, 50), (3, 200), (41, 10), (1, 80)]
    assert found[0].start == 17


def test_the_longest_period_that_saves_most_is_taken():
    rng = np.random.default_rng(0)
    step = planted(rng, 5, (4, 10), 7)
    codes = np.tile(step, 30)
    assert find_repeats(codes, 32) == [Repeat(0, len(step), 30)]


def test_blocks_longer_than_a_loop_may_be_are_searched_themselves():
    rng = np.random.default_rng(0)
    step = planted(rng, LONGEST_PERIOD, (10, 20))
    codes = np.tile(step, 5)
    found = find_repeats(codes, 64)
    check(codes, found, 64)
    assert [(repeat.period, repeat.count) for repeat in found] == [(10, 20)] * 5


@pytest.mark.parametrize("seed", range(30))
def test_random_sequences_have_true_repeats_alone(seed):
    rng = np.random.default_rng(seed)
    parts = [int(rng.integers(0, 40)) if rng.random() < 0.5 else tuple(rng.integers(1, 12, 2)) for _ in range(20)]
    codes = planted(rng, *parts) % rng.integers(1, 5)
    for fewest_saved in (4, 20):
        check(codes, find_repeats(codes, fewest_saved), fewest_saved)


@pytest.mark.parametrize("length", [0, 1, 7, 8])
def test_short_sequences_have_none(length):
    assert not find_repeats(np.zeros(length, np.int64), 8)
