"""The result of a run as a dictionary of what JSON can hold: the file of `--json`, and all that the report draws."""

from __future__ import annotations

import datetime as dt
import math
import os
import platform
from enum import IntEnum
from importlib.metadata import version
from typing import Any

from gradwire_load.histogram import Histogram
from gradwire_load.runner import Runner, Search, Trial
from gradwire_load.tally import LATE_SHARE, Tally

FORMAT = 1
MOST_REASONS = 20


class ExitCode(IntEnum):
    """How `gradwire load run` ends."""

    PASSED = 0
    """Every objective was met."""
    MISSED = 1
    """An objective was missed."""
    BAD_USE = 2
    """The arguments, the scenario or the server's answer to it are in the way of a run."""
    INVALID = 3
    """The generator sent more than 1 % of the requests late: the figures say nothing of the server."""
    UNREACHABLE = 4
    """No server answered."""
    WRONG = 5
    """An answer was wrong."""
    STOPPED = 130
    """The run was ended by an interrupt."""


MEANINGS = {
    ExitCode.PASSED: "every objective was met",
    ExitCode.MISSED: "an objective was missed",
    ExitCode.BAD_USE: "the arguments or the scenario are wrong, or the server refuses it",
    ExitCode.INVALID: f"the generator sent more than {LATE_SHARE * 100:g} % of the requests late: the figures are not the server's",
    ExitCode.UNREACHABLE: "no server answered",
    ExitCode.WRONG: "an answer was not that of the embedded engine",
    ExitCode.STOPPED: "interrupted; what was measured is reported",
}
"""What `--help` says of each exit code."""


def exit_code(trial: Trial, search: Search | None = None) -> ExitCode:
    """Return how a run ends."""
    if trial.tally.wrong:
        return ExitCode.WRONG
    if trial.was_stopped:
        return ExitCode.STOPPED
    if not trial.tally.is_valid:
        return ExitCode.INVALID
    if search is not None and search.found is not None and not search.found.rate:
        return ExitCode.MISSED
    return ExitCode.PASSED if trial.holds else ExitCode.MISSED


def explain(trial: Trial, search: Search | None = None) -> str:
    """Return how a run ended, in a sentence."""
    code, tally = exit_code(trial, search), trial.tally
    missed = ", ".join(str(item.objective) for item in trial.verdicts if not item.is_met)
    return {
        ExitCode.PASSED: "Every objective was met." if trial.verdicts else "There were no objectives.",
        ExitCode.MISSED: f"Missed {missed}." if missed else "No rate met the objectives.",
        ExitCode.INVALID: _explain_lateness(tally),
        ExitCode.WRONG: f"{tally.wrong} of {tally.checked} checked answers were wrong.",
        ExitCode.STOPPED: "These are the figures up to then.",
    }[code]


def _explain_lateness(tally: Tally) -> str:
    text = f"The generator sent {tally.late_share:.1%} of the requests more than {tally.late_s * 1e3:g} ms late"
    if tally.held > tally.late / 2:
        return f"{text}: as many as it may have under way were. Raise in_flight_max, or lower timeout_s or the rate."
    return f"{text}. Use more processes, a lower rate, or a machine of its own."


def summarize(runner: Runner, trial: Trial, search: Search | None = None) -> dict[str, Any]:
    """Return all there is to say of a run."""
    scenario, tally, arrivals = runner.scenario, trial.tally, trial.arrivals
    code = exit_code(trial, search)
    cpu_share, cpu_s = tally.cpu()
    length_s = max(tally.ended_s - tally.began_s, 0.0)
    due = [] if arrivals.is_closed else _due(trial)
    return {
        "format": FORMAT,
        "gradwire": version("gradwire"),
        "ended_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "verdict": {"code": int(code), "name": code.name.lower(), "text": explain(trial, search)},
        "scenario": {"name": scenario.name, "title": scenario.title, "about": scenario.about, "toml": scenario.text},
        "target": runner.target,
        "server": runner.server,
        "machine": {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()},
        "settings": {
            "mode": scenario.mode,
            "arrivals": arrivals.kind,
            "steps": [{"for_s": step.for_s, "level": step.level} for step in arrivals.steps],
            "duration_s": length_s,
            "warmup_s": scenario.warmup_s,
            "processes": scenario.processes,
            "connections": scenario.connections,
            "timeout_s": scenario.timeout_s,
            "tolerated": list(scenario.tolerated),
        },
        "requests": {
            "ended": tally.ended,
            "answered": tally.answered,
            "failed": sum(tally.failed.values()),
            "checked": tally.checked,
            "offered_per_s": None if arrivals.is_closed else arrivals.expected(0.0, length_s) / max(length_s, 1e-9),
            "answered_per_s": tally.throughput(),
        },
        "slo": [
            {
                "objective": str(item.objective),
                "name": item.objective.name,
                "limit": item.objective.limit * 1e3 if item.objective.is_latency else item.objective.limit,
                "measured": item.objective.show(item.measured),
                "met": item.is_met,
            }
            for item in trial.verdicts
        ],
        "latency_ms": _times(tally.latency),
        "service_ms": _times(tally.service),
        "failure_ms": tally.failures.summary(),
        "operations": _operations(runner, tally),
        "errors": _errors(tally),
        "seconds": tally.series(due, math.ceil(length_s)),
        "generator": {
            "late_share": tally.late_share,
            "late_ms": tally.late_s * 1e3,
            "lateness_ms": tally.lateness.summary(),
            "busiest_core_share": cpu_share,
            "cpu_us_per_request": cpu_s * 1e6,
        },
        "metrics": runner.scraper.summary(tally.began_s, tally.ended_s)
        if runner.scraper.readings or runner.scraper.problem
        else None,
        "search": None if search is None else _search(search),
    }


def _due(trial: Trial) -> list[float]:
    length_s = trial.tally.ended_s - trial.tally.began_s
    return [trial.arrivals.expected(second, min(second + 1, length_s)) for second in range(math.ceil(length_s))]


def _times(histogram: Histogram) -> dict[str, Any]:
    curve = [[percent, seconds * 1e3] for percent, seconds in histogram.curve()]
    return histogram.summary() | {"curve": curve}


def _operations(runner: Runner, tally: Tally) -> list[dict[str, Any]]:
    found = []
    for operation, size, item in zip(runner.scenario.operations, runner.request_bytes, tally.operations, strict=True):
        found.append(
            {
                "name": operation.name,
                "asks": ", ".join(operation.want),
                "of": operation.program or operation.expression,
                "request_bytes": size,
                "answered": item.answered,
                "failed": sum(item.failed.values()),
                "checked": item.checked,
                "latency_ms": item.latency.summary(),
                "service_ms": item.service.summary(),
            }
        )
    return found


def _errors(tally: Tally) -> list[dict[str, Any]]:
    return [
        {"reason": reason, "count": count, "share": count / max(tally.ended, 1), "texts": tally.texts.get(reason, [])}
        for reason, count in tally.failed.most_common(MOST_REASONS)
    ]


def _search(search: Search) -> dict[str, Any]:
    found = search.found
    return {
        "rate": found.rate if found else 0.0,
        "failed_at": found.failed if found and math.isfinite(found.failed) else None,
        "is_limited_by_generator": bool(found and found.is_limited),
        "trials": [
            {
                "rate": item.rate,
                "outcome": item.outcome.value,
                "p50_ms": item.p50_s * 1e3,
                "p99_ms": item.p99_s * 1e3,
                "error_share": item.error_share,
                "answered_per_s": item.throughput,
            }
            for item in search.attempts
        ],
    }
