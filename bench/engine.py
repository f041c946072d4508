"""The engine in process, beside `jax.jit`, `torch.func`, autograd, CasADi, and the same derivative written by hand in NumPy.

Every workload is computed by all of them in one process, on one thread and one processor. Results are compared to 1e-9 of their
largest element (1e-5 in float32) before anything is timed. Warm: medians of processor time, taken in turns. Cold: from a new
program to its first answer (traced, derived, planned, compiled, run), less a warm call, when everything else is loaded and warm.

    python bench/engine.py --only kepler --json figures.json    # one group of workloads; groups: GROUPS, and those of FIGURES
    python bench/engine.py --all folder                         # what docs/performance.md says: tables and picture
"""

from __future__ import annotations

from _measure import ROUND_MS, SLOW_MS, THREADS, first_call, options, settle, time_once, time_warm  # isort: skip  # sets threads first
from _peers import flat_arrays, versions  # isort: skip  # limits the peers' threads before they are imported

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from _engine_cold import Cold
from _engine_libraries import LIBRARIES, MISSING, autograd, in_gradwire
from _engine_tables import tables
from _engine_workloads import GROUPS, Workload, chain, kepler

import gradwire as gw
from gradwire._embedded import EMBEDDED
from gradwire_core.engine import Output, compile
from gradwire_core.kernels.chunks import COMPILING_CALLS
from gradwire_core.plans import Plans
from gradwire_core.transforms import Transform

HAND = "NumPy by hand"
OURS = "gradwire"
WORKLOAD_MS = 3000.0
ROUNDS = 9
COLD_RUNS = 3


@dataclass(frozen=True)
class Result:
    """One workload.

    Attributes:
        workload: what is computed.
        warm_ms: the median of a call, by library.
        cold_ms: what the first answer to a new program takes beyond a warm call, by library.
        ratio: gradwire over the fastest library; hand-written NumPy is none.
        hand_ratio: gradwire over NumPy by hand.
        jax_cold_ms: what it takes for jax.jit; None where that is not measured.
        is_bound: whether it takes that at least, and was ended then.
        cold_ratio: gradwire's cold cost over that of jax.jit.
        gradient_ratio: the gradient over the value, both by gradwire; None where there is no such value.
        bound: the wanted gradient_ratio.
        counts: whether the means are also of it.
    """

    workload: str
    warm_ms: dict[str, float]
    cold_ms: dict[str, float]
    ratio: float | None
    hand_ratio: float
    jax_cold_ms: float | None
    is_bound: bool
    cold_ratio: float | None
    gradient_ratio: float | None
    bound: float
    counts: bool

    @property
    def fastest(self) -> str:
        """The fastest library beside gradwire."""
        peers = {name: spent for name, spent in self.warm_ms.items() if name not in (OURS, HAND)}
        return min(peers, key=peers.__getitem__, default="-")


@dataclass(frozen=True)
class Figure:
    """A single figure, and what is wanted of it."""

    what: str
    value: float
    at_most: float
    note: str


def agree(name: str, mine: Any, other: Any, rtol: float) -> None:
    """Check that results hold the same arrays, to a part of their largest element."""
    for one, two in zip(flat_arrays(mine), flat_arrays(other), strict=True):
        two = two.reshape(one.shape)  # noqa: PLW2901  # a column of one is a number to others
        largest = max(1.0, float(np.max(np.abs(one), initial=0.0)))
        np.testing.assert_allclose(two, one, rtol=rtol, atol=rtol * largest, err_msg=name)


def in_turns(calls: dict[str, Callable[[], Any]], spent: dict[str, float]) -> dict[str, float]:
    """Return the median milliseconds of each call, timed in turns; `spent` is about what one took."""
    counts = {name: max(1, min(2000, int(ROUND_MS / max(spent[name], 1e-3)))) for name in calls}
    whole = sum(spent[name] * counts[name] for name in calls)
    rounds = min(ROUNDS, max(3, int(WORKLOAD_MS / max(whole, 1e-3))))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time_it = time_once if spent[name] > SLOW_MS else time_warm
            if not (found[name] and spent[name] > WORKLOAD_MS / 2):
                found[name].append(time_it(call, counts[name]))
    return {name: statistics.median(times) for name, times in found.items()}


