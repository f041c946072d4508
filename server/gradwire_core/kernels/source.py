"""Source that is compiled: made of our own templates and integer names alone, no text of a program enters it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def make_function(arguments: str, lines: Sequence[str], bound: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the function of the given arguments and statements, in which the names of `bound` are bound."""
    body = "\n        ".join([f"    def run({arguments}):", *lines])
    source = f"def make({', '.join(bound)}):\n{body}\n    return run"
    scope: dict[str, Any] = {}
    exec(compile(source, "<plan>", "exec"), scope)  # noqa: S102  # our own templates and integer names
    made: Callable[..., Any] = scope["make"](*bound.values())
    return made
