"""What the processes report, added up: histograms, counts and what happened in each second. Nothing here sends or prints."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradwire_core.types import Array
from gradwire_load.generator import COLUMNS, SAMPLE_TEXTS, Batch
from gradwire_load.histogram import Histogram

WRONG_ANSWER = "WRONG_ANSWER"
LATE_SHARE = 0.01
"""The share of requests that may be sent late; past it a run is invalid."""


@dataclass(slots=True)
class OperationTally:
    """What happened to the requests of one operation."""

    latency: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    failed: Counter[str] = field(default_factory=Counter)
    checked: int = 0

    @property
    def answered(self) -> int:
        """How many were answered, and not found wrong."""
        return self.latency.count - self.failed[WRONG_ANSWER]


@dataclass(slots=True)
class Second:
    """What ended in one second."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    latencies: list[Array] = field(default_factory=list)
    percentiles_ms: tuple[float, float, float] | None = None

    def close(self) -> None:
        """Keep the percentiles and forget the latencies."""
        if self.latencies:
            values = np.percentile(np.concatenate(self.latencies), (50.0, 99.0, 100.0)) * 1e3
            self.percentiles_ms = (float(values[0]), float(values[1]), float(values[2]))
            self.latencies = []


class Tally:
    """A run, as far as it is known.

    Args:
        operation_count: how many operations there are.
        began_s: the time from which requests count: when the warm-up is over.
        ended_s: the time up to which requests that are due count.
        process_count: how many processes report.
        late_s: a request sent so much after it was due was sent late.
        is_closed: whether requests are due when they are sent.
    """

    def __init__(
        self,
        operation_count: int,
        began_s: float,
        ended_s: float,
        process_count: int = 1,
        late_s: float = 5e-3,
        *,
        is_closed: bool = False,
    ) -> None:
        self.began_s = began_s
        self.ended_s = ended_s
        self.late_s = late_s
        self.is_closed = is_closed
        self.operations = [OperationTally() for _ in range(operation_count)]
        self.failures = Histogram()
        self.lateness = Histogram()
        self.seconds: list[Second] = []
        self.texts: dict[str, list[str]] = {}
        self.late = 0
        self.held = 0
        self.wrong = 0
        self.last_done_s = began_s
        self._until_s = [0.0] * process_count
        self._in_flight = [0] * process_count
        self._cpu_s: list[list[tuple[float, float]]] = [[] for _ in range(process_count)]
        self._closed_seconds = 0

    def add(self, batch: Batch, process: int = 0) -> None:
        """Take the report of a process."""
        rows = np.frombuffer(batch.rows, np.float64).reshape(-1, COLUMNS)
        rows = rows[(rows[:, 0] >= self.began_s) & (rows[:, 0] < self.ended_s)]
        due, sent, done, operations, outcomes = rows.T
        for reason, texts in batch.texts.items():
            kept = self.texts.setdefault(reason, [])
            kept += texts[: SAMPLE_TEXTS - len(kept)]
        if rows.size:
            self.lateness.add(sent - due)
            self.late += int(np.count_nonzero(sent - due > self.late_s))
            self.last_done_s = max(self.last_done_s, float(done.max()))
            is_ok = outcomes == 0
            self.failures.add((done - due)[~is_ok])
            for number, tally in enumerate(self.operations):
                chosen = is_ok & (operations == number)
                tally.latency.add((done - due)[chosen])
                tally.service.add((done - sent)[chosen])
                failed = np.bincount(outcomes[~is_ok & (operations == number)].astype(np.int64), minlength=len(batch.outcomes))
                tally.failed.update({reason: int(count) for reason, count in zip(batch.outcomes, failed, strict=True) if count})
            self._add_seconds(sent, done, done - due, is_ok)
        self._until_s[process] = batch.until_s
        self._in_flight[process] = batch.in_flight
        self.held += batch.held
        self._cpu_s[process].append((batch.until_s, batch.cpu_s))
        self._close_seconds()

    def add_check(self, operation: int, due_s: float, problem: str | None) -> None:
        """Count an answer that was compared, and what was wrong with it; answers of the warm-up are compared too."""
        tally = self.operations[operation]
        tally.checked += 1
        if problem is not None:
            self.wrong += 1
            tally.failed[WRONG_ANSWER] += self.began_s <= due_s < self.ended_s
            texts = self.texts.setdefault(WRONG_ANSWER, [])
            if len(texts) < SAMPLE_TEXTS:
                texts.append(problem)

    def _add_seconds(self, sent: Array, done: Array, latency: Array, is_ok: Array) -> None:
        begun = np.floor(sent - self.began_s).astype(np.int64)
        ended = np.floor(done - self.began_s).astype(np.int64)
        while len(self.seconds) <= max(int(ended.max()), int(begun.max())):
            self.seconds.append(Second())
        for second, count in enumerate(np.bincount(begun)):
            self.seconds[second].sent += int(count)
        for second in np.unique(ended).tolist():
            place = self.seconds[second]
            chosen = latency[(ended == second) & is_ok]
            place.answered += chosen.size
            place.failed += int(np.count_nonzero(ended == second)) - chosen.size
            if chosen.size:
                place.latencies.append(chosen)

    def _close_seconds(self) -> None:
        """Forget the latencies of seconds that all processes have reported."""
        complete = int(min(self._until_s) - self.began_s)
        for second in self.seconds[self._closed_seconds : max(complete, 0)]:
            second.close()
        self._closed_seconds = max(self._closed_seconds, min(complete, len(self.seconds)))

    # -- what is asked of it -----------------------------------------------------------------------------------------------------

    @property
    def latency(self) -> Histogram:
        """The latencies of all answers, from when the requests were due."""
        return _merged([tally.latency for tally in self.operations])

    @property
    def service(self) -> Histogram:
        """The times of all answers, from when the requests were sent."""
        return _merged([tally.service for tally in self.operations])

    @property
    def failed(self) -> Counter[str]:
        """The requests without a right answer, by reason."""
        return sum((tally.failed for tally in self.operations), Counter())  # without those that are 0

    @property
    def ended(self) -> int:
        """How many requests ended."""
        return sum(tally.latency.count for tally in self.operations) + self.failures.count

    @property
    def answered(self) -> int:
        """How many were answered, and not found wrong."""
        return sum(tally.answered for tally in self.operations)

    @property
    def checked(self) -> int:
        """How many answers were compared."""
        return sum(tally.checked for tally in self.operations)

    @property
    def late_share(self) -> float:
        """The share of requests that the generator sent late."""
        return self.late / max(self.ended, 1)

    @property
    def is_valid(self) -> bool:
        """Whether the generator kept its schedule."""
        return self.is_closed or self.late_share <= LATE_SHARE

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return sum(self._in_flight)

    @property
    def span_s(self) -> float:
        """Seconds in which the requests that count were answered: as they were due, or longer, where answers came later."""
        return max(min(self.ended_s, max(self._until_s)), self.last_done_s) - self.began_s

    def throughput(self) -> float:
        """Return the right answers a second."""
        return self.answered / self.span_s if self.span_s > 0 else 0.0

    def cpu(self) -> tuple[float, float]:
        """Return the largest share of a core that a process took, and the seconds of processor time for each request."""
        shares, seconds = [0.0], 0.0
        for points in self._cpu_s:
            inside = [point for point in points if self.began_s <= point[0] <= self.ended_s]
            if len(inside) > 1:
                (first_s, first), (last_s, last) = inside[0], inside[-1]
                shares.append((last - first) / max(last_s - first_s, 1e-9))
                seconds += (last - first) / max(last_s - first_s, 1e-9)
        rate = self.ended / max(self.ended_s - self.began_s, 1e-9)
        return max(shares), seconds / rate if rate else 0.0

    def series(self, expected: Sequence[float], length: int) -> dict[str, list[Any]]:
        """Return what happened in each second.

        Args:
            expected: how many requests were due in each.
            length: how many seconds.
        """
        for second in self.seconds:
            second.close()
        rows = itertools.islice(itertools.zip_longest(self.seconds, expected), length)
        found: dict[str, list[Any]] = {name: [] for name in ("t", "due", "sent", "answered", "failed", "p50", "p99", "max")}
        for number, (known, due) in enumerate(rows):
            second = known or Second()
            percentiles = second.percentiles_ms or (None, None, None)
            values = (number + 1, due or 0.0, second.sent, second.answered, second.failed, *percentiles)
            for name, value in zip(found, values, strict=True):
                found[name].append(value)
        return found


def _merged(histograms: Sequence[Histogram]) -> Histogram:
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole
