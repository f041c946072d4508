"""The calculus of index notation: sums, products, conditions and deltas, kept in the form that is printed.

`reduce` takes every delta away that a sum over its index allows: `sum_k delta[i,k] w[k,j] = w[i,j]`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gradwire_core.explain.notation import (
    ONE,
    ZERO,
    Applied,
    AtMost,
    Atom,
    Call,
    Delta,
    Element,
    Expression,
    Index,
    Number,
    Over,
    Power,
    Product,
    Quotient,
    Sum,
    Symbol,
    affine,
    at,
    symbols_of,
    walk,
)


def substitute(expression: Any, known: Mapping[Symbol, Index]) -> Any:
    """Return an expression or index with symbols replaced by indices; what is left is simplified again."""
    if not known:
        return expression
    return _Substitution(known)(expression)


class _Substitution:
    def __init__(self, known: Mapping[Symbol, Index]) -> None:
        self.known = known

    def __call__(self, node: Any) -> Any:
        row = REBUILDING.get(type(node))
        return node if row is None else row(node, self)

    def index(self, index: Index) -> Index:
        return affine(index.offset, [(stride, self.atom(atom)) for stride, atom in index.parts])

    def atom(self, atom: Atom) -> Index:
        if isinstance(atom, Symbol):
            return self.known.get(atom) or at(atom)
        return Index(0, ((1, replace(atom, at=tuple(map(self.index, atom.at)))),))

    def all(self, items: tuple[Any, ...] | None) -> tuple[Any, ...]:
        return tuple(map(self, items or ()))


REBUILDING: dict[type, Callable[[Any, _Substitution], Any]] = {
    Index: lambda node, to: to.index(node),
    Element: lambda node, to: replace(node, at=node.at and to.all(node.at)),
    Applied: lambda node, to: replace(node, operands=to.all(node.operands), at=node.at and to.all(node.at)),
    Call: lambda node, to: call(node.primitive, *to.all(node.operands)),
    Sum: lambda node, to: add(*to.all(node.items)),
    Product: lambda node, to: multiply(*to.all(node.items)),
    Quotient: lambda node, to: divide(to(node.numerator), to(node.denominator)),
    Power: lambda node, to: Power(to(node.base), to(node.exponent)),
    Delta: lambda node, to: delta(to(node.first), to(node.second)),
    AtMost: lambda node, to: AtMost(to(node.first), to(node.second)),
    Over: lambda node, to: replace(node, body=to(node.body)),
}


# -- the calculus --------------------------------------------------------------------------------------------------------------


def add(*items: Expression) -> Expression:
    """Return a sum: nested ones are opened, numbers and equal items joined, zeros left out."""
    counts: dict[Expression, Any] = {}
    constant: Any = 0
    for item in itertools.chain.from_iterable(item.items if isinstance(item, Sum) else (item,) for item in items):
        number, rest = _part_number(item)
        if rest == ONE:
            constant = constant + number
        else:
            counts[rest] = counts.get(rest, 0) + number
    parts = [multiply(Number(number), rest) for rest, number in counts.items() if number]
    if constant or not parts:
        position = 0 if isinstance(constant, complex) or constant > 0 else len(parts)
        parts.insert(position, Number(constant))
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def _part_number(item: Expression) -> tuple[Any, Expression]:
    """Return the number that an expression is a multiple of, and the rest."""
    if isinstance(item, Number):
        return item.value, ONE
    if isinstance(item, Product) and isinstance(item.items[0], Number):
        rest = item.items[1:]
        number, inner = _part_number(rest[0]) if len(rest) == 1 else (1, Product(rest))
        return item.items[0].value * number, inner
    if isinstance(item, Quotient):
        number, above = _part_number(item.numerator)
        return number, Quotient(above, item.denominator)
    return 1, item


def multiply(*items: Expression) -> Expression:
    """Return a product: number first, then deltas, then the rest; sums over indices and divisions are moved outward."""
    number: Any = 1
    symbols: list[Symbol] = []
    over: list[Expression] = []
    under: list[Expression] = []
    pending = list(reversed(items))
    while pending:
        item = pending.pop()
        if isinstance(item, Number):
            number = number * item.value
        elif isinstance(item, Product):
            pending += reversed(item.items)
        elif isinstance(item, Quotient):
            under.append(item.denominator)
            pending.append(item.numerator)
        elif isinstance(item, Over) and item.kind == "sum":
            fresh = item if not set(symbols).intersection(item.symbols) else _refreshed(item)
            symbols += fresh.symbols
            pending.append(fresh.body)
        else:
            over.append(item)
    if not number:
        return ZERO
    joined = _joined(over)
    if ZERO in joined:
        return ZERO
    product = _product(sorted(joined, key=lambda item: not isinstance(item, (Delta, AtMost))))
    whole = Quotient(product, _product(_joined(under))) if under else product
    return _times_number(number, Over("sum", tuple(symbols), whole) if symbols else whole)


def _product(items: Sequence[Expression]) -> Expression:
    return ONE if not items else items[0] if len(items) == 1 else Product(tuple(items))


def _times_number(number: Any, rest: Expression) -> Expression:
    """Return a multiple; a fraction has the number above, and its sign before it."""
    if number == 1 and type(number) is int:
        return rest
    if rest == ONE:
        return Number(number)
    if isinstance(rest, Quotient) and number != -1:
        is_negative = not isinstance(number, complex) and number < 0
        above = _times_number(-number if is_negative else number, rest.numerator)
        made = Quotient(above, rest.denominator)
        return Product((Number(-1), made)) if is_negative else made
    return Product((Number(number), *(rest.items if isinstance(rest, Product) else (rest,))))


def _joined(items: Iterable[Expression]) -> list[Expression]:
    """Return factors with equal ones joined to powers, and comparisons of the same to one."""
    exponents: dict[Expression, int] = {}
    allowed: dict[tuple[Expression, ...], frozenset[str]] = {}
    for item in items:
        base, exponent = item, 1
        if isinstance(item, Power) and isinstance(item.exponent, Number) and type(item.exponent.value) is int:
            base, exponent = item.base, item.exponent.value
        if isinstance(item, Call) and item.primitive in ORDERINGS:
            operands, kinds = item.operands, ORDERINGS[item.primitive]
            if operands[::-1] in allowed:
                operands, kinds = operands[::-1], frozenset(MIRRORED[kind] for kind in kinds)
            allowed[operands] = allowed.get(operands, frozenset("<=>")) & kinds
        else:
            exponents[base] = 1 if isinstance(base, Delta) or _is_condition(base) else exponents.get(base, 0) + exponent
    if frozenset() in allowed.values():
        return [ZERO]
    found = [base if exponent == 1 else power(base, exponent) for base, exponent in exponents.items()]
    return found + [Call(COMPARISONS[kinds], operands) for operands, kinds in allowed.items()]


def power(base: Expression, exponent: int) -> Expression:
    """Return an integral power."""
    return Power(base, Number(exponent))


def divide(numerator: Expression, denominator: Expression) -> Expression:
    """Return a quotient; a number is divided by."""
    if isinstance(denominator, Number) and denominator.value == 1:
        return numerator
    return multiply(numerator, Quotient(ONE, denominator))


def gather(*items: Expression) -> Expression:
    """Return a sum, the deltas that all items have before it."""
    total = add(*items)
    if not isinstance(total, Sum):
        return total
    factors = [item.items if isinstance(item, Product) else (item,) for item in total.items]
    common = [item for item in factors[0] if isinstance(item, Delta) and all(item in others for others in factors)]
    rests = [multiply(*[item for item in group if item not in common]) for group in factors]
    return multiply(*common, add(*rests)) if common else total


def outward(expression: Expression) -> Expression:
    """Return an expression as it is printed: what a sum over indices does not depend on stands before it."""
    if isinstance(expression, Sum):
        return Sum(tuple(map(outward, expression.items)))
    if isinstance(expression, Product) and isinstance(expression.items[-1], Over):
        last = outward(expression.items[-1])
        return Product((*expression.items[:-1], *(last.items if isinstance(last, Product) else (last,))))
    if isinstance(expression, Over) and expression.kind == "sum" and isinstance(expression.body, Product):
        bound, items = set(expression.symbols), expression.body.items
        free = [item for item in items if bound.isdisjoint(symbols_of(item))]
        inner = _product([item for item in items if not bound.isdisjoint(symbols_of(item))])
        return Product((*free, replace(expression, body=inner))) if free else expression
    return expression


def call(primitive: str, *operands: Expression) -> Expression:
    """Return an elementwise primitive of elements; conditions are simplified, as numbers 0 and 1."""
    if primitive == "where":
        return _choose(*operands)
    if primitive == "logical_not":
        return _opposite(operands[0])
    if primitive == "logical_and" and all(map(_is_indicator, operands)):
        return multiply(*operands)
    if primitive == "logical_or" and Number(False) in operands:
        return operands[operands[0] == Number(False)]
    return Call(primitive, operands)


ORDERINGS = {
    "equal": frozenset("="),
    "greater": frozenset(">"),
    "greater_equal": frozenset(">="),
    "less": frozenset("<"),
    "less_equal": frozenset("<="),
    "not_equal": frozenset("<>"),
}
"""Which of less, equal and greater a comparison allows."""
MIRRORED = {"<": ">", "=": "=", ">": "<"}
COMPARISONS = {allowed: name for name, allowed in ORDERINGS.items()}


def _opposite(condition: Expression) -> Expression:
    """Return 1 where a condition is 0, and 0 where it is 1."""
    if isinstance(condition, Call) and condition.primitive in ORDERINGS:
        return Call(COMPARISONS[frozenset("<=>") - ORDERINGS[condition.primitive]], condition.operands)
    if isinstance(condition, Call) and condition.primitive == "logical_not":
        return condition.operands[0]
    return Call("logical_not", (condition,))


def _is_condition(expression: Expression) -> bool:
    return isinstance(expression, Call) and (expression.primitive in ORDERINGS or expression.primitive.startswith("logical_"))


def _is_indicator(expression: Expression) -> bool:
    """Whether an expression is made of conditions and finite numbers, by sums and products."""
    if isinstance(expression, Sum | Product):
        return all(map(_is_indicator, expression.items))
    return _is_condition(expression) or (isinstance(expression, Number) and abs(expression.value) < math.inf)


def _choose(condition: Expression, first: Expression, second: Expression) -> Expression:
    """Return the first expression where a condition holds, else the second."""
    if first == second:
        return first
    if second == ZERO and _is_indicator(first):
        return add(*[multiply(condition, item) for item in (first.items if isinstance(first, Sum) else (first,))])
    if first == ZERO and _is_indicator(second):
        return _choose(_opposite(condition), second, ZERO)
    if second == ZERO:
        above = first.numerator if isinstance(first, Quotient) else first
        if condition in (above.items if isinstance(above, Product) else (above,)):
            return first
        if isinstance(first, Call) and first.primitive == "where" and first.operands[2] == ZERO:
            both = condition if first.operands[0] == condition else multiply(condition, first.operands[0])
            return Call("where", (both, first.operands[1], ZERO))
    return Call("where", (condition, first, second))


def negate(expression: Expression) -> Expression:
    """Return the negative."""
    return multiply(Number(-1), expression)


def delta(first: Index, second: Index) -> Expression:
    """Return a Kronecker delta: a number where it is known, and a product of two where their indices part into digits."""
    if first == second:
        return ONE
    if first.offset:
        first, second = first.plus(Index(-second.offset)), second.plus(Index(-second.offset))
    low, high = second.plus(first.times(-1)).bounds
    if low > 0 or high < 0:
        return ZERO
    if low == high == 0:
        return ONE
    for base in sorted({abs(stride) for stride, _ in (*first.parts, *second.parts) if abs(stride) > 1}, reverse=True):
        one, other = _digits(first, base), _digits(second, base)
        low, high = other[1].plus(one[1].times(-1)).bounds
        if -base < low and high < base and (one[1], other[1]) != (Index(0), Index(0)):
            return multiply(delta(one[0], other[0]), delta(one[1], other[1]))
    return Delta(first, second)


def _digits(index: Index, base: int) -> tuple[Index, Index]:
    """Return the multiples of a base in an index, divided by it, and the rest."""
    high = Index(index.offset // base, tuple((stride // base, atom) for stride, atom in index.parts if stride % base == 0))
    return high, Index(index.offset % base, tuple((stride, atom) for stride, atom in index.parts if stride % base))


def _refreshed(expression: Over) -> Over:
    """Return the same sum over new symbols."""
    fresh = {symbol: Symbol(symbol.size) for symbol in expression.symbols}
    body = substitute(expression.body, {old: at(new) for old, new in fresh.items()})
    return Over(expression.kind, tuple(fresh.values()), body)


def reduce(symbols: Iterable[Symbol], body: Expression) -> Expression:
    """Return a sum over symbols without the deltas that it takes away: `sum_k delta[i,k] w[k] = w[i]`."""
    bound = list(symbols)
    while True:
        number, rest = _part_number(body)
        if isinstance(rest, Over) and rest.kind == "sum":
            bound, body = [*bound, *rest.symbols], _times_number(number, rest.body)
            continue
        items = _distributed(rest)
        if bound and len(items) > 1:
            return add(*[multiply(Number(number), _reduce_fresh(bound, item)) for item in items])
        found = _solvable(bound, rest)
        if found is None:
            break
        symbol, index = found
        bound.remove(symbol)
        body = substitute(body, {symbol: index})
    present = symbols_of(rest)
    for symbol in bound:
        number = number * (1 if symbol in present else symbol.size)
    kept = tuple(symbol for symbol in bound if symbol in present)
    return multiply(Number(number), Over("sum", kept, rest) if kept else rest)


def _reduce_fresh(bound: Sequence[Symbol], item: Expression) -> Expression:
    """Return one item of a sum, summed over symbols of its own."""
    fresh = _refreshed(Over("sum", tuple(bound), item))
    return reduce(fresh.symbols, fresh.body)


def _distributed(body: Expression) -> Sequence[Expression]:
    """Return the items of a sum, or of a product with a sum of deltas, multiplied out."""
    if isinstance(body, Sum):
        return body.items
    if isinstance(body, Quotient):
        return [divide(item, body.denominator) for item in _distributed(body.numerator)]
    for item in body.items if isinstance(body, Product) else ():
        if isinstance(item, Sum) and any(isinstance(node, Delta) for node in walk(item)):
            rest = [other for other in body.items if other is not item] if isinstance(body, Product) else []
            return [multiply(*rest, part) for part in item.items]
    return (body,)


def _solvable(bound: Sequence[Symbol], body: Expression) -> tuple[Symbol, Index] | None:
    """Return a bound symbol that a delta of a product fixes, and the index it must be."""
    product = body.numerator if isinstance(body, Quotient) else body
    for item in product.items if isinstance(product, Product) else (product,):
        if isinstance(item, Delta):
            difference = item.second.plus(item.first.times(-1))
            for stride, atom in difference.parts:
                if abs(stride) == 1 and isinstance(atom, Symbol) and atom in bound:
                    index = difference.plus(Index(0, ((-stride, atom),))).times(-stride)
                    if index.is_within(atom.size) and atom not in symbols_of(index):
                        return atom, index
    return None
