"""Recognizing named values in expressions: where `c[i] = a[i] / b`, a product with `a[j] / b` is one with `c[j]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradwire_core.explain.calculus import add, divide, multiply, reduce, substitute
from gradwire_core.explain.notation import ONE, Element, Expression, Index, Over, Power, Product, Quotient, Sum, Symbol

Definition = tuple[Element, Expression]


def is_quotient(right: Expression) -> bool:
    """Whether an expression is a quotient of two elements."""
    return isinstance(right, Quotient) and all(isinstance(item, Element) for item in (right.numerator, right.denominator))


def recognize(expression: Expression, quotients: Sequence[Definition]) -> Expression:
    """Return an expression with quotients of elements replaced by the values that are defined as them."""
    if not quotients:
        return expression
    if isinstance(expression, Sum):
        return add(*[recognize(item, quotients) for item in expression.items])
    if isinstance(expression, Product):
        return multiply(*[recognize(item, quotients) for item in expression.items])
    if isinstance(expression, Over) and expression.kind == "sum":
        return reduce(expression.symbols, recognize(expression.body, quotients))
    if isinstance(expression, Quotient):
        return _recognize_quotient(expression, quotients)
    return expression


def _recognize_quotient(expression: Quotient, quotients: Sequence[Definition]) -> Expression:
    above, below = _factors(expression.numerator), _factors(expression.denominator)
    for left, right in quotients:
        assert isinstance(right, Quotient)
        for numerator in above:
            for denominator in below:
                known: dict[Symbol, Index] = {}
                if _match(right.numerator, numerator, known) and _match(right.denominator, denominator, known):
                    rest = divide(multiply(*_without(above, numerator)), multiply(*_without(below, denominator)))
                    return recognize(multiply(rest, substitute(left, known)), quotients)
    return expression


def _factors(expression: Expression) -> list[Expression]:
    items = expression.items if isinstance(expression, Product) else (expression,)
    found: list[Expression] = []
    for item in items:
        exponent: Any = getattr(item.exponent, "value", 0) if isinstance(item, Power) else 0
        found += [item.base] * exponent if isinstance(item, Power) and type(exponent) is int and 0 < exponent < 4 else [item]
    return found


def _without(items: Sequence[Expression], item: Expression) -> list[Expression]:
    place = items.index(item)
    return [*items[:place], *items[place + 1 :]] or [ONE]


def _match(pattern: Expression, item: Expression, known: dict[Symbol, Index]) -> bool:
    """Whether an element is that of a pattern at some indices, which are added to the known ones."""
    if not (isinstance(pattern, Element) and isinstance(item, Element) and pattern.name == item.name):
        return False
    if pattern.at is None or item.at is None:
        return False
    for one, other in zip(pattern.at, item.at, strict=True):
        symbol = one.symbol
        if symbol is None:
            if one != other:
                return False
        elif known.setdefault(symbol, other) != other:
            return False
    return True
