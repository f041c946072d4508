"""A run from beginning to end: encode, register, start the processes, send, judge. What is shown meanwhile is for the caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

from gradwire._client import Client
from gradwire._config import ClientConfig
from gradwire._program import Program
from gradwire_core.errors import ArgumentError
from gradwire_load.arrivals import Arrivals, Step
from gradwire_load.fleet import Fleet
from gradwire_load.generator import Batch, Share
from gradwire_load.scenario import Scenario
from gradwire_load.scrape import Scraper
from gradwire_load.search import Found, Outcome, find_max
from gradwire_load.slo import Objective, Verdict, judge
from gradwire_load.tally import Tally
from gradwire_load.transport import CallError, Connections, Route
from gradwire_load.workload import Checker, Prepared, prepare

SETTLE_S = 1.0  # between two trials
TRIAL_S = 8.0
TRIAL_WARMUP_S = 1.0

Watch = Callable[["Trial"], bool]
"""Told some times a second how a trial goes; False ends it."""


@dataclass(slots=True)
class Trial:
    """One load of a server.

    Attributes:
        arrivals: when requests are due, without the warm-up.
        tally: what happened.
        verdicts: what the objectives say.
        began_s: when counting began, on the monotonic clock.
        was_stopped: whether it was ended early.
    """

    arrivals: Arrivals
    tally: Tally
    verdicts: tuple[Verdict, ...] = ()
    began_s: float = 0.0
    was_stopped: bool = False

    @property
    def holds(self) -> bool:
        """Whether all objectives are met, and no answer was wrong."""
        return not self.tally.wrong and all(item.is_met for item in self.verdicts)


class Attempt(NamedTuple):
    """A trial of the search, in short.

    Attributes:
        rate: the rate.
        outcome: what came of it.
        p50_s: the median latency.
        p99_s: the 99th percentile.
        error_share: the share of requests without a right answer.
        throughput: right answers a second.
    """

    rate: float
    outcome: Outcome
    p50_s: float
    p99_s: float
    error_share: float
    throughput: float


@dataclass(slots=True)
class Search:
    """How the saturation point was looked for.

    Attributes:
        attempts: the trials, in order.
        found: what they say; None where the search was ended early.
        last: the last trial.
    """

    attempts: list[Attempt] = field(default_factory=list)
    found: Found | None = None
    last: Trial | None = None


class Runner:
    """Runs a scenario against a server, for the length of a `with` block.

    Args:
        scenario: what is sent.
        target: the address of the server.
        objectives: what the run is held to.
        config: how the server is known; by default as the environment says.
        urls: the addresses of the server's metrics.
        tell: told what is being done, in a few words.
    """

    def __init__(
        self,
        scenario: Scenario,
        target: str,
        objectives: tuple[Objective, ...],
        config: ClientConfig | None = None,
        urls: Sequence[str] = (),
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.scenario = scenario
        self.target = target
        self.objectives = objectives
        self.server: dict[str, Any] = {}
        self.scraper = Scraper(urls)
        self._config = config or ClientConfig.from_environ()
        self._tell = tell
        self._stack = ExitStack()
        self._prepared: list[Prepared] = []

    def __enter__(self) -> Self:
        """Encode, register and start.

        Raises:
            UnreachableError: no server answers.
            GradwireError: the server refuses what the scenario asks for.
        """
        scenario = self.scenario
        self._tell("encoding requests")
        self._prepared = prepare(scenario)
        self._checker = Checker(self._prepared)
        if scenario.check:
            self._tell("computing the answers that are expected")
            self._checker.compute_all()
        self._tell(f"registering programs at {self.target}")
        self.server = _register(self.target, self._config, self._prepared)
        self._tell("starting generators")
        route = Route(self.target, self._config, scenario.mode, scenario.connections)
        with ExitStack() as stack:
            stack.enter_context(self.scraper)
            self._fleet = stack.enter_context(Fleet(route, self._shares()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None) -> None:
        """End the processes."""
        self._stack.__exit__(kind, error, place)

    @property
    def request_bytes(self) -> list[int]:
        """The bytes of a request of each operation."""
        return [item.requests[0].nbytes for item in self._prepared]

    def _shares(self) -> list[Share]:
        scenario = self.scenario
        operations = tuple(item.requests for item in self._prepared)
        weights = tuple(item.weight for item in scenario.operations)
        count = scenario.processes
        return [
            Share(number, count, operations, weights, scenario.timeout_s, scenario.check, scenario.seed, scenario.in_flight_max)
            for number in range(count)
        ]

    def run(self, watch: Watch, arrivals: Arrivals | None = None, warmup_s: float | None = None) -> Trial:
        """Send once, by default what the scenario says, and judge."""
        arrivals = arrivals or self.scenario.arrivals
        warmup_s = self.scenario.warmup_s if warmup_s is None else warmup_s
        count = len(self._prepared)
        trial = Trial(arrivals, Tally(count, 0.0, 0.0))

        def start(began_s: float) -> None:
            trial.began_s = began_s + warmup_s
            ended_s = trial.began_s + arrivals.duration_s
            late_s = self.scenario.late_ms * 1e-3
            trial.tally = Tally(count, trial.began_s, ended_s, self.scenario.processes, late_s, is_closed=arrivals.is_closed)

        def take(number: int, batch: Batch) -> None:
            trial.tally.add(batch, number)
            for answer in batch.answers:
                problem = self._checker.find_problem(answer.operation, answer.variant, answer.data)
                trial.tally.add_check(answer.operation, answer.due_s, problem)

        def tick() -> bool:
            trial.was_stopped = not watch(trial)
            if trial.was_stopped:
                trial.tally.ended_s = min(trial.tally.ended_s, time.monotonic())
            return not trial.was_stopped

        self._fleet.run(arrivals.with_warmup(warmup_s), start, take, tick)
        trial.verdicts = judge(self.objectives, trial.tally, self.scenario.tolerated)
        return trial

    def search(self, watch: Watch, told: Callable[[Attempt], None], trial_s: float = TRIAL_S) -> Search:
        """Find the highest rate at which the objectives hold.

        Args:
            watch: as for `run`; False ends the search.
            told: told of each trial.
            trial_s: seconds that a trial lasts.
        """
        search = Search()

        def attempt(rate: float) -> Outcome:
            trial = self.run(watch, Arrivals(self.scenario.arrivals.kind, (Step(trial_s, rate),)), TRIAL_WARMUP_S)
            search.last = trial
            if trial.was_stopped:
                raise _StoppedError
            outcome = Outcome.UNSENT if not trial.tally.is_valid else Outcome.HELD if trial.holds else Outcome.FAILED
            tally = trial.tally
            failed = sum(tally.failed.values()) / max(tally.ended, 1)
            latency = tally.latency
            item = Attempt(rate, outcome, latency.percentile_s(50.0), latency.percentile_s(99.0), failed, tally.throughput())
            search.attempts.append(item)
            told(item)
            time.sleep(SETTLE_S)
            return outcome

        with suppress(_StoppedError):
            search.found = find_max(self.scenario.arrivals.mean_level, attempt)
        return search


class _StoppedError(Exception):
    """A search that was ended early."""


def _register(target: str, config: ClientConfig, prepared: Sequence[Prepared]) -> dict[str, Any]:
    """Store all programs at the server, ask what it is, and send one request of each operation, so that it has compiled them.

    Raises:
        GradwireError: no server answers, or it refuses; the text names the operation.
    """
    with Client(target, config) as client:
        capabilities = client.capabilities()
        for item in prepared:
            client.register(Program.of(item.program))
    asyncio.run(_try_all(Route(target, config, "unary"), prepared))
    return {
        "version": capabilities.server_version,
        "api_version": capabilities.api_version,
        "workers": capabilities.worker_count,
    }


async def _try_all(route: Route, prepared: Sequence[Prepared]) -> None:
    connections = Connections(route)
    try:
        for item in prepared:
            try:
                await connections.ask(item.requests[0], route.config.timeout_s)
            except CallError as error:
                text = f"{item.operation.name}: needed a server that answers it, got {error}; correct the operation"
                raise ArgumentError(text, reason=error.reason) from error
    finally:
        await connections.close()
