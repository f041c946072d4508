"""A trace is used again only while the function sees what it saw: each way to change that is noticed, and nothing else is."""

import collections
import functools
import gc
import itertools
import logging
import math
import sys
import types
import weakref
from typing import TypeVar, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradwire as gw
from gradwire._guards import watch
from gradwire._tracing import TRACES

SCALE = 2.0
TABLE = {"rate": 0.5, "names": ["a", "b"]}
WEIGHTS = np.arange(3.0)


class Model:
    bias = 1.0

    def __init__(self):
        self.scale = 2.0
        self.weights = [np.ones(3), np.ones(3)]
        self.nested = types.SimpleNamespace(rate=3.0)

    def loss(self, x):
        return self.helper(x) * self.scale + self.bias + sum(w.sum() for w in self.weights) * self.nested.rate

    def helper(self, x):
        return x.sum()


class Slotted:
    __slots__ = ("rate",)

    def __init__(self):
        self.rate = 2.0


def holds_after(function, change):
    seen = watch(function)
    assert seen is not None
    assert seen.holds(function)
    change()
    return seen.holds(function)


def closure_over(value):
    def function(x):
        return x * value

    def change(new):
        nonlocal value
        value = new

    return function, change


@pytest.mark.parametrize(
    ("old", "new"),
    [(1, 2), (1.0, 1), (0.0, -0.0), (True, 1), ("a", "b"), (None, 0), (1.0, math.nan), (1j, 2j), (np.float64(1), np.float64(2)),
     (np.float64(1), 1.0), (np.ones(2), np.ones(2)), ([1], [1, 2]), (len, abs), (np.sin, np.cos)],
)  # fmt: skip
def test_a_rebound_variable_is_noticed(old, new):
    function, change = closure_over(old)
    assert not holds_after(function, lambda: change(new))


@pytest.mark.parametrize("value", [1, 1000, 1.5, "text" * 10, math.nan, 2j, np.float64(3), b"raw", None, True, ()])
def test_a_variable_bound_to_an_equal_scalar_is_not(value):
    function, change = closure_over(value)
    copy = eval(repr(value), {"np": np, "nan": math.nan})  # noqa: S307  # an equal object that is another
    assert holds_after(function, lambda: change(copy))


def test_an_array_changed_in_place_is_noticed():
    for array in (
        np.zeros(3),
        np.zeros((3, 2)).T,
        np.zeros((4, 4))[::2, 1:],
        np.zeros(()),
        np.zeros(5000),
        np.zeros((100, 90)).T,
        np.zeros(2, bool),
    ):
        function, _ = closure_over(array)
        assert holds_after(function, lambda: None)
        assert not holds_after(function, lambda array=array: array.__setitem__(..., 1))


def test_negative_zero_and_nan_in_arrays_are_told_apart():
    array = np.array([0.0, math.nan])
    function, _ = closure_over(array)
    assert holds_after(function, lambda: array.__setitem__(1, math.nan))
    assert not holds_after(function, lambda: array.__setitem__(0, -0.0))


def test_a_reshaped_array_is_noticed():
    array = np.zeros((2, 3))
    function, _ = closure_over(array)

    def reshape():
        array.resize((3, 2), refcheck=False)

    assert not holds_after(function, reshape)


def test_containers_are_compared_item_by_item():
    for container, change in (
        ([1, 2], lambda it: it.append(3)),
        ([1, 2], lambda it: it.__setitem__(0, 5)),
        ([1, [2]], lambda it: it[1].append(3)),
        ({"a": 1}, lambda it: it.update(a=2)),
        ({"a": 1}, lambda it: it.update(b=2)),
        ({"a": [1]}, lambda it: it["a"].append(2)),
        ({1, 2}, lambda it: it.add(3)),
        (({"a": 1},), lambda it: it[0].clear()),
        (collections.deque([1]), lambda it: it.append(2)),
        (collections.OrderedDict(a=1), lambda it: it.update(a=2)),
        (types.MappingProxyType(TABLE), lambda it: TABLE["names"].append("c")),
        (types.SimpleNamespace(a=1), lambda it: setattr(it, "a", 2)),
        (functools.partial(np.multiply, [1]), lambda it: it.args[0].append(2)),
        (Model(), lambda it: setattr(it, "scale", 3.0)),
        (Model(), lambda it: setattr(it, "extra", 3.0)),
        (Model(), lambda it: it.weights.append(np.ones(3))),
        (Model(), lambda it: it.weights[0].__setitem__(0, 2.0)),
        (Model(), lambda it: setattr(it.nested, "rate", 0.0)),
        (Slotted(), lambda it: setattr(it, "rate", 3.0)),
    ):
        function, _ = closure_over(container)
        assert holds_after(function, lambda: None), container
        assert not holds_after(function, lambda container=container, change=change: change(container)), container


