"""The figures of two runs of `engine.py`, with and without machine code, as the tables of docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

OURS, HAND = "gradwire", "NumPy by hand"
HEADS = (
    "workload", "gradwire ms", "without `jit`, ms", "fastest peer, ms", "ratio", "without `jit`", "by NumPy by hand",
    "cold ms, gradwire / jax.jit", "cold ratio", "gradient / value",
)  # fmt: skip
MEANS = (("the fastest peer", "ratio", 0), ("the fastest peer, without `jit`", "ratio", 1), (HAND, "hand_ratio", 0))


def tables(compiled: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    """Return the tables; cold times are those without machine code, which is compiled later."""
    rows = [_row(*pair) for pair in zip(compiled["results"], plain["results"], strict=True)]
    counted = [[item for item in run["results"] if item["counts"]] for run in (compiled, plain)]
    lines = [*_table(HEADS, rows), ""]
    for what, key, index in MEANS:
        found = [item[key] for item in counted[index] if item[key] is not None]
        lines.append(f"Geometric mean over {what}: {statistics.geometric_mean(found):.2f}, the worst {max(found):.3g}.")
    for what, run in zip(("with `jit`", "without"), counted, strict=True):
        found = [item["cold_ratio"] for item in run if item["cold_ratio"] is not None]
        lines.append(f"Cold over jax.jit, {what}: the worst {max(found):.3g}.")
    figures = zip(compiled["figures"], plain["figures"], strict=True)
    lines += ["", *_table(("figure", "value", "without `jit`", "wanted", "note"), [_figure(*pair) for pair in figures])]
    return "\n".join(lines) + "\n"


def _row(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    peers = {name: spent for name, spent in one["warm_ms"].items() if name not in (OURS, HAND)}
    fastest = min(peers, key=peers.__getitem__)
    more, less = ("> ", "< ") if other["is_bound"] else ("", "")
    cells = [_number(one["warm_ms"][OURS]), _number(other["warm_ms"][OURS]), f"{fastest}, {_number(peers[fastest])}"]
    cells += map(_number, (one["ratio"], other["ratio"], one["hand_ratio"]))
    cells += [f"{_number(other['cold_ms'][OURS])} / {more}{_number(other['jax_cold_ms'])}", less + _number(other["cold_ratio"])]
    return [one["workload"], *cells, _number(one["gradient_ratio"])]


def _figure(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [one["what"], _number(one["value"]), _number(other["value"]), f"at most {_number(one['at_most'])}", one["note"]]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *[f"| {' | '.join(row)} |" for row in rows]]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
