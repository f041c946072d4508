"""Scenarios: what is sent, how often and for how long, as frozen records that are read from TOML. Nothing here sends."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from gradwire._names import nearest
from gradwire_core.errors import ArgumentError
from gradwire_load.arrivals import KINDS, Arrivals, Step

MODES = ("unary", "stream")
WANTED = (
    "value",
    "grad",
    "jacobian",
    "hessian",
    "jvp",
    "vjp",
    "hvp",
    "jacobian_det",
    "jacobian_slogdet",
    "jacobian_logvolume",
)
LAYOUTS = ("dense", "structured", "sparse")
DTYPES = ("float64", "float32")


@dataclass(frozen=True, slots=True)
class Input:
    """An input of an expression: an array of random numbers.

    Attributes:
        shape: its shape.
        low: with `high`, the range that the numbers are drawn from, uniformly; without, they are standard normal.
        high: the end of that range.
    """

    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One kind of request.

    Attributes:
        name: what reports call it.
        program: the name of a program of `gradwire_load.programs`; else an expression is given.
        expression: a text for `gradwire.from_expression`.
        sizes: the sizes of the program, where they differ from its own.
        inputs: the inputs of the expression, by name.
        want: what is asked for, of `WANTED`.
        wrt: the arguments that derivatives are taken in; by default those that the program names, or the first.
        layout: of Jacobians and Hessians.
        dtype: of all inputs.
        weight: how often it is chosen, in relation to the others.
        variants: how many different inputs there are of it.
    """

    name: str
    program: str = ""
    expression: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=dict)
    want: tuple[str, ...] = ("value",)
    wrt: tuple[str, ...] = ()
    layout: str = "dense"
    dtype: str = "float64"
    weight: float = 1.0
    variants: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A load.

    Attributes:
        name: the name it is run by.
        title: what it is, in a few words.
        about: what it is for.
        text: the TOML it was read from.
        arrivals: when requests are sent.
        warmup_s: seconds at the beginning that are not counted.
        mode: `unary`, a call for each request, or `stream`, a session for each connection.
        processes: how many processes send.
        connections: how many connections each of them has.
        timeout_s: the deadline of a request, in seconds.
        check: the share of answers that is compared with those of the embedded engine.
        seed: of all that is random.
        slo: the objectives, as for `--slo`.
        tolerated: reasons of errors that the objective `errors` does not count.
        late_ms: a request that is sent later than this after its time was sent late by the generator.
        in_flight_max: how many requests a process may have under way; further ones wait, and are late.
        operations: what is sent.
    """

    name: str
    title: str = ""
    about: str = ""
    text: str = ""
    arrivals: Arrivals
    warmup_s: float = 2.0
    mode: str = "unary"
    processes: int = 1
    connections: int = 1
    timeout_s: float = 10.0
    check: float = 0.02
    seed: int = 1
    slo: str = ""
    tolerated: tuple[str, ...] = ()
    late_ms: float = 5.0
    in_flight_max: int = 2000
    operations: tuple[Operation, ...]


def shipped() -> dict[str, str]:
    """Return the scenarios that come with the package: their TOML by name."""
    folder = resources.files("gradwire_load") / "scenarios"
    found = {item.name.removesuffix(".toml"): item.read_text("utf-8") for item in folder.iterdir() if item.name.endswith(".toml")}
    return dict(sorted(found.items()))


def find_scenario(name: str) -> Scenario:
    """Return the scenario of a shipped name or of a TOML file.

    Raises:
        ArgumentError: there is neither, or it is malformed; the text names the place.
    """
    known = shipped()
    if name in known:
        return read_scenario(known[name], name)
    path = Path(name)
    if path.suffix != ".toml" and not path.exists():
        near = nearest(name, list(known))
        advice = f"the nearest is {near}" if near else "see gradwire load list"
        raise ArgumentError(f"scenario: needed one of {', '.join(known)} or a TOML file, got {name!r}; {advice}", given=name)
    try:
        return read_scenario(path.read_text("utf-8"), path.stem)
    except (OSError, UnicodeDecodeError) as error:
        text = f"scenario: needed a file that can be read, got {name} ({error}); check the path"
        raise ArgumentError(text, given=name) from error


def read_scenario(text: str, name: str) -> Scenario:
    """Return the scenario of a TOML text.

    Raises:
        ArgumentError: the text is malformed; the error names the place.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ArgumentError(f"{name}: needed TOML, got a text that is none ({error}); correct it", given=name) from error
    table = _Table(name, data)
    duration_s = table.number("duration_s", 0.0, least=0.0)
    arrivals = _arrivals(table.table("arrivals"), duration_s)
    operations = tuple(_operation(item) for item in table.tables("mix"))
    if not operations:
        raise ArgumentError(f"{name}: needed at least one [[mix]], got none; say what is sent", given=name)
    if len({item.name for item in operations}) < len(operations):
        names = ", ".join(item.name for item in operations)
        raise ArgumentError(f"{name}: needed another name for each [[mix]], got {names}; rename one", given=names)
    scenario = Scenario(
        name=name,
        title=table.text("title", name),
        about=table.text("about", ""),
        text=text,
        arrivals=arrivals,
        warmup_s=table.number("warmup_s", 2.0, least=0.0),
        mode=table.choice("mode", MODES, "unary"),
        processes=table.count("processes", 1),
        connections=table.count("connections", 1),
        timeout_s=table.number("timeout_s", 10.0, above=0.0),
        check=table.number("check", 0.02, least=0.0, most=1.0),
        seed=table.count("seed", 1, least=0),
        slo=table.text("slo", ""),
        tolerated=table.texts("tolerated", ()),
        late_ms=table.number("late_ms", 5.0, above=0.0),
        in_flight_max=table.count("in_flight_max", 2000),
        operations=operations,
    )
    table.finish()
    return scenario


