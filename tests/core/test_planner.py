"""The planner: lifetimes, memory, costs, reports."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from gradwire_core.builder import Builder, Value
from gradwire_core.ops import PRIMITIVES
from gradwire_core.planner import OWNERS, SCRATCH, VIEWS, Handover, Plan, plan, show_bytes
from gradwire_core.program import Literal, Program
from gradwire_core.types import Dtype, TensorType
from tests.core.work import calls_of


def floats(*shape: int) -> TensorType:
    return TensorType(Dtype.FLOAT64, shape)


def trace(function, *types: TensorType) -> Program:
    builder = Builder()
    found = function(*[builder.input(type) for type in types])
    return builder.build(found if isinstance(found, tuple) else (found,))


def names(found: Plan) -> list[str]:
    return [step.equation.primitive.name for step in found.steps]


# -- broadcasts ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x, y: x * y, ["multiply"]),
        (lambda x, y: x * 2.0 + y, ["multiply", "add"]),
        (lambda x, y: np.where(x > 0, x, y), ["greater", "where"]),
        (lambda x, y: y[:, None] * y, ["reshape", "multiply"]),
        (lambda x, y: np.broadcast_to(y, (4, 3)) * np.broadcast_to(y, (4, 3)), ["broadcast_to", "multiply"]),
        (lambda x, y: np.sin(np.broadcast_to(y, (4, 3))), ["broadcast_to", "sin"]),
        (lambda x, y: np.broadcast_to(np.broadcast_to(np.sum(y), (3,)), (4, 3)) * x, ["sum", "multiply"]),
    ],
)
def test_a_broadcast_is_left_to_numpy_where_it_does_the_same(function, left: list[str]) -> None:
    assert names(plan(trace(function, floats(4, 3), floats(3)))) == left


# -- lifetimes -------------------------------------------------------------------------------------------------------------------


def live_slots_are_kept(found: Plan) -> bool:
    """Whether no step overwrites or empties a slot whose value is read later."""
    slots: dict[int, object] = dict(enumerate(found.program.inputs))
    broadcasts = [equation for equation in found.program.equations if equation.primitive.name == "broadcast_to"]
    sources = {equation.results[0]: equation.operands[0] for equation in broadcasts}
    for step in found.steps:
        for slot, operand in zip(step.operands, step.equation.operands, strict=True):
            expected = [operand]
            while expected[-1] in sources:
                expected.append(sources[expected[-1]])
            if not (isinstance(expected[-1], Literal) if slot < 0 else slots[slot] in expected):
                return False
        slots.update(zip(step.results, step.equation.results, strict=True))
        for slot in step.frees:
            del slots[slot]
    return all(slots[slot] is output for (slot, _), output in zip(found.outputs, found.program.outputs, strict=True) if slot >= 0)


def mixed(x: Value, y: Value) -> tuple[Value, ...]:
    _, log = np.linalg.slogdet(x @ x.T)
    for _ in range(6):
        x = np.sin(x) * y + np.exp(x) * 2.0
    return x, np.sum(x.T * x.T), log, x[1:]


def test_every_value_stands_in_its_slot_until_its_last_use() -> None:
    found = plan(trace(mixed, floats(4, 3), floats(3)))
    assert live_slots_are_kept(found)
    assert found.slot_count < 10


def test_an_unused_result_frees_its_slot_at_once() -> None:
    found = plan(trace(lambda x: np.linalg.slogdet(x)[1], floats(3, 3)))
    (step,) = found.steps
    assert step.frees == step.results[:1]


def test_a_dying_operand_lends_its_memory() -> None:
    found = plan(trace(lambda x: np.exp(np.sin(x) * 2.0), floats(5)))
    assert [step.target for step in found.steps] == [-1, 0, 0]
    assert [step.nbytes for step in found.steps] == [40, 0, 0]
    assert found.peak_bytes == 80


@pytest.mark.parametrize(
    "function",
    [
        np.exp,  # the caller's memory
        lambda x: np.exp(x.T),  # a view of it
        lambda x: np.exp(np.broadcast_to(np.sin(x[:1]), (3, 3))),  # elements that share memory
        lambda x: np.sin(x) > 0.0,  # another dtype
    ],
)
def test_memory_is_not_lent_where_that_would_show(function) -> None:
    assert plan(trace(function, floats(3, 3))).steps[-1].target == -1


def test_memory_that_is_needed_later_is_not_lent() -> None:
    def function(x: Value) -> tuple[Value, ...]:
        y = np.sin(x)
        return np.exp(y), np.exp(y.T), np.cos(y)

    steps = plan(trace(function, floats(3, 3))).steps
    assert [step.target for step in steps] == [-1, -1, -1, -1, 0]


# -- cost ------------------------------------------------------------------------------------------------------------------------


def test_flops_are_those_of_the_steps() -> None:
    found = plan(trace(lambda x, y: x @ y + 1.0, floats(4, 5), floats(5, 6)))
    assert found.flops == 2 * 4 * 5 * 6 + 24 == sum(step.flops for step in found.steps)


def test_views_take_no_memory() -> None:
    found = plan(trace(lambda x: np.sin(np.reshape(x[1:], (6,))), floats(3, 3)))
    assert found.peak_bytes == 72 + 48


def test_residuals_of_a_reverse_pass_are_counted_and_freed() -> None:
    def function(x: Value) -> Value:
        kept = [x]
        for _ in range(9):
            kept.append(np.sin(kept[-1]))
        total = kept.pop()
        while kept:
            total = total * np.cos(kept.pop())
        return total

    assert plan(trace(function, floats(100))).peak_bytes == 800 * 10


def test_outputs_say_how_they_are_handed_over() -> None:
    def function(x: Value) -> tuple[Value, ...]:
        y = np.sin(x)
        z = np.exp(x)
        return x, y, y, z.T, np.sum(x), np.cos(x)[1:], np.reshape(np.tan(x).T, (9,))

    found = plan(trace(function, floats(3, 3)), reproducible=False)
    how = [item for _, item in found.outputs]
    order, copy = Handover.ORDER, Handover.COPY
    assert how == [copy, order, copy, order, copy, copy, order]


def test_tables_name_primitives() -> None:
    assert VIEWS | OWNERS | SCRATCH.keys() <= PRIMITIVES.keys()
    assert not VIEWS & OWNERS


def test_an_unknown_kernel_is_not_trusted_to_own_its_result() -> None:
    sine = PRIMITIVES["sin"]
    odd = type(sine)("odd", lambda x: x, sine.infer, sine.derivative, sine.batch, 1, (), "", sine.samples, sine.flops)
    builder = Builder()
    x = builder.input(floats(3))
    (y,) = builder.emit(odd, [np.sin(x)], {})
    found = plan(builder.build([np.exp(y), *builder.emit(odd, [x], {})]))
    assert found.steps[2].target == -1
    assert found.outputs[1][1] is Handover.COPY


def test_planning_is_linear() -> None:
    def chain(length: int) -> Program:
        def function(x: Value) -> Value:
            y = x
            for _ in range(length // 2):
                y = np.sin(y) * x
            return y

        return trace(function, floats(3))

    short, long = [calls_of(functools.partial(plan, chain(length))) for length in (1_000, 10_000)]
    assert long < 10.5 * short


# -- text ------------------------------------------------------------------------------------------------------------------------


def test_a_plan_prints_as_a_report() -> None:
    text = str(plan(trace(lambda x: np.exp(np.sin(x)) @ x, floats(200, 200)), reproducible=True))
    assert "3 steps" in text
    assert "peak memory  938 KiB, of which inputs 312 KiB, outputs 312 KiB" in text
    assert "exp" in text
    assert "(over operand 0)" in text


def test_the_report_of_a_long_plan_shows_the_largest_steps() -> None:
    def function(x: Value) -> Value:
        for _ in range(50):
            x = np.sin(x) + x
        return np.sum(np.outer(x, x))

    text = str(plan(trace(function, floats(100))))
    assert text.count("\n") < 20
    assert "einsum" in text


def test_bytes_print_in_binary_units() -> None:
    assert [show_bytes(count) for count in (0, 1000, 2048, 3 * 2**20, 5 * 2**30)] == ["0 B", "1000 B", "2 KiB", "3 MiB", "5 GiB"]
