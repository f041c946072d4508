"""Nested values come apart and together again, and what must be nested alike is."""

import dataclasses
from collections import OrderedDict
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwire._nest import LEAF, Static, flatten, flatten_call, positional, unflatten_call
from gradwire_core.errors import ArgumentError


class Point(NamedTuple):
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class Layer:
    weight: float
    bias: tuple
    depth: int = dataclasses.field(default=2, metadata={"static": True})

    def __post_init__(self):
        if not isinstance(self.weight, (int, float)):
            raise TypeError


LEAVES = st.floats(allow_nan=False) | st.integers() | st.booleans()
TREES = st.recursive(
    LEAVES | st.none() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner, inner).map(lambda pair: Point(*pair))
        | st.tuples(LEAVES, st.lists(LEAVES).map(tuple)).map(lambda pair: Layer(*pair))
        | st.dictionaries(st.text(), inner).map(OrderedDict)
    ),
)


@given(TREES)
def test_unflatten_undoes_flatten(tree):
    leaves, structure = flatten(tree)
    assert structure.count == len(leaves)
    again = structure.unflatten(leaves)
    assert again == tree
    assert type(again) is type(tree)
    assert flatten(again)[1] == structure
    assert hash(flatten(again)[1]) == hash(structure)


@given(TREES)
def test_collect_gives_the_leaves_of_a_value_nested_alike(tree):
    leaves, structure = flatten(tree)
    found = []
    structure.collect(tree, found, "tree")
    assert found == leaves


def test_collect_follows_keys_not_their_order():
    _, structure = flatten({"a": 1, "b": 2})
    found = []
    structure.collect({"b": 20, "a": 10}, found, "tree")
    assert found == [10, 20]


@pytest.mark.parametrize("other", [(1,), [1, 2], (1, 2, 3), {"a": 1}, 5])
def test_collect_refuses_another_structure(other):
    _, structure = flatten((1, 2))
    with pytest.raises(ArgumentError, match=r"^tangents: needed tuple\(\*, \*\), got .*; nest it alike$"):
        structure.collect(other, [], "tangents")


def test_text_and_static_fields_are_structure():
    leaves, structure = flatten((Layer(1.0, (2.0,), depth=3), "sum", None))
    assert leaves == [1.0, 2.0]
    assert structure != flatten((Layer(1.0, (2.0,), depth=4), "sum", None))[1]
    assert structure != flatten((Layer(1.0, (2.0,), depth=3), "mean", None))[1]
    assert Static(1) != Static(True)


def test_a_dataclass_is_rebuilt_without_its_constructor():
    _, structure = flatten(Layer(1.0, ()))
    assert structure.unflatten([object()]).depth == 2


@given(st.lists(TREES), st.dictionaries(st.text(min_size=1), TREES))
def test_calls_come_apart_and_together(args, kwargs):
    leaves, structure = flatten_call(tuple(args), kwargs)
    assert unflatten_call(structure, leaves) == (tuple(args), kwargs)
    assert sum(item.count for item in positional(structure)) == len(flatten(args)[0])


def test_plain_calls_share_one_structure():
    assert flatten_call((1, 2), {})[1] is flatten_call((3, 4), {})[1]
    assert flatten_call((1, 2), {})[1] == flatten((1, 2))[1]
    assert positional(flatten_call((1, 2), {})[1]) == (LEAF, LEAF)
