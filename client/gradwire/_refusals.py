"""What of NumPy cannot be traced, each refused by its name with what to write instead: nothing else is here.

`gradwire.numpy` imports this, which registers each refusal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire_core.builder import implements, user_line
from gradwire_core.errors import TracingError

SHAPE = ("a function whose result has a static shape", "whose result's shape depends on values")
PLACE = ("an array that is not assigned to in place", "which assigns")
JUMPS = ("a function that has derivatives", "which counts")
PYTHON = ("a function of whole arrays", "which calls Python for each part")

REFUSALS: dict[str, tuple[tuple[str, str], str]] = {
    "apply_along_axis": (PYTHON, "write the function over an axis, or use gradwire.vmap"),
    "apply_over_axes": (PYTHON, "apply the function to each axis in turn"),
    "argwhere": (SHAPE, "use np.where(condition, a, b), or a mask known while tracing"),
    "bincount": (SHAPE, "use gradwire.numpy.at(zeros)[x].add(weights)"),
    "compress": (SHAPE, "use np.where(condition, a, b), or a mask known while tracing"),
    "copyto": (PLACE, "use np.where(mask, value, x)"),
    "extract": (SHAPE, "use np.where(condition, a, b), or a mask known while tracing"),
    "fill_diagonal": (PLACE, "use gradwire.numpy.fill_diagonal, which returns the new array"),
    "flatnonzero": (SHAPE, "use np.where(condition, a, b), or a mask known while tracing"),
    "histogram": (JUMPS, "count with np.digitize and gradwire.numpy.at(zeros)[bins].add(1)"),
    "histogram2d": (JUMPS, "count with np.digitize and gradwire.numpy.at(zeros)[bins].add(1)"),
    "histogramdd": (JUMPS, "count with np.digitize and gradwire.numpy.at(zeros)[bins].add(1)"),
    "intersect1d": (SHAPE, "compute it outside the function"),
    "nonzero": (SHAPE, "use np.where(condition, a, b), or a mask known while tracing"),
    "piecewise": (PYTHON, "use np.select or np.where"),
    "place": (PLACE, "use np.where(mask, value, x)"),
    "put": (PLACE, "write x = x.at[index].set(value)"),
    "put_along_axis": (PLACE, "use gradwire.numpy.put_along_axis, which returns the new array"),
    "putmask": (PLACE, "use np.where(mask, value, x)"),
    "setdiff1d": (SHAPE, "compute it outside the function"),
    "setxor1d": (SHAPE, "compute it outside the function"),
    "trim_zeros": (SHAPE, "compute it outside the function"),
    "union1d": (SHAPE, "compute it outside the function"),
    "unique": (SHAPE, "compute it outside the function"),
    "unique_all": (SHAPE, "compute it outside the function"),
    "unique_counts": (SHAPE, "compute it outside the function"),
    "unique_inverse": (SHAPE, "compute it outside the function"),
    "unique_values": (SHAPE, "compute it outside the function"),
}


def _refuse(name: str) -> None:
    (needed, given), advice = REFUSALS[name]

    def refuse(*args: Any, **kwargs: Any) -> Any:  # noqa: ARG001  # of whatever signature
        raise TracingError(f"{user_line()}: needed {needed}, got {name}, {given}; {advice}", given=name)

    refuse.__name__ = name
    refuse.__doc__ = f"Refuse `numpy.{name}` of a traced array."
    implements(getattr(np, name))(refuse)


for _name in REFUSALS:
    _refuse(_name)
