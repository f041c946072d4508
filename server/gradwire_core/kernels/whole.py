"""Primitives that stand for many equations as one: their param `body` is the program that they compute. None is of the language."""

from __future__ import annotations

from typing import Any

from gradwire_core.interpreter import interpret
from gradwire_core.program import Primitive, Program
from gradwire_core.types import Array, TensorType


def _run_body(*operands: Array, body: Program, **_: Any) -> tuple[Array, ...]:
    return interpret(body, operands)


def _infer(*_: TensorType, body: Program, **__: Any) -> tuple[TensorType, ...]:
    return body.output_types


def _flops(*_: TensorType, body: Program, **__: Any) -> float:
    equations = body.equations
    return sum(item.primitive.flops(*[operand.type for operand in item.operands], **item.params) for item in equations)


def _refuse(*_: Any) -> Any:
    raise AssertionError("equations become one after every transform")


def as_one(name: str, params: tuple[str, ...], doc: str) -> Primitive:
    """Return a primitive for the equations of its param `body`; the other params are for what runs it."""
    return Primitive(
        name=name,
        kernel=_run_body,
        infer=_infer,
        derivative=_refuse,
        batch=_refuse,
        arity=None,
        params=("body", *params),
        doc=doc,
        samples=lambda _: (),
        flops=_flops,
    )