def test_globals_are_watched_where_they_are_named(monkeypatch):
    def direct(x):
        return x * SCALE

    def nested(x):
        return sum(item * SCALE for item in x)

    def through_a_function(x):
        return direct(x)

    def by_default(x, factor=direct):
        return factor(x)

    def through_a_container(x):
        return x * TABLE["rate"]

    for function in (direct, nested, through_a_function, by_default, functools.partial(direct)):
        seen = watch(function)
        with monkeypatch.context() as patch:
            patch.setitem(globals(), "SCALE", 3.0)
            assert not seen.holds(function), function
        assert seen.holds(function), function
    seen = watch(through_a_container)
    monkeypatch.setitem(TABLE, "rate", 9.0)
    assert not seen.holds(through_a_container)


def test_a_builtin_that_becomes_shadowed_is_noticed(monkeypatch):
    def function(x):
        return abs(x)

    seen = watch(function)
    monkeypatch.setitem(globals(), "abs", np.sin)
    assert not seen.holds(function)


def test_modules_of_the_user_are_watched_by_attribute(monkeypatch):
    module = types.ModuleType("user_layers")
    exec("RATE = 2.0\nOTHER = 1\ndef dense(x):\n    return x * RATE\n", module.__dict__)  # noqa: S102  # a module of the user
    monkeypatch.setitem(sys.modules, "user_layers", module)
    monkeypatch.setitem(globals(), "user_layers", module)

    def by_constant(x):
        return x * user_layers.RATE  # noqa: F821

    def by_function(x):
        return user_layers.dense(x)  # noqa: F821

    def as_a_value(x):
        return getattr(user_layers, "RA" + "TE") * x  # noqa: F821

    def imported_inside(x):
        import user_layers as inner

        return inner.dense(x)

    assert watch(as_a_value) is None
    assert watch(imported_inside) is None
    for function in (by_constant, by_function):
        seen = watch(function)
        assert seen.holds(function)
        module.OTHER += 1
        assert seen.holds(function)
        module.RATE += 1.0
        assert not seen.holds(function)


def test_changed_code_and_defaults_are_noticed():
    def function(x, rate=2.0, *, shift=[1]):  # noqa: B006  # it is what is tested
        return x * rate + shift[0]

    def other(x, rate=2.0, *, shift=None):
        return x

    assert not holds_after(function, lambda: function.__kwdefaults__["shift"].append(2))
    assert not holds_after(function, lambda: setattr(function, "__defaults__", (3.0,)))
    assert not holds_after(function, lambda: setattr(function, "__code__", other.__code__))


def test_methods_see_their_object_and_its_class(monkeypatch):
    model = Model()
    assert not holds_after(model.loss, lambda: setattr(model, "scale", 5.0))
    assert not holds_after(model.loss, lambda: monkeypatch.setattr(Model, "bias", 7.0))
    assert not holds_after(model.loss, lambda: monkeypatch.setattr(Model, "helper", lambda self, x: x.mean()))


@pytest.mark.parametrize(
    "hidden",
    [np.random.default_rng(0), np.random.default_rng(0).normal, iter([1.0]), (item for item in [1.0]), itertools.count(), sys.stdin,
     memoryview(b"ab"), np.array([None])],
    ids=lambda hidden: type(hidden).__name__,
)  # fmt: skip
def test_what_cannot_be_verified_is_not_trusted(hidden):
    function, _ = closure_over(hidden)
    assert watch(function) is None


