"""The arguments of `gradwire load`, and what each of its commands does."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gradwire._names import nearest
from gradwire_core.errors import ArgumentError, GradwireError, UnreachableError
from gradwire_load.progress import Progress, summary_text
from gradwire_load.report import render
from gradwire_load.result import MEANINGS, ExitCode, summarize
from gradwire_load.runner import TRIAL_S, Attempt, Runner, Search, Trial
from gradwire_load.scenario import MODES, find_scenario, override, read_scenario, shipped
from gradwire_load.slo import read_objectives

TARGET = "localhost:50051"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors name the nearest option."""

    def error(self, message: str) -> NoReturn:
        unknown = [word for word in message.split() if word.startswith("-")]
        options = list(_options(self))
        near = nearest(unknown[0].partition("=")[0], options) if unknown else None
        advice = f"the nearest option is {near}" if near else f"see {self.prog} --help"
        print(f"{self.prog}: {message}; {advice}", file=sys.stderr)
        raise SystemExit(ExitCode.BAD_USE)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options of a parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001  # there is no other way to know them
        yield from action.option_strings
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from _options(command)


def run(arguments: Sequence[str]) -> int:
    """Run a command of `gradwire load` and return its exit code."""
    try:
        options = _parser().parse_args(list(arguments))
        return int(options.command(options))
    except SystemExit as stop:  # after --help or a wrong option
        return int(stop.code or 0)
    except KeyboardInterrupt:  # the second one, for the first ends a run early
        return int(ExitCode.STOPPED)
    except GradwireError as error:
        print("\n".join([f"gradwire load: {error.message}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return int(ExitCode.UNREACHABLE if isinstance(error, UnreachableError) else ExitCode.BAD_USE)


def _parser() -> _Parser:
    parser = _Parser(prog="gradwire load", description="Load a server and measure it.", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    codes = "\n".join(f"  {code:3d}  {text}" for code, text in MEANINGS.items())
    run = commands.add_parser(
        "run",
        help="run a scenario",
        description="Run a scenario against a server. TLS and tokens are told by the environment, as for the SDK.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.set_defaults(command=_run)
    run.add_argument("scenario", metavar="SCENARIO", help="a shipped name (gradwire load list) or a TOML file")
    run.add_argument("--target", metavar="HOST:PORT", default=TARGET, help=f"the server (default: {TARGET})")
    run.add_argument("--duration", type=_positive, metavar="SECONDS", help="of the run, without its warm-up; stretches its steps")
    run.add_argument("--warmup", type=_not_negative, metavar="SECONDS", help="at the beginning that are not counted")
    run.add_argument("--rate", type=_positive, metavar="PER_SECOND", help="requests a second, all the time")
    run.add_argument("--in-flight", type=_whole, metavar="COUNT", help="requests under way all the time, in a closed loop")
    run.add_argument("--processes", type=_whole, metavar="COUNT", help="processes that send")
    run.add_argument("--connections", type=_whole, metavar="COUNT", help="connections of each process")
    run.add_argument("--mode", choices=MODES, help="a call for each request, or a session for each connection")
    run.add_argument("--slo", metavar="OBJECTIVES", help="such as p99=20ms,errors=0; also mean, max, throughput=100/s")
    run.add_argument("--find-max", action="store_true", help="find the highest rate at which the objectives hold, and run at it")
    run.add_argument(
        "--trial", type=_positive, metavar="SECONDS", default=TRIAL_S, help="of each trial of --find-max (default: %(default)g)"
    )
    run.add_argument("--check", type=_share, metavar="SHARE", help="of the answers that is compared with the embedded engine's")
    run.add_argument("--seed", type=int, metavar="NUMBER", help="of all that is random")
    run.add_argument(
        "--metrics-url",
        action="append",
        default=[],
        metavar="URL",
        help="the server's Prometheus address, HOST:PORT or whole; may be repeated",
    )
    run.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    run.add_argument("--report", type=Path, metavar="FILE.html", help="write the report, one page that needs no network")
    run.add_argument("--quiet", action="store_true", help="show no progress")
    commands.add_parser("list", help="list the shipped scenarios", allow_abbrev=False).set_defaults(command=_list)
    show = commands.add_parser("show", help="print a shipped scenario, to start one's own from", allow_abbrev=False)
    show.set_defaults(command=_show)
    show.add_argument("name", metavar="NAME")
    report = commands.add_parser("report", help="write the report of a result in JSON", allow_abbrev=False)
    report.set_defaults(command=_report)
    report.add_argument("result", type=Path, metavar="RESULT.json")
    report.add_argument("page", type=Path, metavar="FILE.html")
    return parser


def _number(kind: Callable[[str], Any], needed: str, is_right: Callable[[Any], bool]) -> Callable[[str], Any]:
    """Return a reader of a number in a range."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if is_right(value):
                return value
        raise argparse.ArgumentTypeError(f"needed {needed}, got {text!r}")

    return read


_positive = _number(float, "a number above 0", lambda value: 0.0 < value < float("inf"))
_not_negative = _number(float, "a number of 0 or more", lambda value: 0.0 <= value < float("inf"))
_whole = _number(int, "a whole number above 0", lambda value: value > 0)
_share = _number(float, "a share from 0 to 1", lambda value: 0.0 <= value <= 1.0)


# -- the commands --------------------------------------------------------------------------------------------------------------


def _list(_: Any) -> int:
    for name, text in shipped().items():
        scenario = read_scenario(text, name)
        print(f"{name:<16}{scenario.title}")
        print(f"{'':<16}{scenario.about}")
    return ExitCode.PASSED


def _show(options: Any) -> int:
    known = shipped()
    if options.name not in known:
        near = nearest(options.name, list(known))
        advice = f"the nearest is {near}" if near else "see gradwire load list"
        raise ArgumentError(f"show: needed one of {', '.join(known)}, got {options.name!r}; {advice}", given=options.name)
    print(known[options.name], end="")
    return ExitCode.PASSED


def _report(options: Any) -> int:
    try:
        result = json.loads(options.result.read_text("utf-8"))
        page = render(result)
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"report: needed a result that `gradwire load run --json` wrote, got {options.result} ({error!r}); choose another"
        raise ArgumentError(text, given=options.result) from error
    _write(options.page, page)
    return ExitCode.PASSED


def _run(options: Any) -> int:
    scenario = override(
        find_scenario(options.scenario),
        duration_s=options.duration,
        rate=options.rate,
        in_flight=options.in_flight,
        warmup_s=options.warmup,
        processes=options.processes,
        connections=options.connections,
        mode=options.mode,
        check=options.check,
        seed=options.seed,
        slo=options.slo,
    )
    objectives = read_objectives(scenario.slo)
    if options.find_max and (scenario.arrivals.is_closed or not objectives):
        given = "a closed loop" if scenario.arrivals.is_closed else "none"
        raise ArgumentError(f"--find-max: needed an open loop with objectives, got {given}; give --slo p99=20ms,errors=0")
    progress = Progress()
    tell = (lambda _: None) if options.quiet else progress.tell
    with _interrupts() as interrupted:

        def watch(trial: Trial) -> bool:
            if not options.quiet:
                progress.show(trial)
            return not interrupted

        with Runner(scenario, options.target, objectives, urls=options.metrics_url, tell=tell) as runner:
            trial, search = _send(runner, watch, progress.tell_attempt, options)
    progress.clear()
    result = summarize(runner, trial, search)
    if options.json:
        _write(options.json, json.dumps(result, indent=1, allow_nan=False) + "\n")
    if options.report:
        _write(options.report, render(result))
    print(summary_text(result))
    return int(result["verdict"]["code"])


def _send(
    runner: Runner, watch: Callable[[Trial], bool], told: Callable[[Attempt], None], options: Any
) -> tuple[Trial, Search | None]:
    """Run once; or find the highest rate, and run at it."""
    if not options.find_max:
        return runner.run(watch), None
    search = runner.search(watch, told, options.trial)
    if search.found is None:
        assert search.last is not None
        return search.last, search
    rate = search.found.rate or runner.scenario.arrivals.mean_level
    return runner.run(watch, override(runner.scenario, rate=rate).arrivals), search


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect interrupts in a list, instead of raising: a run that is interrupted is reported. The second one raises."""
    found: list[int] = []

    def note(number: int, _: Any) -> None:
        if found:
            raise KeyboardInterrupt
        found.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ArgumentError(f"{path}: needed a place to write to, got {error.strerror}; choose another", given=path) from error