def makers(workload: Workload) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Return, for each library, what makes a call of a new program."""

    def make(name: str) -> Callable[[], Any]:
        library = LIBRARIES[name]()
        return library.prepare(workload.derived(library), workload.arrays)

    found = {name: lambda name=name: make(name) for name in (OURS, *workload.peers) if name in LIBRARIES}
    return found | workload.others


def measure(workload: Workload) -> Result:
    """Compare all libraries on one workload."""
    calls: dict[str, Callable[[], Any]] = {HAND: lambda: workload.by_hand(*workload.arrays)}
    expected = calls[HAND]()
    cold: dict[str, float] = {}
    made = makers(workload)
    for name, maker in made.items():
        calls[name] = maker()
        result, cold[name] = first_call(calls[name])
        agree(f"{workload.name}: {name}", expected, result, workload.rtol)
    for _ in range(COLD_RUNS - 1):  # a first call is short here, and noise is not
        if cold[OURS] < SLOW_MS:
            cold[OURS] = min(cold[OURS], first_call(made[OURS]())[1])
    if workload.value is not None:
        library = in_gradwire()
        calls["value"] = library.prepare(library.evaluate(workload.value(library)), workload.arrays)
        calls["value"]()
    for name in (OURS, "value"):
        if name in calls:
            settle(calls[name])
    spent = {name: time_once(call, 1) for name, call in calls.items()}
    spent = {name: time_once(call, 1) if spent[name] < SLOW_MS else spent[name] for name, call in calls.items()}
    warm = in_turns(calls, spent)
    value = warm.pop("value", None)
    beyond = {name: max(cold[name] - warm[name], 0.0) for name in cold}
    peers = [spent for name, spent in warm.items() if name not in (OURS, HAND)]
    jax_cold = Cold(beyond["jax.jit"], is_bound=False) if "jax.jit" in beyond else None
    if workload.jax_cold is not None:
        jax_cold = workload.jax_cold()
    return Result(
        workload.name,
        warm,
        beyond,
        warm[OURS] / min(peers) if peers else None,
        warm[OURS] / warm[HAND],
        None if jax_cold is None else jax_cold.ms,
        jax_cold is not None and jax_cold.is_bound,
        None if jax_cold is None else beyond[OURS] / jax_cold.ms,
        None if value is None else warm[OURS] / value,
        workload.bound,
        workload.counts,
    )


# -- single figures ------------------------------------------------------------------------------------------------------------


def short_function(x):
    return np.sum(np.exp(-(x**2)) * np.sin(x) + np.log(1.0 + x**2) * np.cos(x) + np.sqrt(1.0 + x**2))


def short_gradient_by_hand(x):
    square = x * x
    twice = 2.0 * x
    more = 1.0 + square
    bell = np.exp(-square)
    sine, cosine = np.sin(x), np.cos(x)
    inner = cosine / more - sine * bell + 0.5 / np.sqrt(more)
    return inner * twice + bell * cosine - np.log(more) * sine


def latency() -> Iterator[Figure]:
    """A cached call of the gradient of a short function of 10 numbers, over the NumPy calls by hand."""
    x = np.linspace(-1.0, 1.0, 10)
    derived = gw.grad(short_function)
    executable = compile(gw.trace(short_function, x), [Output((Transform("grad", (0,)),))])
    calls = {"SDK": lambda: derived(x), "engine": lambda: executable.run([x]), HAND: lambda: short_gradient_by_hand(x)}
    for name, call in calls.items():
        agree(name, calls[HAND](), call() if name != "engine" else call()[0][0], 1e-9)
    found = in_turns(calls, {name: time_warm(call, 100) for name, call in calls.items()})
    note = f"{len(executable.plan.steps)} steps, {{:.1f}} us; by hand {found[HAND] * 1e3:.1f} us"
    for name in ("SDK", "engine"):
        yield Figure(
            f"latency of a short gradient, n=10: {name} / by hand", found[name] / found[HAND], 3.0, note.format(found[name] * 1e3)
        )


def slope(times: dict[int, float]) -> float:
    """Return the exponent by which times grow, fitted through all."""
    return float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])


def chain_of(length: int) -> Callable[[Any], Any]:
    def function(x):
        y = x
        for _ in range(length // 2):
            y = np.sin(y) * x
        return np.sum(y)

    return function


def growth() -> Iterator[Figure]:
    """How costs grow with equations, from 10^2 to 10^6, and with elements, from 10^2 to 10^7."""
    cold, warm, held = {}, {}, 0.0
    x = np.linspace(0.5, 1.0, 3)
    for length in (30, 300, 3000, 30_000, 285_714):  # whose gradients have about 3.5 times as many equations
        runs = [_grown(length, x) for _ in range(3 if length < 100_000 else 1)]
        count, _, _, held = runs[-1]
        cold[count], warm[count] = min(run[1] for run in runs), min(run[2] for run in runs)
    note = lambda times: "ms: " + ", ".join(f"{count:,}: {spent:.3g}" for count, spent in times.items())
    each = max(spent / count for count, spent in cold.items() if count >= MANY) * 1e3
    yield Figure("compile time, microseconds an equation of the gradient, the most", each, 100.0, f"from {MANY:,} equations on")
    yield Figure("compile time by equations: exponent", slope(cold), 1.05, note(cold))
    yield Figure("warm time by equations: exponent", slope(warm), 1.05, note(warm))
    yield Figure("memory of a compiled gradient, bytes an equation", held, MOST_BYTES, f"resident, at {max(cold):,} equations")
    library, by_size = in_gradwire(), {}
    derived = library.grad(lambda x: np.sum(np.sin(x) * np.exp(-0.5 * (x * x))))
    for power in range(2, 8):
        x = np.linspace(-1.0, 1.0, 10**power)
        derived(x)
        count = max(1, 10 ** (5 - power))
        by_size[len(x)] = statistics.median([time_warm(lambda x=x: derived(x), count) for _ in range(5)])
    yield Figure("warm time by elements: exponent", slope(by_size), 1.05, note(by_size))


MANY = 10_000
MOST_BYTES = 3000.0
"""What the engine counts an equation as, in a cache of executables."""


def _grown(length: int, x: np.ndarray) -> tuple[int, float, float, float]:
    """Return the equations of the gradient of a chain, the milliseconds of compiling and of a call, and the bytes an equation."""
    gc.collect()
    before = _resident_bytes()
    program, spent = first_call(lambda: gw.trace(chain_of(length), x))
    tier = EMBEDDED._cache._tier  # what no caller needs; None without machine code
    executable, more = first_call(lambda: compile(program, [Output((Transform("grad", (0,)),))], tier=tier))
    call = lambda: executable.run([x])
    held = _resident_bytes() - before
    for _ in range(COMPILING_CALLS + 2):
        call()
    settle(call)
    warm = statistics.median([time_once(call, 1) for _ in range(9)])
    count = len(executable.plan.steps)
    return count, spent + more, warm, held / count


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def on_disk() -> Iterator[Figure]:
    """The first answer of a process that finds in a folder what another one derived, over that of one that does not."""
    with tempfile.TemporaryDirectory() as folder:
        plans = Plans(Path(folder), 2**30)
        for workload in [item for item in (*kepler(), *chain()) if item.counts]:
            traced = gw.trace(workload.value(in_gradwire()), *workload.arrays)
            inputs, outputs = [*workload.arrays], [Output((Transform("grad", (0,)),))]
            run = lambda kept, traced=traced, inputs=inputs, outputs=outputs: compile(traced, outputs, plans=kept).run(inputs)
            derived = min(first_call(lambda run=run: run(None))[1] for _ in range(COLD_RUNS))
            first = first_call(lambda run=run, plans=plans: run(plans))[1]
            found = min(first_call(lambda run=run, plans=plans: run(plans))[1] for _ in range(COLD_RUNS))
            note = f"after tracing; ms: derived {derived:.3g}, derived and kept {first:.3g}, found {found:.3g}"
            yield Figure(f"first answer found on disk / derived: {workload.name}", found / derived, 0.5, note)


FIGURES = (latency, growth, on_disk)


# -- report --------------------------------------------------------------------------------------------------------------------


def mean_of(ratios: list[float]) -> float:
    """Return the geometric mean."""
    return statistics.geometric_mean(ratios) if ratios else float("nan")


def show(results: list[Result], figures: list[Figure]) -> None:
    threads = ", ".join(f"{name}={os.environ[name]}" for name in THREADS)
    names = ", ".join(f"{name} {number}" for name, number in found_versions().items())
    print(f"engine  ({threads}; pinned to one processor of {os.cpu_count()}; Python {platform.python_version()}; {names})\n")
    columns = (OURS, HAND, *[name for name in LIBRARIES if name != OURS])
    heads = (
        "workload",
        *[f"{name} ms" for name in columns],
        "by fastest",
        "by hand",
        "cold ms",
        "jax cold",
        "cold ratio",
        "grad/value",
    )
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for item in results:
        warm = {name.split(",")[0]: spent for name, spent in item.warm_ms.items()}
        cells = [item.workload, *[_number(warm.get(name)) for name in columns], f"{_number(item.ratio)} ({item.fastest})"]
        cells += [_number(item.hand_ratio), _number(item.cold_ms[OURS])]
        more, less = ("> ", "< ") if item.is_bound else ("", "")
        cells += [more + _number(item.jax_cold_ms), less + _number(item.cold_ratio)]
        cells.append(_number(item.gradient_ratio))
        print("| " + " | ".join(cells) + " |")
    counted = [item for item in results if item.counts]
    ratios = [item.ratio for item in counted if item.ratio is not None]
    if ratios:
        print(f"\ngeometric mean over the fastest library: {mean_of(ratios):.3g} (<= 1.0), the worst {max(ratios):.3g} (<= 2.0)")
        print(f"geometric mean over NumPy by hand: {mean_of([item.hand_ratio for item in counted]):.3g}")
        colds = [item.cold_ratio for item in results if item.cold_ratio is not None]
        print(f"cold cost over that of jax.jit: the worst {max(colds, default=float('nan')):.3g} (<= 0.1)")
    if figures:
        print("\n| figure | value | wanted | note |\n|---|---|---|---|")
    for figure in figures:
        verdict = "yes" if figure.value <= figure.at_most else "NO"
        print(f"| {figure.what} | {figure.value:.3g} | <= {figure.at_most:.3g} {verdict} | {figure.note} |")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def found_versions() -> dict[str, str]:
    return versions() | ({"autograd": version("autograd")} if autograd is not None else {})


def warm_up() -> None:
    """Run something small in every library, so that what is loaded and set up once is in no cold time."""
    for name, make in LIBRARIES.items():
        library = make()
        names = library.np
        function = lambda x, names=names: names.sum(names.exp(names.sin(x)) * x)
        library.prepare(library.grad(function, 0), [np.linspace(0.0, 1.0, 3)])()
        if name in (OURS, "jax.jit"):
            library.prepare(library.jacobian(lambda x, names=names: names.sin(x), 0), [np.linspace(0.0, 1.0, 3)])()


def run(only: str) -> tuple[list[Result], list[Figure], list[str]]:
    """Run groups of workloads and of figures; one that fails is reported, and the others still run."""
    results, figures, failed = [], [], []
    for workload in (item for group in GROUPS if only in group.__name__ for item in group()):
        try:
            results.append(measure(workload))
        except Exception as error:  # noqa: BLE001  # the other workloads still have something to say
            failed.append(f"{workload.name}: {type(error).__name__}: {str(error).strip()[:600]}")
    for single in FIGURES:
        if only in single.__name__:
            figures.extend(single())
    return results, figures, failed


def run_all(folder: Path) -> None:
    """Run everything with and without machine code, each in a process of its own, and write the figures, tables and the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "with.json", folder / "without.json"
    for path, settings in zip(paths, ({}, {"GRADWIRE_NATIVE": "no"}), strict=True):
        print(f"-- {path} {settings or ''}", flush=True)
        subprocess.run([sys.executable, __file__, "--json", str(path)], env=os.environ | settings, check=True)
    (folder / "tables.md").write_text(tables(*[json.loads(path.read_text()) for path in paths]))
    print(f"wrote {folder / 'tables.md'}", flush=True)
    drawing = Path(__file__).with_name("_plot.py")
    subprocess.run([sys.executable, str(drawing), *map(str, paths), str(folder / "performance.svg")], check=False)


def main() -> None:
    chosen = options(
        "engine", all="run all with and without machine code, and write figures, tables and the picture to this folder"
    )
    if chosen.all:
        run_all(chosen.all)
        return
    for name in MISSING:
        print(f"missing peer: {name} is not installed and left out")
    began = time.perf_counter()
    warm_up()
    results, figures, failed = run(chosen.only)
    show(results, figures)
    for failure in failed:
        print(f"FAILED {failure}")
    print(f"\n{time.perf_counter() - began:.0f} s in all")
    if chosen.json:
        content = {
            "versions": found_versions(),
            "threads": 1,
            "results": [asdict(item) for item in results],
            "figures": [asdict(item) for item in figures],
        }
        chosen.json.write_text(json.dumps(content, indent=2) + "\n")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
