"""What textbooks say of an equation: the rule of its derivative, how they write it, and where the parts of a joined array stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from gradwire_core.explain.calculus import add, multiply, negate, power, substitute
from gradwire_core.explain.notation import ONE, Delta, Element, Expression, Number, Over, Power, Product, Sum
from gradwire_core.program import Equation, Linear, Whole


def rule_of(equation: Equation, places: Sequence[int]) -> str:
    """Return the rule that gives the derivatives of an equation."""
    kinds = [equation.primitive.derivative(place) for place in places]
    name = equation.primitive.name
    if not kinds:
        return "constant"
    if any(isinstance(kind, Whole) for kind in kinds):
        return f"derivative of {name}"
    if name in RULES:
        return RULES[name]
    if all(isinstance(kind, Linear) for kind in kinds):
        joint = all(isinstance(kind, Linear) and kind.joint for kind in kinds)
        return "linear" if len(kinds) == 1 else "sum rule" if joint else "product rule"
    return "chain rule" if equation.primitive.is_elementwise else f"derivative of {name}"


Textbook: TypeAlias = Callable[[Expression, tuple[Expression, ...]], Expression]
TEXTBOOK: dict[tuple[str, int], Textbook] = {
    ("logistic", 0): lambda y, _: multiply(y, add(ONE, negate(y))),
    ("power", 0): lambda _, given: multiply(given[1], Power(given[0], add(given[1], Number(-1)))),
    ("tanh", 0): lambda y, _: add(ONE, negate(power(y, 2))),
}
"""How textbooks write a derivative whose rule here is longer, so as to lose no digit: by primitive and operand."""
RULES = {"divide": "quotient rule", "power": "power rule", "square": "power rule", "reciprocal": "quotient rule"}


PLACING = frozenset({"concatenate", "pad", "reshape"})
"""What puts every element of an operand at one place of the result."""


def pieces(left: Element, right: Expression) -> list[tuple[Element, Expression]]:
    """Return an equation, parted where each of its summands is an array that stands somewhere in the result: `y[i+3] = b[i]`."""
    items = right.items if isinstance(right, Sum) else (right,)
    found = [_placed_piece(left, item) for item in items]
    if len(items) > 1 and any(piece is None for piece in found):
        return [(left, right)]
    pieces = [piece for piece in found if piece is not None]
    return pieces or [(left, right)]


def _placed_piece(left: Element, item: Expression) -> tuple[Element, Expression] | None:
    """Return an item that is `sum over k of delta[i, k + 3] body` as what stands at k + 3; None for others."""
    assert left.at is not None
    if not isinstance(item, Over) or item.kind != "sum":
        return None
    symbols, body, place = list(item.symbols), item.body, dict(enumerate(left.at))
    for number, index in enumerate(left.at):
        found = next((node for node in _deltas(body) if node.first == index), None)
        if found is None:
            continue
        inner = [atom for _, atom in found.second.parts]
        symbol = index.symbol
        if symbol is None or not all(atom in symbols for atom in inner):
            return None
        body = substitute(body, {symbol: found.second})
        place[number] = found.second
        symbols = [part for part in symbols if part not in inner]
    return None if symbols else (Element(left.name, tuple(place.values())), body)


def _deltas(body: Expression) -> list[Delta]:
    items = body.items if isinstance(body, Product) else (body,)
    return [item for item in items if isinstance(item, Delta)]
