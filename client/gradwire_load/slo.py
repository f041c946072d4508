"""Objectives: what a run is held to, such as `p99=20ms,errors=0`. Nothing here does I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from gradwire_core.errors import ArgumentError
from gradwire_load.tally import Tally

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_is_percentile = re.compile(r"p(\d{1,2}(?:\.\d+)?)").fullmatch
_is_duration = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s)").fullmatch
_is_number = re.compile(r"(\d+(?:\.\d+)?)(?:\s*(%|/s))?").fullmatch
NAMES = "p50, p99 and other percentiles, mean, max, errors, throughput"


class Objective(NamedTuple):
    """One objective.

    Attributes:
        name: what is measured: `p99`, `mean`, `max`, `errors` or `throughput`.
        limit: the most it may be, in seconds, or as a share of all requests; of `throughput` the least, a second.
    """

    name: str
    limit: float

    @property
    def is_latency(self) -> bool:
        """Whether it is a time."""
        return self.name not in {"errors", "throughput"}

    def __str__(self) -> str:
        """The objective as it is written."""
        sign = ">=" if self.name == "throughput" else "<="
        return f"{self.name} {sign} {self.show(self.limit)}"

    def show(self, value: float) -> str:
        """Return a value of it as text."""
        if self.name == "errors":
            return f"{value:.4g}" if value in {0, 1} else f"{value * 100:.3g} %"
        return f"{value:.5g}/s" if self.name == "throughput" else f"{value * 1e3:.4g} ms"


class Verdict(NamedTuple):
    """An objective, and what was measured.

    Attributes:
        objective: the objective.
        measured: the value.
        is_met: whether it holds.
    """

    objective: Objective
    measured: float
    is_met: bool


def read_objectives(text: str) -> tuple[Objective, ...]:
    """Return the objectives of a text such as `p99=20ms, errors=0.1%, throughput=500/s`.

    Raises:
        ArgumentError: the text is malformed.

    Example:
        >>> [str(item) for item in read_objectives("p99=20ms, errors=0")]
        ['p99 <= 20 ms', 'errors <= 0']
    """
    return tuple(_read(item.strip()) for item in text.split(",") if item.strip())


def judge(objectives: tuple[Objective, ...], tally: Tally, tolerated: tuple[str, ...] = ()) -> tuple[Verdict, ...]:
    """Return what a run makes of its objectives; without a single answer no objective of latency is met.

    Args:
        objectives: the objectives.
        tally: the run.
        tolerated: reasons of errors that are not counted.
    """
    found = []
    for item in objectives:
        measured = _MEASURES.get(item.name, _percentile(item.name))(tally, tolerated)
        is_met = measured >= item.limit if item.name == "throughput" else measured <= item.limit
        found.append(Verdict(item, measured, is_met and (tally.answered > 0 or not item.is_latency)))
    return tuple(found)


def error_share(tally: Tally, tolerated: tuple[str, ...] = ()) -> float:
    """Return the share of requests that had no right answer, those with tolerated reasons left out."""
    counted = sum(count for reason, count in tally.failed.items() if reason not in tolerated)
    return counted / max(tally.ended, 1)


def _read(text: str) -> Objective:
    name, _, value = (part.strip() for part in text.replace("<=", "=").replace(">=", "=").partition("="))
    if name == "errors" and (found := _is_number(value)) and found[2] != "/s":
        limit = float(found[1]) / (100.0 if found[2] else 1.0)
        if limit <= 1.0:
            return Objective(name, limit)
    if name == "throughput" and (found := _is_number(value)) and found[2] != "%":
        return Objective(name, float(found[1]))
    if (_is_percentile(name) or name in {"mean", "max"}) and (found := _is_duration(value)):
        return Objective(name, float(found[1]) * _UNITS[found[2]])
    text = f"slo: needed objectives such as p99=20ms, errors=0 or throughput=100/s, got {text!r}; there are {NAMES}"
    raise ArgumentError(text, given=text)


def _percentile(name: str) -> Callable[[Tally, tuple[str, ...]], float]:
    return lambda tally, _: tally.latency.percentile_s(float(name[1:]))


_MEASURES: dict[str, Callable[[Tally, tuple[str, ...]], float]] = {
    "mean": lambda tally, _: tally.latency.mean_s,
    "max": lambda tally, _: tally.latency.max_s,
    "errors": error_share,
    "throughput": lambda tally, _: tally.throughput(),
}
