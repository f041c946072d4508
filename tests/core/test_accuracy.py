"""Elementwise primitives against mpmath: values and derivatives, in the tails too. docs/accuracy.py prints how far off they are."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Constant, Primitive, Sample
from gradwire_core.testing import interpret, primitive_program
from gradwire_core.transforms import jvp
from tests.core.references import REFERENCES, REFUSED, exact_partial, exact_value, points_of

# Of what is not here, `where` is held to exact masks in test_passes and others, the parts of complex numbers in test_complex.
ELSEWHERE = {"where", "real", "imag", "conj", "complex"}
TOLERANCE = 1e-11


def is_smooth(primitive: Primitive) -> bool:
    places = range(primitive.arity or 0)
    return primitive.is_elementwise and not all(isinstance(primitive.derivative(place), Constant) for place in places)


SMOOTH = sorted(name for name, primitive in PRIMITIVES.items() if is_smooth(primitive) and name not in ELSEWHERE)


def close(given, needed):
    return given == needed or abs(given - needed) <= TOLERANCE * abs(needed)


def columns_of(points):
    return [np.array(column) for column in zip(*points, strict=True)]


@pytest.mark.parametrize("name", SMOOTH)
def test_it_has_a_reference(name):
    assert name in REFERENCES, f"{name}: needed a reference in mpmath; add it to REFERENCES, and its tails to TAILS"


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_values_are_accurate(name):
    points = points_of(name)
    columns = columns_of(points)
    (given,) = interpret(primitive_program(PRIMITIVES[name], Sample(tuple(columns))), columns)
    for point, number in zip(points, given, strict=True):
        assert close(number, float(exact_value(name, point))), (point, number, float(exact_value(name, point)))


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_derivatives_are_accurate_in_the_tails_too(name):
    points = points_of(name)
    columns = columns_of(points)
    program = primitive_program(PRIMITIVES[name], Sample(tuple(columns)))
    for position in range(len(columns)):
        if position in REFUSED.get(name, ()) or isinstance(PRIMITIVES[name].derivative(position), Constant):
            continue
        (given,) = interpret(jvp(program, (position,)), [*columns, np.ones(len(points))])
        for point, number in zip(points, given, strict=True):
            needed = float(exact_partial(name, point, position))
            assert close(number, needed), (point, position, number, needed)
