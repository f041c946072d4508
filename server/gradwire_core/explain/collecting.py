"""Collecting: an expression that is linear in an array, as the coefficients of its elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from gradwire_core.explain.calculus import call, divide, multiply
from gradwire_core.explain.notation import (
    ONE,
    ZERO,
    Call,
    Element,
    Expression,
    Index,
    Over,
    Product,
    Quotient,
    Sum,
    Symbol,
    names_of,
)

Rows: TypeAlias = list[tuple[tuple[Symbol, ...], Expression, tuple[Index, ...]]]


def coefficients(expression: Expression, name: str) -> Rows | None:
    """Return an expression that is linear in a named array, as the sum of `coefficient * name[index]` over rows and their symbols.

    None where it cannot be read so.
    """
    if name not in names_of(expression):
        return []
    row = COLLECTING.get(type(expression))
    return None if row is None else row(expression, name)


def _of_product(expression: Product, name: str) -> Rows | None:
    inside = [item for item in expression.items if name in names_of(item)]
    rest = multiply(*[item for item in expression.items if item not in inside])
    return None if len(inside) > 1 else _scaled(coefficients(inside[0], name), lambda factor: multiply(rest, factor))


def _of_quotient(expression: Quotient, name: str) -> Rows | None:
    if name in names_of(expression.denominator):
        return None
    return _scaled(coefficients(expression.numerator, name), lambda factor: divide(factor, expression.denominator))


def _of_over(expression: Over, name: str) -> Rows | None:
    rows = coefficients(expression.body, name) if expression.kind == "sum" else None
    return None if rows is None else [((*expression.symbols, *symbols), factor, index) for symbols, factor, index in rows]


def _of_call(expression: Call, name: str) -> Rows | None:
    if expression.primitive != "where" or name in names_of(expression.operands[0]):
        return None
    condition, first, second = expression.operands
    chosen = _scaled(coefficients(first, name), lambda factor: call("where", condition, factor, ZERO))
    other = _scaled(coefficients(second, name), lambda factor: call("where", condition, ZERO, factor))
    return _joined_rows([chosen, other])


def _joined_rows(parts: Sequence[Rows | None]) -> Rows | None:
    found: Rows = []
    for rows in parts:
        if rows is None:
            return None
        found += rows
    return found


def _scaled(rows: Rows | None, scale: Callable[[Expression], Expression]) -> Rows | None:
    return None if rows is None else [(symbols, scale(factor), index) for symbols, factor, index in rows]


COLLECTING: dict[type, Callable[[Any, str], Rows | None]] = {
    Element: lambda expression, _: None if expression.at is None else [((), ONE, expression.at)],
    Sum: lambda expression, name: _joined_rows([coefficients(item, name) for item in expression.items]),
    Product: _of_product,
    Quotient: _of_quotient,
    Over: _of_over,
    Call: _of_call,
}
