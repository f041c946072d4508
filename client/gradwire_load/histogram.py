"""HDR histograms of durations: counts in buckets that keep three significant digits, from a microsecond to an hour.

The layout is that of HdrHistogram (values up to 2047 have a count each; from there on each doubling has 1024), so that what is
encoded is read by every tool of that family.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any, Self

import numpy as np

from gradwire_core.types import Array

HIGHEST_US = 3_600_000_000
DIGITS = 3
_HALF = 1024  # counts of each doubling
_DOUBLINGS = (HIGHEST_US // _HALF).bit_length() - 1
_LOWEST = np.concatenate([np.arange(_HALF), *((np.arange(_HALF) + _HALF) << power for power in range(_DOUBLINGS + 1))])
"""The lowest value of each count, in microseconds."""
_HIGHEST = np.append(_LOWEST[1:], 2 * _HALF << _DOUBLINGS) - 1
PERCENTS = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)
_PARTS = tuple(0.5 ** (step / 8) for step in range(8))  # of what a point of the curve leaves above, until the next halving


class Histogram:
    """Durations, recorded many at a time."""

    def __init__(self) -> None:
        self._counts = np.zeros(_LOWEST.size, np.int64)
        self._sum_s = 0.0
        self._most_us = 0

    def add(self, seconds: Array) -> None:
        """Record durations, in seconds."""
        if not seconds.size:
            return
        values = np.clip(np.rint(seconds * 1e6), 0, HIGHEST_US).astype(np.int64)
        places = np.searchsorted(_LOWEST, values, side="right") - 1
        self._counts += np.bincount(places, minlength=_LOWEST.size)
        self._sum_s += float(seconds.sum())
        self._most_us = max(self._most_us, int(values.max()))

    def merge(self, other: Self) -> None:
        """Add what another has recorded."""
        self._counts += other._counts
        self._sum_s += other._sum_s
        self._most_us = max(self._most_us, other._most_us)

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return int(self._counts.sum())

    @property
    def mean_s(self) -> float:
        """Their mean; 0 of none."""
        return self._sum_s / max(self.count, 1)

    @property
    def max_s(self) -> float:
        """The longest; 0 of none."""
        return self._most_us / 1e6

    def percentile_s(self, percent: float) -> float:
        """Return the least duration, to three digits, that so many percent do not exceed; 0 of none."""
        (found,) = self.percentiles_s([percent])
        return found

    def percentiles_s(self, percents: list[float]) -> list[float]:
        """Return several percentiles."""
        total = self.count
        if not total:
            return [0.0] * len(percents)
        ranks = np.maximum(np.ceil(np.round(np.array(percents) / 100.0 * total, 9)), 1)  # 99.9 % of 1000 are 999, not a little more
        places = np.searchsorted(np.cumsum(self._counts), ranks)
        return [min(int(_HIGHEST[place]), self._most_us) / 1e6 for place in places]

    def curve(self) -> list[tuple[float, float]]:
        """Return `(percent, seconds)` such that what is left above halves every few points, down to half a request, then 100."""
        total = self.count
        percents, left = [], 100.0
        while left * total >= 50.0:
            percents += [100.0 - left * part for part in _PARTS]
            left /= 2.0
        return list(zip([*percents, 100.0], self.percentiles_s([*percents, 100.0]), strict=True)) if total else []

    def summary(self) -> dict[str, Any]:
        """Return what a report needs, in milliseconds, and the whole histogram as `encode` writes it."""
        shown = {f"p{percent:g}": value * 1e3 for percent, value in zip(PERCENTS, self.percentiles_s(list(PERCENTS)), strict=True)}
        return {"count": self.count, "mean": self.mean_s * 1e3, **shown, "max": self.max_s * 1e3, "hdr": self.encode()}

    def encode(self) -> str:
        """Return the histogram, in microseconds, in the compressed format V2 of HdrHistogram, as base64."""
        counts = _encode_counts(self._counts[: int(np.max(np.flatnonzero(self._counts), initial=-1)) + 1].tolist())
        plain = struct.pack(">iiiiqqd", _PLAIN_COOKIE, len(counts), 0, DIGITS, 1, HIGHEST_US, 1.0) + counts
        packed = zlib.compress(plain)
        return base64.b64encode(struct.pack(">ii", _PACKED_COOKIE, len(packed)) + packed).decode("ascii")


_PLAIN_COOKIE = 0x1C849313
_PACKED_COOKIE = 0x1C849314


def _encode_counts(counts: list[int]) -> bytes:
    """Return counts as variable-length integers: a count doubled, or a run of zeros as twice its length less one."""
    data = bytearray()
    zeros = 0
    for count in [*counts, None]:
        if count == 0:
            zeros += 1
            continue
        if zeros:
            _append(data, 2 * zeros - 1)
            zeros = 0
        if count is not None:
            _append(data, 2 * count)
    return bytes(data)


def _append(data: bytearray, number: int) -> None:
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
