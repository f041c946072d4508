"""Contractions of contractions become one where that is faster, and compute the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradwire as gw
from gradwire_core.check import check_program
from gradwire_core.executor import Executor
from gradwire_core.passes import merge_contractions, run_passes
from gradwire_core.planner import plan

RNG = np.random.default_rng(0)
A, B, C, V = (RNG.normal(size=shape) for shape in ((50, 60), (60, 70), (70, 50), (70,)))

# A function of A, B, C, V, and the floating point operations at most that its plan should need.
FASTER = {
    "(A B) v": (lambda a, b, c, v: (a @ b) @ v, 2.1 * (60 * 70 + 50 * 60)),
    "((A B) C) (A B v)": (lambda a, b, c, v: ((a @ b) @ c) @ (a @ (b @ v)), 2.2 * 4 * 70 * 60),
    "v (C A B)": (lambda a, b, c, v: v @ ((c @ a) @ b), 2.2 * 3 * 70 * 60),
    "sum of A B": (lambda a, b, c, v: np.sum(a @ b), 1.1 * 60 * (50 + 70) + 200),
    "mean of A B over rows": (lambda a, b, c, v: np.mean(a @ b, axis=0), 50 * 60 + 2.1 * 60 * 70 + 200),
    "trace of A A^T": (lambda a, b, c, v: np.trace(a @ a.T), 2.1 * 50 * 60),
    "transposed twice": (lambda a, b, c, v: (a @ b).T.T @ v, 2.1 * (60 * 70 + 50 * 60)),
    "sum of v (B^T A^T) rows": (lambda a, b, c, v: np.sum((b.T @ a.T).T * v, axis=1), 2.2 * 3 * 50 * 60 * 70),
}


@pytest.mark.parametrize("name", FASTER)
def test_what_is_faster_becomes_one(name):
    function, flops = FASTER[name]
    program = gw.trace(function, A, B, C, V).traced.program
    after = run_passes(program)
    check_program(after)
    assert plan(after).flops <= flops
    for found, expected in zip(Executor(plan(after))(A, B, C, V), Executor(plan(program))(A, B, C, V), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


KEPT = {
    "in between is used twice": lambda a, b, c, v: ((a @ b) @ v, np.sin(a @ b)),
    "in between is an output": lambda a, b, c, v: ((a @ b) @ v, a @ b),
    "no faster": lambda a, b, c, v: a @ (b @ v),
    "a sum of what is no contraction": lambda a, b, c, v: np.sum(np.sin(a)) * (b @ v),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_not_faster_stays(name):
    program = gw.trace(KEPT[name], A, B, C, V).traced.program
    assert merge_contractions(program) is program


def test_derivatives_of_what_is_merged():
    found = gw.grad(lambda b: np.sum((A @ b) @ V))(B)
    np.testing.assert_allclose(found, np.outer(A.sum(axis=0), V), rtol=1e-12)


def test_labels_that_meet_in_one_operand_are_left_apart():
    program = gw.trace(lambda a: np.trace(np.einsum("ij,k->ijk", a, np.ones(3))[:, :, 0]), np.eye(4)).traced.program
    np.testing.assert_array_equal(Executor(plan(run_passes(program)))(np.eye(4), np.ones(3))[0], 4.0)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_trees_of_contractions_keep_their_value(data):
    sizes = {label: data.draw(st.sampled_from([1, 2, 3, 9, 30]), label) for label in "abcdef"}
    arrays: list[np.ndarray] = []

    def leaf(labels):
        arrays.append(RNG.normal(size=[sizes[label] for label in labels]))
        return len(arrays) - 1

    def grow(labels, depth):
        """A recipe of a value with these labels."""
        kind = data.draw(st.sampled_from(["leaf", "product", "product", "sum", "turn"] if depth else ["leaf"]))
        if kind == "leaf":
            return ("leaf", leaf(labels))
        if kind == "turn":
            turned = data.draw(st.permutations(labels))
            return ("turn", grow("".join(turned), depth - 1), "".join(turned), labels)
        others = [label for label in sizes if label not in labels]
        more = data.draw(st.lists(st.sampled_from(others), max_size=2, unique=True)) if others else []
        if kind == "sum":
            return ("sum", grow(labels + "".join(more), depth - 1), tuple(range(len(labels), len(labels) + len(more))))
        split = [data.draw(st.sampled_from(["left", "right", "both"])) for _ in labels]
        left = "".join(label for label, side in zip(labels, split, strict=True) if side != "right") + "".join(more)
        right = "".join(label for label, side in zip(labels, split, strict=True) if side != "left") + "".join(more)
        return ("product", grow(left, depth - 1), grow(right, depth - 1), f"{left},{right}->{labels}")

    def build(recipe, given):
        if recipe[0] == "leaf":
            return given[recipe[1]]
        if recipe[0] == "sum":
            return np.sum(build(recipe[1], given), axis=recipe[2])
        if recipe[0] == "turn":
            return np.einsum(f"{recipe[2]}->{recipe[3]}", build(recipe[1], given))
        return np.einsum(recipe[3], build(recipe[1], given), build(recipe[2], given))

    recipe = grow("".join(data.draw(st.lists(st.sampled_from("abcdef"), max_size=3, unique=True))), 4)
    program = gw.trace(lambda *given: build(recipe, given), *arrays).traced.program
    after = run_passes(program)
    check_program(after)
    (found,), (expected,) = Executor(plan(after))(*arrays), Executor(plan(program))(*arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(expected).max(initial=0.0)))
