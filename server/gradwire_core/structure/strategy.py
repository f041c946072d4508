"""Choosing among ways to compute one thing by their predicted costs, and the record of what was chosen and why.

A way is built only where it may win: one whose least cost is above what is already found is left out, and so are all others once
the best is near what anything must cost. So a simple program pays for one way. What is expected to run a few times (`serving`) is
not explored at length either: a way is left out where all it may spare in those runs is less than building it takes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gradwire_core.errors import InternalError
from gradwire_core.structure.cost import Cost

STRUCTURED_FORWARD = "structured forward"
STRUCTURED_REVERSE = "structured reverse"
CROSS_COUNTRY = "cross-country"
COLOURED_FORWARD = "coloured forward"
COLOURED_REVERSE = "coloured reverse"
STAR_COLOURING = "star colouring"
DENSE_FORWARD = "dense forward"
DENSE_REVERSE = "dense reverse"

BY_TERMS = frozenset({STRUCTURED_FORWARD, STRUCTURED_REVERSE, CROSS_COUNTRY})
"""The ways that keep a partial to its own entries, also where it is infinite."""

ENOUGH, NEAR = 1.25, 1.05
"""The best is taken without a look at others, or at those that are certain, once it costs so many times what every way must."""

TIE = 0.98
"""A way is taken in place of an earlier one where it costs no more than this many times what that does."""
SLACK = 1.25
"""A way that is certain is expected at no more than this many times its least cost: others are built no further than up to that."""

CALLS = 100.0
"""A derivative that is asked for is expected to be called so many times; what is part of something larger, any number of times."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and what each way was predicted to cost.

    Attributes:
        what: what is computed.
        chosen: the name of the way that was taken.
        predictions: the name and the predicted cost of each way, the chosen one among them; where a way was not built, the least it
            must cost.
    """

    what: str
    chosen: str
    predictions: tuple[tuple[str, Cost], ...]

    def __str__(self) -> str:
        rejected = [f"{name} {show_seconds(cost)}" for name, cost in self.predictions if name != self.chosen]
        chosen = dict(self.predictions)[self.chosen]
        text = f"{self.what}: {self.chosen}, {show_seconds(chosen)}"
        return f"{text}; rejected: {', '.join(rejected)}" if rejected else text


def show_seconds(cost: Cost) -> str:
    """Return the predicted time of a cost as text."""
    seconds = cost.seconds
    number, unit = (seconds, "s") if seconds >= 1 else (seconds * 1e3, "ms") if seconds >= 1e-3 else (seconds * 1e6, "us")
    return f"{'at least ' if cost.is_bound else ''}{number:.3g} {unit}"


@dataclass(frozen=True, slots=True)
class Way(Generic[Result]):
    """One way to compute something.

    Attributes:
        name: its name, one of those above.
        least: returns what it must cost at least, at once.
        build: builds it, and returns its result and its predicted cost; no result where it turns out that it costs at least that,
            which is no less than the predicted seconds it is given, and None where there is no such way.
        is_certain: whether there is this way, at little more than its least cost.
        effort: the seconds that building it takes, about.
    """

    name: str
    least: Callable[[], Cost]
    build: Callable[[float], tuple[Result | None, Cost] | None]
    is_certain: bool = False
    effort: float = 0.0


def choose(what: str, ways: Sequence[Way[Result]], floor: Cost, ceiling: float = math.inf) -> Result:
    """Return the result of the way of lowest predicted cost, and record the choice.

    Args:
        what: what is computed, for the record.
        ways: the ways; the first is always there.
        floor: what every way must cost.
        ceiling: the seconds that one of the certain ways takes where that is known better than from calls of NumPy.
    """
    name = _FORCED.get()
    if name is not None:
        return _force(what, ways, name)
    preferred = _PREFERRED.get()
    best = None
    if preferred is not None:
        best, predictions = _best([way for way in ways if way.name in preferred], floor, ceiling)
    if best is None:
        best, predictions = _best(ways, floor, ceiling)
    if best is None:
        raise InternalError(f"{what}: needed a way to compute it, got none; report the program")
    chosen, result, _ = best
    record(Choice(what, chosen, tuple(predictions.items())))
    return result


def _best(ways: Sequence[Way[Result]], floor: Cost, ceiling: float) -> tuple[tuple[str, Result, Cost] | None, dict[str, Cost]]:
    """Return the name, the result and the cost of the best way, if there is one, and what is predicted of each."""
    certain = sorted([way for way in ways if way.is_certain], key=lambda way: way.least().seconds)
    expected = SLACK * certain[0].least().seconds if certain else math.inf
    choosing: _Choosing[Result] = _Choosing(floor, expected, ceiling, _CALLS.get())
    for way in ways:
        choosing.consider(way)
    for way in (*(certain[:1] if choosing.best is None else ()), *choosing.given_up):
        choosing.reconsider(way)
    for way in ways:  # what was built may cost more than was expected of it
        if choosing.is_open(way):
            choosing.consider(way)
    if choosing.best is None:  # as where there is nothing to compute, and so nothing to spare
        for way in ways[:1]:
            choosing.reconsider(way)
    return choosing.best, choosing.predictions


@dataclass(slots=True)
class _Choosing(Generic[Result]):
    """What is known of ways while they are looked at in turn.

    Attributes:
        floor: what every way must cost.
        expected: the seconds that some way will not exceed, as far as is known.
        ceiling: the seconds that a certain way will not exceed.
        calls: how often the result is expected to run.
        best: the name, the result and the cost of the best way so far.
        predictions: the predicted cost of each way.
        given_up: the ways that were given up because they cost more than is expected of another.
    """

    floor: Cost
    expected: float
    ceiling: float
    calls: float
    best: tuple[str, Result, Cost] | None = None
    predictions: dict[str, Cost] = field(default_factory=dict)
    given_up: list[Way[Result]] = field(default_factory=list)

    def consider(self, way: Way[Result]) -> None:
        """Build a way if it may win, or, where finding that out takes an analysis, if it may win by much."""
        if not self._is_worthwhile(way):
            self.predictions[way.name] = way.least().at_least()
        elif self.best is None:
            self._build(way, math.inf if way.is_certain else self.expected)
            if way.name in self.predictions and self.best is None:
                self.given_up.append(way)
        else:
            least, limit = way.least(), self.best[2].seconds
            most = limit if way.is_certain else limit / ENOUGH
            if least.seconds >= most or limit <= (NEAR if way.is_certain else ENOUGH) * self.floor.seconds:
                self.predictions[way.name] = least.at_least()
            else:
                self._build(way, limit)

    def is_open(self, way: Way[Result]) -> bool:
        """Whether a way was neither built nor given up, as its least cost was too much beside what was expected."""
        found = self.predictions.get(way.name)
        return self.best is not None and found is not None and found.is_bound and way not in self.given_up

    def _is_worthwhile(self, way: Way[Result]) -> bool:
        """Whether all that a way may spare, beside what is expected of another, is more than building it takes."""
        if math.isinf(self.calls):
            return True
        known = self.expected if self.best is None else self.best[2].seconds
        spared = min(known - max(self.floor.seconds, way.least().seconds), self.ceiling)
        return self.calls * spared > way.effort

    def reconsider(self, way: Way[Result]) -> None:
        """Build a way that was left out or given up, if there is none yet, or what was expected did not come true."""
        limit = math.inf if self.best is None else TIE * self.best[2].seconds
        if self.best is None or (self.predictions[way.name].seconds < limit and self._is_worthwhile(way)):
            self._build(way, limit)

    def _build(self, way: Way[Result], limit: float) -> None:
        built = way.build(limit)
        if built is None:
            return
        result, cost = built
        self.predictions[way.name] = cost
        if result is not None and (self.best is None or cost.seconds < TIE * self.best[2].seconds):
            self.best = way.name, result, cost


def _force(what: str, ways: Sequence[Way[Result]], name: str) -> Result:
    for way in ways:
        built = way.build(float("inf")) if way.name == name else None
        if built is not None and built[0] is not None:
            record(Choice(what, name, ((name, built[1]),)))
            return built[0]
    raise LookupError(f"{what}: there is no {name}")


# -- the record ----------------------------------------------------------------------------------------------------------------

_RECORDED: ContextVar[list[Choice] | None] = ContextVar("recorded", default=None)
_FORCED: ContextVar[str | None] = ContextVar("forced", default=None)
_PREFERRED: ContextVar[frozenset[str] | None] = ContextVar("preferred", default=None)
_CALLS: ContextVar[float] = ContextVar("calls", default=math.inf)


def record(choice: Choice) -> None:
    """Enter a choice into the records of the blocks that keep one."""
    kept = _RECORDED.get()
    if kept is not None:
        kept.append(choice)


@contextlib.contextmanager
def recording() -> Iterator[list[Choice]]:
    """Keep a record of the choices made in a block."""
    kept: list[Choice] = []
    token = _RECORDED.set(kept)
    try:
        yield kept
    finally:
        _RECORDED.reset(token)


@contextlib.contextmanager
def forcing(name: str) -> Iterator[None]:
    """Take the way of a name wherever there is a choice in a block, to measure it; LookupError where there is none."""
    token = _FORCED.set(name)
    try:
        yield
    finally:
        _FORCED.reset(token)


@contextlib.contextmanager
def preferring(names: frozenset[str]) -> Iterator[None]:
    """Take a way of some names wherever there is one in a block, the best of them, whatever others cost."""
    token = _PREFERRED.set(names)
    try:
        yield
    finally:
        _PREFERRED.reset(token)


@contextlib.contextmanager
def serving(calls: float) -> Iterator[None]:
    """Say how often what is derived in a block is expected to run; any number of times outside of such blocks."""
    token = _CALLS.set(calls)
    try:
        yield
    finally:
        _CALLS.reset(token)
