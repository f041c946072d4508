"""Results of runs that took place in virtual time, with every part that a report can have."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np

from gradwire_load.arrivals import Arrivals, Step
from gradwire_load.result import summarize
from gradwire_load.runner import Attempt, Search, Trial
from gradwire_load.scenario import find_scenario
from gradwire_load.scrape import Scraper
from gradwire_load.search import Found, Outcome
from gradwire_load.slo import judge, read_objectives
from gradwire_load.transport import CallError
from tests.load.virtual import DelayedEcho, send, share

METRICS = """# TYPE gradwire_queue_length gauge
gradwire_queue_length {}
# TYPE gradwire_worker_starts_total counter
gradwire_worker_starts_total 3
"""


class Mixed(DelayedEcho):
    """An echo that refuses some requests, with a text that looks like HTML."""

    async def ask(self, request, timeout_s):
        number = self.asked
        answer = await super().ask(request, timeout_s)
        if number % 50 == 0:
            raise CallError("OVERLOADED" if number % 100 else "INTERNAL", "queue: <script>alert(1)</script> & more")
        return answer


def trial_of(transport, slo="p99=20ms,errors=0", steps=((4.0, 200.0), (4.0, 400.0)), kind="poisson", **given):
    arrivals = Arrivals(kind, tuple(Step(*step) for step in steps))
    tally, _ = send(transport, arrivals, of=share(3), **given)
    tally.add_check(0, tally.began_s, None)
    return Trial(arrivals, tally, judge(read_objectives(slo), tally), tally.began_s)


def runner_of(trial, scenario="calibration", urls=("127.0.0.1:9464",)):
    scenario = dataclasses.replace(find_scenario(scenario), arrivals=trial.arrivals)
    lengths = iter(range(1, 100))
    scraper = Scraper(urls, lambda _: METRICS.format(next(lengths) % 5))
    for second in range(9 if urls else 0):
        scraper.read()
        scraper.readings[-1] = scraper.readings[-1]._replace(second=trial.began_s + second)
    server = {"version": "0.1.0", "api_version": "1.0", "workers": 2}
    sizes = [100, 20_000, 3_000_000]
    return SimpleNamespace(scenario=scenario, target="127.0.0.1:50051", server=server, scraper=scraper, request_bytes=sizes)


def search_of():
    rates = ((100.0, Outcome.HELD), (200.0, Outcome.HELD), (400.0, Outcome.FAILED), (283.0, Outcome.HELD), (336.0, Outcome.UNSENT))
    attempts = [Attempt(rate, outcome, rate * 1e-5, rate * 1e-4, 0.01, rate) for rate, outcome in rates]
    return Search(attempts, Found(283.0, 336.0, is_limited=False))


def full_result():
    """A result with errors, metrics and a search."""
    delays = np.random.default_rng(1).lognormal(np.log(4e-3), 0.7, 5000)
    trial = trial_of(Mixed(delays))
    return summarize(runner_of(trial), trial, search_of())


def plain_result():
    """A result of a closed loop without any of that."""
    trial = trial_of(DelayedEcho([5e-3]), "", ((3.0, 4.0),), "closed")
    return summarize(runner_of(trial, urls=()), trial)


def empty_result():
    """A result of a run in which nothing was answered."""
    trial = trial_of(DelayedEcho([5e-3], "UNAVAILABLE"))
    return summarize(runner_of(trial, urls=()), trial)
