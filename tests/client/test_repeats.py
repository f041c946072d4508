"""Which arrays are named, and which travel as they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradwire as gw
from gradwire._mapping import tasks
from gradwire._repeats import Repeats
from gradwire._task import Task
from gradwire_proto.tensor import encode_name

DATA = np.random.default_rng(0).normal(size=(100, 10))


def make(f, *arguments) -> Task:
    return next(tasks(f, [[item] for item in arguments], 1))


def fit(w, data):
    return np.sum((data @ w) ** 2)


def repeats(min_bytes=64, limit_bytes=10**6):
    return Repeats(min_bytes, limit_bytes)


def test_data_are_named_from_the_first_call_and_what_is_varied_is_not():
    here = repeats()
    for step in range(5):
        found = here.find(make(gw.grad(fit), np.full(10, float(step)), DATA.copy()))
        assert list(found) == [1]
        assert found[1].name == encode_name(DATA).name


def test_captured_arrays_are_named():
    here = repeats()
    found = here.find(make(gw.grad(lambda w: fit(w, DATA)), np.ones(10)))
    assert [kept.name for kept in found.values()] == [encode_name(DATA).name]


def test_an_argument_that_differs_each_time_is_named_once_in_vain():
    here = repeats()
    named = [list(here.find(make(fit, np.ones(10), DATA + step))) for step in range(5)]
    assert named == [[0, 1], [0], [0], [0], [0]]


def test_what_is_varied_is_named_when_it_comes_again():
    here = repeats()
    gradient = gw.grad(fit, argnums=1)
    named = [1 in here.find(make(gradient, np.ones(10), DATA + step)) for step in (0, 1, 0, 0)]
    assert named == [False, False, True, True]


def test_a_change_in_place_is_seen():
    here, data = repeats(), DATA.copy()
    first = here.find(make(fit, np.ones(10), data))[1].name
    data[3, 4] = np.nextafter(data[3, 4], 10)
    assert 1 not in here.find(make(fit, np.ones(10), data))
    assert here.find(make(fit, np.ones(10), data))[1].name == encode_name(data).name != first


def test_zeros_of_either_sign_are_not_the_same():
    here = repeats()
    first, second = np.zeros(100), -np.zeros(100)
    names = [here.find(make(np.sum, item))[0].name for item in (first, second) for _ in range(2) if here.find(make(np.sum, item))]
    assert len(set(names)) == 2


@given(
    axes=st.permutations(range(3)),
    step=st.sampled_from([1, -1, 2]),
    dtype=st.sampled_from(["f8", ">f8", "f4", "c16", "i8", "?"]),
)
def test_arrays_are_compared_as_they_read_not_as_they_lie(axes, step, dtype):
    array = np.transpose((np.arange(240).reshape(4, 6, 10) % 7).astype(dtype), axes)[::step]
    plain = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="))
    here = repeats(min_bytes=1)
    first, second = (here.find(make(gw.evaluate(lambda x: x), item))[0] for item in (array, plain))
    assert first is second
    assert first.message == encode_name(plain)


def test_copies_have_a_bound_and_small_arrays_none():
    here = repeats(min_bytes=8000, limit_bytes=20_000)
    arrays = [DATA + step for step in range(5)]
    for array in arrays:
        here.find(make(np.sum, array))
    assert here._held_bytes == 16_000
    assert len(here._kept) == 2
    assert here.find(make(np.sum, DATA[:99])) == {}
    assert here.find(make(np.sum, np.zeros(3000))) == {}
    assert Repeats(64, 0).find(make(np.sum, DATA)) == {}


def test_few_copies_of_one_type_are_kept():
    here = repeats(limit_bytes=10**9)
    for step in range(20):
        here.find(make(np.sum, DATA + step))
    assert len(here._kept) == 8
    assert 0 in here.find(make(np.sum, DATA + 19))


@pytest.mark.parametrize("size", [0, 1])
def test_the_smallest_arrays_pass(size):
    here = repeats(min_bytes=1)
    here.find(make(np.sum, np.zeros((size,) * size)))
