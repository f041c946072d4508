"""The tasks of a function over many arguments. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gradwire._calls import Transformed
from gradwire._program import Program
from gradwire._task import Task
from gradwire._transforms import Function, Functions
from gradwire_core import program as core
from gradwire_core.errors import ArgumentError

if TYPE_CHECKING:
    from gradwire_core.engine import Output

IN_FLIGHT = 32
"""How many calls of a map are under way at a time, unless told otherwise."""


class _Tasks(Functions):
    """Functions that return the task they would perform."""

    def __init__(self, *, reproducible: bool) -> None:
        self._is_reproducible = reproducible

    def _perform(self, task: Task) -> Task:
        return task

    def _explain(self, program: core.Program, outputs: Sequence[Output], names: Sequence[str], format: str) -> Any:
        raise NotImplementedError


def tasks(
    f: Function | Program, arguments: Sequence[Iterable[Any]], in_flight: int, *, reproducible: bool = False
) -> Iterator[Task]:
    """Return the tasks of a function for each args of `zip(*arguments)`; each is made when it is asked for.

    Raises:
        ArgumentError: there are no arguments, or `in_flight` is no positive integer; with a task, that it would be traced.
    """
    if not hasattr(in_flight, "__index__") or in_flight < 1:
        raise ArgumentError(f"map: needed in_flight as a positive integer, got {in_flight!r}; correct it", given=in_flight)
    if not arguments:
        raise ArgumentError("map: needed values for each argument of f, got none; pass them", given=())
    performer = _Tasks(reproducible=reproducible)
    function = f.performed_by(performer) if isinstance(f, Transformed) else performer.evaluate(f)
    return (_check(function(*args)) for args in zip(*arguments, strict=True))


def _check(task: Any) -> Task:
    if not isinstance(task, Task):
        raise ArgumentError("map: needed arrays, got values of a function that is being traced; use gradwire.map there")
    return task
