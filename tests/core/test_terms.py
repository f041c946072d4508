"""Terms among themselves: the chain rule composes them, positions tell their entries, and both agree with dense matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gradwire_core.builder import Builder, Value
from gradwire_core.program import Equation, Var
from gradwire_core.structure.actions import act
from gradwire_core.structure.structured import JacobianSpec
from gradwire_core.structure.terms import (
    Term,
    arrays_of,
    compose,
    contracted,
    dense,
    identity,
    join,
    pattern_of,
    positions,
    settle,
    swap,
)
from gradwire_core.testing import interpret
from gradwire_core.types import Dtype, Shape, TensorType
from tests.core.strategies import examples
from tests.core.test_windows import move


def local_terms(builder: Builder, equation: Equation, seed: Var) -> list[Term]:
    """The Jacobian of one equation by its linear operand."""
    operands = [operand.type if operand is seed else Value(builder, operand) for operand in equation.operands]
    position = equation.operands.index(seed)
    return act(equation, [identity(builder, seed.type.shape, seed.type.dtype)], position, operands)


def matrix(builder: Builder, terms, shape_out: Shape, shape_in: Shape) -> np.ndarray:
    """The dense value of a sum of terms without inputs, as a matrix."""
    total = np.zeros((math.prod(shape_out), math.prod(shape_in)))
    for term in terms:
        (array,) = interpret(builder.build([dense(term)]), [])
        total += array.reshape(total.shape)
    return total


@st.composite
def chains(draw) -> tuple[Builder, list[list[Term]]]:
    """The terms of each equation of a few moves and scalings in a row."""
    builder = Builder()
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shape = draw(st.sampled_from([(12,), (4, 3), (2, 3, 4), (5, 5)]))
    value = builder.free(TensorType(Dtype.FLOAT64, shape))
    seeds = {value.operand}
    for _ in range(draw(st.integers(1, 4))):
        value = move(draw, rng, value)
        if draw(st.booleans()):
            value = value * rng.normal(size=value.shape)
        if value.ndim and draw(st.booleans()):
            value = np.tensordot(value, rng.normal(size=(value.shape[-1], 3)), 1)
        assume(0 < value.size <= 120)
    links = []
    for equation in builder.equations:
        linear = [operand for operand in equation.operands if operand in seeds]
        if linear:
            assume(len(linear) == 1)
            seeds.update(equation.results)
            links.append(local_terms(builder, equation, linear[0]))
    assume(links and not any(not link for link in links))
    return builder, links


def shapes_of(terms) -> tuple[Shape, Shape]:
    return terms[0].shape_out, terms[0].shape_in


def composed(outer, inner) -> list[Term]:
    return join([settle(term) for one in outer for other in inner for term in compose(one, other)])


@examples(40)
@given(chains(), st.booleans())
def test_the_chain_rule_is_a_product_of_matrices(case, backward):
    builder, links = case
    order = links[::-1] if backward else links
    found, needed = order[0], matrix(builder, order[0], *shapes_of(order[0]))
    for link in order[1:]:
        outer, inner = (found, link) if backward else (link, found)
        if outer[0].shape_in != inner[0].shape_out:  # not a chain: an equation of another branch
            assume(False)
        factor = matrix(builder, link, *shapes_of(link))
        needed = needed @ factor if backward else factor @ needed
        shapes = outer[0].shape_out, inner[0].shape_in
        found = composed(outer, inner)
        if not found:
            np.testing.assert_array_equal(needed, 0)
            return
        np.testing.assert_allclose(matrix(builder, found, *shapes), needed, rtol=1e-9, atol=1e-9)


@examples(30)
@given(chains())
def test_positions_tell_the_entries(case):
    builder, links = case
    for terms in links:
        for term in terms:
            found = positions(term)
            assert found is not None
            rows, columns, core = found
            sizes = [label.size for label in core]
            (values,) = interpret(builder.build([contracted(term, core)]), [])
            total = np.zeros((math.prod(term.shape_out), math.prod(term.shape_in)))
            np.add.at(total, (np.broadcast_to(rows, sizes), np.broadcast_to(columns, sizes)), values)
            np.testing.assert_allclose(total, matrix(builder, [term], *shapes_of([term])), rtol=1e-12, atol=1e-12)
            turned = matrix(builder, [swap(term)], term.shape_in, term.shape_out)
            np.testing.assert_array_equal(turned, matrix(builder, [term], *shapes_of([term])).T)


@examples(30)
@given(chains())
def test_what_is_handed_out_is_the_term(case):
    builder, links = case
    for terms in links:
        shapes = shapes_of(terms)
        spec = JacobianSpec(*shapes, Dtype.FLOAT64, tuple(map(pattern_of, terms)))
        arrays = interpret(builder.build([array for term in terms for array in arrays_of(term)]), [])
        found = spec.fill(arrays)
        np.testing.assert_allclose(found.todense().reshape(-1), matrix(builder, terms, *shapes).reshape(-1), rtol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 4), ()])
def test_the_identity_composes_to_the_other(shape):
    builder = Builder()
    one = identity(builder, shape, Dtype.FLOAT64)
    (found,) = compose(one, one)
    assert not found.factors
    np.testing.assert_array_equal(matrix(builder, [found], shape, shape), np.eye(math.prod(shape)))


def test_composing_names_labels_anew():
    builder = Builder()
    one = identity(builder, (3,), Dtype.FLOAT64)
    other = identity(builder, (3,), Dtype.FLOAT64)
    assert set(compose(one, other)[0].labels).isdisjoint(other.labels)