def override(
    scenario: Scenario, *, duration_s: float | None = None, rate: float | None = None, in_flight: int | None = None, **given: Any
) -> Scenario:
    """Return a scenario with other settings; a duration stretches its steps, a rate or number in flight replaces their levels.

    Args:
        scenario: the scenario.
        duration_s: seconds that it lasts, without the warm-up.
        rate: requests a second, all the time.
        in_flight: requests under way all the time, in a closed loop.
        given: other fields; None leaves one as it is.

    Raises:
        ArgumentError: the arrivals are of another kind, or a number is out of its range.
    """
    arrivals = scenario.arrivals
    for name, level, closed in (("rate", rate, False), ("in-flight", in_flight, True)):
        if level is None:
            continue
        if arrivals.is_closed != closed:
            kind = f"the kind {'closed' if closed else 'poisson or uniform'}"
            text = f"{scenario.name}: needed arrivals of {kind} for --{name}, got {arrivals.kind}; choose another scenario"
            raise ArgumentError(text, given=arrivals.kind)
        arrivals = dataclasses.replace(arrivals, steps=(Step(arrivals.duration_s, level),))
    if duration_s is not None:
        factor = duration_s / arrivals.duration_s
        arrivals = dataclasses.replace(arrivals, steps=tuple(Step(item.for_s * factor, item.level) for item in arrivals.steps))
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(scenario, arrivals=arrivals, **changes)


def _arrivals(table: _Table, duration_s: float) -> Arrivals:
    """Read `[arrivals]`: a kind, and one level for the whole duration or steps of their own length."""
    kind = table.choice("kind", KINDS, "poisson")
    unit = "in_flight" if kind == "closed" else "rate"
    steps = table.tables("steps")
    if steps:
        found = tuple(Step(item.number("for_s", above=0.0), item.number(unit, above=0.0)) for item in steps)
        for item in steps:
            item.finish()
        if duration_s:
            text = f"{table.where}: needed no duration_s beside steps, which last for_s each, got {duration_s:g}; leave it out"
            raise ArgumentError(text, given=duration_s)
    else:
        found = (Step(duration_s or 30.0, table.number(unit, above=0.0)),)
    table.finish()
    return Arrivals(kind, found)


def _operation(table: _Table) -> Operation:
    """Read one `[[mix]]`."""
    program, expression = table.text("program", ""), table.text("expression", "")
    if bool(program) == bool(expression):
        text = f"{table.where}: needed either program or expression, got {'both' if program else 'neither'}; give one"
        raise ArgumentError(text, where=table.where)
    want = table.texts("want", ("value",))
    for item in want:
        if item not in WANTED:
            text = f"{table.where}.want: needed names among {', '.join(WANTED)}, got {item!r}; choose of these"
            raise ArgumentError(text, given=item)
    sizes = table.table("sizes")
    inputs = table.table("inputs")
    operation = Operation(
        name=table.text("name", program or expression),
        program=program,
        expression=expression,
        sizes={name: sizes.count(name) for name in list(sizes.data)},
        inputs={name: _input(f"{inputs.where}.{name}", item) for name, item in inputs.data.items()},
        want=want,
        wrt=table.texts("wrt", ()),
        layout=table.choice("layout", LAYOUTS, "dense"),
        dtype=table.choice("dtype", DTYPES, "float64"),
        weight=table.number("weight", 1.0, above=0.0),
        variants=table.count("variants", 4),
    )
    table.finish()
    return operation