def test_sources_of_chance_and_time_are_not_trusted():
    import random
    import time

    functions = (
        lambda x: x * np.random.normal(),  # noqa: NPY002  # it is what is tested
        lambda x: x * random.random(),
        lambda x: x * time.time(),
        lambda x: eval("x"),  # noqa: S307
    )
    for function in functions:
        assert watch(function) is None


def test_numpy_is_taken_as_fixed():
    def function(x):
        return np.linalg.norm(np.sin(x)) + np.float64(1) + np.pi + math.pi

    assert watch(function) is not None


def test_loggers_and_types_do_not_matter():
    logger, kind = logging.getLogger("user"), TypeVar("kind")

    def function(x):
        logger.debug("at %s", x)
        return cast("kind", x) if isinstance(x, int | list[int].__origin__) else x

    assert watch(function) is not None


def test_read_only_arrays_are_not_copied():
    array = np.zeros(1000)
    function, _ = closure_over(array)
    assert watch(function).copied_bytes == array.nbytes
    array.flags.writeable = False
    assert watch(function).copied_bytes == 0


def test_a_second_call_does_not_trace(monkeypatch):
    from gradwire import _tracing

    traced = []
    trace = _tracing.trace
    monkeypatch.setattr(_tracing, "trace", lambda function, *rest: traced.append(function) or trace(function, *rest))

    def function(x):
        return x * SCALE

    for value in (1.0, 2, np.float64(3.0), np.array(4.0)):
        gw.trace(function, value)
    assert len(traced) == 1
    gw.trace(function, np.ones(2))
    gw.trace(function, np.ones(2, np.float32))
    gw.trace(function, (1.0,)[0])
    assert len(traced) == 3
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    gw.trace(function, 1.0)
    assert len(traced) == 4
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    gw.trace(function, 1.0)
    assert len(traced) == 4


def test_a_function_that_changes_what_it_sees_is_traced_each_time():
    count = 0

    def function(x):
        nonlocal count
        count += 1
        return x * count

    assert [gw.evaluate(function)(1.0).item() for _ in range(3)] == [1.0, 2.0, 3.0]


def test_traces_go_with_their_function():
    def make():
        weights = np.zeros(1000)

        def function(x):
            return x @ weights

        gw.trace(function, np.ones(1000))
        return weakref.ref(function), weakref.ref(weights)

    TRACES.clear()
    function, weights = make()
    gc.collect()
    assert function() is None
    assert weights() is None
    assert len(TRACES) == 0


def test_the_number_of_kept_traces_is_bounded(monkeypatch):
    from gradwire import _tracing

    monkeypatch.setattr(_tracing, "TRACE_LIMIT", 5)
    TRACES.clear()
    for length in range(1, 20):
        gw.trace(np.sin, np.ones(length))
    assert len(TRACES) == 5


# -- whatever a function sees, a cached answer is the answer of a fresh one ---------------------------------------------------

NUMBERS = st.floats(-8, 8, allow_subnormal=False)
ITEMS = NUMBERS | st.lists(NUMBERS, max_size=3).map(np.array)
SEEN = st.recursive(
    ITEMS,
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=8,
)


def total(seen):
    """The sum of all numbers, whatever they are nested in."""
    if isinstance(seen, (list, dict)):
        return sum(total(item) for item in (seen.values() if isinstance(seen, dict) else seen))
    return np.sum(seen)


@given(st.data(), SEEN.filter(lambda seen: isinstance(seen, (list, dict))))
def test_cached_answers_are_those_of_a_fresh_trace(data, seen):
    function = lambda x: x * total(seen)
    gradient = gw.grad(function)
    for _ in range(4):
        assert gradient(1.0) == pytest.approx(total(seen), rel=1e-12, abs=1e-12)
        assert watch(function).holds(function)
        place = seen
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, (list, dict)) or (isinstance(inner, np.ndarray) and inner.size and data.draw(st.booleans())):
                place = inner
                continue
            place[key] = data.draw(NUMBERS if isinstance(place, np.ndarray) else ITEMS)
            break
