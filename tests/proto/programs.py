"""Programs the tests of this folder share, built by hand from records."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradwire_core.ops import find_primitive
from gradwire_core.program import Equation, Literal, Operand, Param, Primitive, Program, Sample, Var
from gradwire_core.types import Dtype, TensorType

SCALAR = TensorType(Dtype.FLOAT64, ())
VECTOR = TensorType(Dtype.FLOAT64, (3,))


def equation(name: str, operands: tuple[Operand, ...], result: TensorType, **params: Param) -> Equation:
    return Equation(find_primitive(name), operands, params, (Var(result),))


def identity() -> Program:
    x = Var(SCALAR)
    return Program((x,), (), (x,))


def product() -> Program:
    """sin(x) * x, and its sum, of a float64[3]."""
    x = Var(VECTOR)
    sine = equation("sin", (x,), VECTOR)
    times = equation("multiply", (sine.results[0], x), VECTOR)
    total = equation("sum", times.results, SCALAR, axes=(0,))
    return Program((x,), (sine, times, total), (total.results[0], sine.results[0]))


def padded() -> Program:
    """Three params, a dtype, literals of every dtype, an output that is a literal, an input unused."""
    x, unused = Var(TensorType(Dtype.FLOAT32, (2,))), Var(TensorType(Dtype.BOOL, (0, 5)))
    pad = equation("pad", (x,), TensorType(Dtype.FLOAT32, (6,)), low=(1,), high=(2,), interior=(1,))
    convert = equation("convert", pad.results, TensorType(Dtype.COMPLEX128, (6,)), dtype=Dtype.COMPLEX128)
    weights = Literal(np.array([1.5, -0.0, np.inf, 2**-1074, 1 + 2j, -3j]))
    times = equation("multiply", (convert.results[0], weights), TensorType(Dtype.COMPLEX128, (6,)))
    rest = [
        Literal(np.array(value, dtype=dtype))
        for value, dtype in [
            ([[True, False]], "bool"),
            (-1, "int32"),
            ([2**63 - 1, -(2**63)], "int64"),
            ([], "float64"),
            (1 - 1j, "complex64"),
        ]
    ]
    return Program((x, unused), (pad, convert, times), (times.results[0], *rest))


def chain(count: int) -> Program:
    """Alternating sin and multiplication by the input, `count` equations deep."""
    x = last = Var(VECTOR)
    equations = []
    for number in range(count):
        equations.append(equation("multiply", (last, x), VECTOR) if number % 2 else equation("sin", (last,), VECTOR))
        last = equations[-1].results[0]
    return Program((x,), tuple(equations), (last,))


PROGRAMS = {"identity": identity, "product": product, "padded": padded, "chain": lambda: chain(10)}


def _record() -> Primitive:
    values: tuple[Any, ...] = (True, 1, 1.0, "s", Dtype.BOOL, Program((), (), ()))
    samples = [Sample((), {"value": value}) for value in (*values, (*values, ()))]
    fields: dict[str, Any] = dict.fromkeys(["kernel", "derivative", "batch", "doc", "flops"])
    fields |= {"infer": lambda type, **_: (type,), "arity": 1, "params": ("value",), "samples": lambda _: samples}
    return Primitive("record", **fields)


RECORD = _record()
"""A primitive, in no registry, with one param that takes a value of any kind."""

PARAMS = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(Dtype),
    lambda items: st.lists(items, max_size=4).map(tuple),
    max_leaves=20,
)


def carry(value: Param) -> Program:
    """A program whose one equation has the value as its param."""
    x, y = Var(SCALAR), Var(SCALAR)
    return Program((x,), (Equation(RECORD, (x,), {"value": value}, (y,)),), (y,))