def _input(where: str, item: Any) -> Input:
    """Read an input: a shape, or a table with a shape and a range."""
    given = item if isinstance(item, dict) else {"shape": item}
    table = _Table(where, given)
    shape = table.take("shape", [])
    if not isinstance(shape, list) or any(type(length) is not int or length < 1 for length in shape):
        text = f"{where}: needed a shape as a list of whole numbers, got {shape!r}; write [] for a scalar, [1000] for a vector"
        raise ArgumentError(text, given=shape)
    low, high = table.number("low", -math.inf), table.number("high", math.inf)
    table.finish()
    if math.isinf(low) != math.isinf(high) or not low < high:
        raise ArgumentError(
            f"{where}: needed low and high, low below high, got {low:g} and {high:g}; give both", low=low, high=high
        )
    return Input(tuple(shape)) if math.isinf(low) else Input(tuple(shape), low, high)


_REQUIRED: Any = object()


class _Table:
    """A table of TOML whose entries are taken out one by one; what is left at the end was not understood."""

    def __init__(self, where: str, data: dict[str, Any]) -> None:
        self.where = where
        self.data = dict(data)
        self._known: list[str] = []

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        self._known.append(name)
        found = self.data.pop(name, default)
        if found is _REQUIRED:
            raise ArgumentError(f"{self.where}.{name}: needed a value, got none; give one", field=name)
        return found

    def number(
        self, name: str, default: Any = _REQUIRED, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
    ) -> float:
        found = self.take(name, default)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not (least <= found <= most and found > above) * 1:
            if found is default:
                return float(found)
            ends = [f"above {above:g}"] * (above > -math.inf) + [f"of {least:g} or more"] * (least > -math.inf)
            ends += [f"of at most {most:g}"] * (most < math.inf)
            needed = " ".join(["a number", " and ".join(ends)]).rstrip()
            raise ArgumentError(f"{self.where}.{name}: needed {needed}, got {found!r}; correct it", field=name, given=found)
        return float(found)

    def count(self, name: str, default: Any = _REQUIRED, *, least: int = 1) -> int:
        found = self.take(name, default)
        if type(found) is not int or found < least:
            text = f"{self.where}.{name}: needed a whole number of {least} or more, got {found!r}; correct it"
            raise ArgumentError(text, field=name, given=found)
        return found

    def text(self, name: str, default: str) -> str:
        found = self.take(name, default)
        if not isinstance(found, str):
            raise ArgumentError(f"{self.where}.{name}: needed text, got {found!r}; write it in quotes", field=name, given=found)
        return " ".join(found.split())

    def texts(self, name: str, default: Sequence[str]) -> tuple[str, ...]:
        found = self.take(name, default)
        found = [found] if isinstance(found, str) else found
        if not isinstance(found, (list, tuple)) or not all(isinstance(item, str) for item in found):
            raise ArgumentError(f"{self.where}.{name}: needed a list of texts, got {found!r}; write it so", field=name, given=found)
        return tuple(found)

    def choice(self, name: str, among: Sequence[str], default: str) -> str:
        found = self.text(name, default)
        if found not in among:
            text = f"{self.where}.{name}: needed one of {', '.join(among)}, got {found!r}; choose one"
            raise ArgumentError(text, field=name, given=found)
        return found

    def table(self, name: str) -> _Table:
        found = self.take(name, {})
        if not isinstance(found, dict):
            raise ArgumentError(f"{self.where}.{name}: needed a table, got {found!r}; write [{name}]", field=name, given=found)
        return _Table(f"{self.where}.{name}", found)

    def tables(self, name: str) -> list[_Table]:
        found = self.take(name, [])
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise ArgumentError(f"{self.where}.{name}: needed tables, got {found!r}; write [[{name}]]", field=name, given=found)
        return [_Table(f"{self.where}.{name}[{number}]", item) for number, item in enumerate(found)]

    def finish(self) -> None:
        """Refuse what is left."""
        for name in self.data:
            near = nearest(name, self._known)
            advice = f"the nearest is {near}" if near else f"there are {', '.join(self._known)}"
            raise ArgumentError(f"{self.where}: needed settings that exist, got {name}; {advice}", given=name)
