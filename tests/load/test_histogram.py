"""Histograms hold what HdrHistogram holds."""

import math

import numpy as np
import pytest

from gradwire_load.histogram import PERCENTS, Histogram

SECONDS = np.concatenate([np.random.default_rng(0).lognormal(-6.0, 1.5, 5000), [0.0, 1e-7, 2047e-6, 2048e-6, 3600.0, 1e9]])


def ranked(values, percent):
    """The least value that so many percent of the values do not exceed."""
    return np.sort(values)[max(math.ceil(round(percent / 100.0 * values.size, 9)), 1) - 1]


def of(*parts):
    whole = Histogram()
    for part in parts:
        whole.add(part)
    return whole


def test_what_is_encoded_is_what_hdrhistogram_would_have_recorded():
    kind = pytest.importorskip("hdrh.histogram", reason="needs hdrhistogram").HdrHistogram
    reference = kind(1, 3_600_000_000, 3)
    for value in np.clip(np.rint(SECONDS * 1e6), 0, 3_600_000_000).astype(int).tolist():
        assert reference.record_value(value)
    read = kind.decode(of(SECONDS).encode())
    recorded = [
        [(item.value_iterated_to, item.count_at_value_iterated_to) for item in held.get_recorded_iterator()]
        for held in (read, reference)
    ]
    assert recorded[0] == recorded[1]
    assert kind.decode(Histogram().encode()).get_total_count() == 0


@pytest.mark.parametrize("percent", [1.0, *PERCENTS, 100.0])
def test_percentiles_have_three_digits(percent):
    values = SECONDS[:5000]
    assert of(values).percentile_s(percent) == pytest.approx(ranked(values, percent), rel=1.1e-3, abs=1e-6)


def test_merged_histograms_hold_the_sum():
    whole, half = of(SECONDS[:5000]), of(SECONDS[:2000])
    half.merge(of(SECONDS[2000:5000]))
    assert half.summary() == pytest.approx(whole.summary())
    assert whole.mean_s == pytest.approx(SECONDS[:5000].mean())


def test_the_curve_rises_to_the_longest():
    curve = of(SECONDS[:5000]).curve()
    assert [percent for percent, _ in curve] == sorted(percent for percent, _ in curve)
    assert [value for _, value in curve] == sorted(value for _, value in curve)
    assert curve[0][0] == 0.0
    assert curve[-1] == (100.0, pytest.approx(SECONDS[:5000].max(), abs=1e-6))


def test_an_empty_one_has_no_times():
    empty = of(np.empty(0))
    assert (empty.count, empty.mean_s, empty.max_s, empty.percentile_s(99.0), empty.curve()) == (0, 0.0, 0.0, 0.0, [])
