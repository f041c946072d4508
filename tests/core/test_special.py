"""Elementwise primitives beyond arithmetic, and special functions, against mpmath: values, derivatives, kinks, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Constant, Sample
from gradwire_core.testing import interpret, primitive_program
from gradwire_core.transforms import jvp
from tests.core.references import REFERENCES, REFUSED, TAILS, exact_partial, exact_value


def points_of(name: str) -> list[tuple[float, ...]]:
    """Points drawn as the samples are, and points in the tails."""
    found = []
    for sample in PRIMITIVES[name].samples(np.random.default_rng(3)):
        found += [tuple(map(float, point)) for point in zip(*map(np.ravel, sample.operands), strict=True)]
    return found[:8] + [point if isinstance(point, tuple) else (point,) for point in TAILS.get(name, [])]


def columns_of(name: str) -> tuple[list[tuple[float, ...]], list[np.ndarray]]:
    points = points_of(name)
    return points, [np.array(column) for column in zip(*points, strict=True)]


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_values_are_accurate(name):
    points, columns = columns_of(name)
    (given,) = interpret(primitive_program(PRIMITIVES[name], Sample(tuple(columns))), columns)
    for point, number in zip(points, given, strict=True):
        needed = float(exact_value(name, point))
        assert number == needed or abs(number - needed) <= 1e-11 * abs(needed), (point, number, needed)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_derivatives_are_accurate_in_the_tails_too(name):
    points, columns = columns_of(name)
    program = primitive_program(PRIMITIVES[name], Sample(tuple(columns)))
    for position in range(len(columns)):
        if position in REFUSED.get(name, ()) or isinstance(PRIMITIVES[name].derivative(position), Constant):
            continue
        (given,) = interpret(jvp(program, (position,)), [*columns, np.ones(len(points))])
        for point, number in zip(points, given, strict=True):
            needed = float(exact_partial(name, point, position))
            assert number == needed or abs(number - needed) <= 1e-11 * abs(needed), (point, position, number, needed)
