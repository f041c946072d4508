"""A derivation as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gradwire_core.explain.derivation import Derivation, Partial, Paths, Step, Total
from gradwire_core.explain.explanation import Asked, Explanation, Section
from gradwire_core.explain.naming import Formula, Ratio, windows
from gradwire_core.explain.notation import (
    Applied,
    AtMost,
    Call,
    Delta,
    Element,
    Index,
    Number,
    Over,
    Power,
    Product,
    Quotient,
    Sum,
    Symbol,
)
from gradwire_core.planner import Plan, show_bytes
from gradwire_core.program import show_param

SUM, OVER, PRODUCT, POWER, ATOM = range(5)
RELATIONS = {
    "equal": "=",
    "greater": ">",
    "greater_equal": ">=",
    "less": "<",
    "less_equal": "<=",
    "logical_and": "and",
    "logical_or": "or",
    "not_equal": "!=",
}
COLUMN = 58


class Text(NamedTuple):
    """An expression as text, and how tightly it binds."""

    text: str
    level: int


class Writer:
    """Writes expressions as text; subclasses write them otherwise.

    Args:
        names: the names of the symbols.
    """

    def __init__(self, names: Mapping[Symbol, str]) -> None:
        self.names = names

    def write(self, node: Any) -> Text:
        """Return an expression as text."""
        method = getattr(self, f"_{type(node).__name__.lower()}")
        found: Text = method(node)
        return found

    def within(self, text: Text, level: int) -> str:
        """Return a text where something of the given level is needed."""
        return text.text if text.level >= level else self.bracketed(text.text)

    def bracketed(self, text: str) -> str:
        """Return text in parentheses."""
        return f"({text})"

    def number(self, value: Any) -> str:
        """Return a number before a product."""
        return repr(value)

    def formula(self, made: Formula) -> str:
        """Return both sides of a formula."""
        return f"{self.write(made.left).text} = {self.write(made.right).text}"

    def index(self, index: Index) -> str:
        """Return an index: `2i+1`."""
        parts = []
        for stride, atom in sorted(index.parts, key=lambda part: -part[0]):
            text = self.atom(atom)
            if abs(stride) != 1:
                text = f"{abs(stride)}{text}" if isinstance(atom, Symbol) else f"{abs(stride)} {text}"
            parts.append(("-" if stride < 0 else "+", text))
        if index.offset or not parts:
            number = ("-" if index.offset < 0 else "+", str(abs(index.offset)))
            parts.insert(0 if parts and parts[0][0] == "-" else len(parts), number)
        text = "".join(sign + part for sign, part in parts)
        return text.removeprefix("+")

    def atom(self, atom: Any) -> str:
        """Return a symbol, or what stands for one."""
        if isinstance(atom, Symbol):
            return self.names[atom]
        return self.element(atom.name, atom.at)

    def element(self, name: str, at: tuple[Index, ...] | None) -> str:
        """Return an element of a named array."""
        return f"{name}[{','.join(map(self.index, at))}]" if at else name

    def _number(self, node: Number) -> Text:
        value = node.value
        is_negative = not isinstance(value, complex) and (value < 0)
        text = repr(value).lower() if isinstance(value, bool) else repr(value)
        return Text(text, SUM if is_negative else ATOM)

    def _element(self, node: Element) -> Text:
        return Text(self.element(node.name, node.at), ATOM)

    def _applied(self, node: Applied) -> Text:
        given = ", ".join(f"{key}={show_param(value)}" for key, value in node.params)
        operands = ", ".join(self.write(item).text for item in node.operands)
        text = f"{node.primitive}{f'[{given}]' if given else ''}({operands})"
        if node.result >= 0:
            text = f"{text}.{node.result}"
        return Text(self.element(text, node.at), ATOM)

    def _call(self, node: Call) -> Text:
        relation = RELATIONS.get(node.primitive)
        operands = [self.write(item) for item in node.operands]
        if relation:
            return Text(f"[{f' {relation} '.join(item.text for item in operands)}]", ATOM)
        return Text(f"{node.primitive}({', '.join(item.text for item in operands)})", ATOM)

    def _sum(self, node: Sum) -> Text:
        texts = [(self.write(item), _is_negative(item)) for item in node.items]
        first, *rest = [text.text if is_negative else self.within(text, OVER) for text, is_negative in texts]
        return Text(first + "".join(f" - {part[1:]}" if part.startswith("-") else f" + {part}" for part in rest), SUM)

    def _product(self, node: Product) -> Text:
        number, items = (node.items[0].value, node.items[1:]) if isinstance(node.items[0], Number) else (1, node.items)
        texts = [self.write(item) for item in items]
        parts = [self.within(text, OVER if place == len(texts) - 1 else POWER) for place, text in enumerate(texts)]
        if isinstance(number, complex) or abs(number) != 1:
            parts.insert(0, self.number(number if isinstance(number, complex) else abs(number)))
        joined = self.times(parts)
        return Text(f"-{joined}", SUM) if not isinstance(number, complex) and number < 0 else Text(joined, PRODUCT)

    def times(self, parts: list[str]) -> str:
        """Return a product."""
        return " ".join(parts)

    def _quotient(self, node: Quotient) -> Text:
        above, below = self.write(node.numerator), self.write(node.denominator)
        return Text(f"{self.within(above, PRODUCT)} / {self.within(below, POWER)}", PRODUCT)

    def _power(self, node: Power) -> Text:
        base, exponent = self.write(node.base), self.write(node.exponent)
        return Text(f"{self.within(base, ATOM)}^{self.within(exponent, ATOM)}", POWER)

    def _delta(self, node: Delta) -> Text:
        return Text(f"delta[{self.index(node.first)},{self.index(node.second)}]", ATOM)

    def _atmost(self, node: AtMost) -> Text:
        return Text(f"[{self.index(node.first)} <= {self.index(node.second)}]", ATOM)

    def _over(self, node: Over) -> Text:
        names = ",".join(self.names[symbol] for symbol in node.symbols)
        below = names if len(node.symbols) == 1 else f"{{{names}}}"
        return Text(f"{node.kind}_{below} {self.within(self.write(node.body), OVER)}", OVER)

    def _ratio(self, node: Ratio) -> Text:
        return Text(f"d{self.write(node.of).text}/d{self.write(node.by).text}", ATOM)


def _is_negative(node: Any) -> bool:
    number = node.items[0] if isinstance(node, Product) else node.numerator if isinstance(node, Quotient) else node
    if isinstance(number, Product):
        number = number.items[0]
    return isinstance(number, Number) and not isinstance(number.value, complex) and number.value < 0


def show(made: Formula) -> str:
    """Return a formula as text."""
    return Writer(made.names).formula(made)


def show_count(count: int) -> str:
    """Return a count of paths: all digits, or the power of ten of a very large one."""
    return str(count) if count < 10**30 else f"about 10^{round(count.bit_length() * 0.30103)}"


def render(explained: Explanation) -> str:
    """Return an explanation as text."""
    lines: list[str] = []
    for section in explained.sections:
        lines += [*_section(section), ""]
    if explained.plan is not None:
        lines += _plan(explained.plan)
    return "\n".join(lines).rstrip()


def _section(section: Section) -> Iterator[str]:
    found = section.derivation
    if section.title:
        yield f"{section.title} of the program"
    yield "inputs"
    for (name, type), indices in zip(found.inputs, found.indices, strict=True):
        axes = f"[{','.join(indices)}]" if indices else ""
        yield f"  {name}{axes}: {type}"
    yield "steps"
    for step in found.steps:
        yield from _step(step)
    if found.left_out:
        yield f"  ... {found.left_out} more equations"
    absent = "one that is left out" if found.left_out else "a constant"
    yield f"outputs: {', '.join(name or absent for name in found.outputs)}"
    yield from _constants(found)
    for paths in found.paths:
        yield from _paths(paths, found)
    for asked in section.asked:
        yield from _asked(asked)


def _constants(found: Derivation) -> Iterator[str]:
    if found.constants:
        yield "constants"
        for name, array in found.constants.items():
            with np.printoptions(threshold=12, edgeitems=2, linewidth=1000):
                yield f"  {name} = {' '.join(str(array).split())}"


def _step(step: Step) -> Iterator[str]:
    head = f"  {step.number}. "
    first, *rest = [show(item) + _window(item, step) for item in step.formulas]
    yield f"{head + first:<{COLUMN}}  {step.rule}"
    for line in rest:
        yield " " * len(head) + line
    known = set()
    for partial in step.partials:
        yield f"       partial  {_partial(partial)}"
        if partial.formula is not None:
            known.add(show(partial.formula))
    for total in step.totals:
        if total.formula is None or show(total.formula) not in known:
            yield f"       total    {_total(total)}"


def _window(made: Formula, step: Step) -> str:
    """Return where a formula holds that does not give all elements of its result."""
    found = windows(made, step.shape_of(made))
    if not found:
        return ""
    bounds = " and ".join(f"{made.names[symbol]} < {symbol.size}" for symbol in found)
    return f"  for {bounds}{', else 0' if step.is_partial else ''}"


def _partial(partial: Partial) -> str:
    if partial.formula is not None:
        return show(partial.formula)
    return f"d{partial.of}/d{partial.by} {_unwritten(partial.count)}"


def _unwritten(count: int) -> str:
    return f"by {count} equation{'s' * (count != 1)}" if count else "by the equations of its sub-programs"


def _total(total: Total) -> str:
    text = f"d{total.of}/d{total.by} {_unwritten(total.count)}" if total.formula is None else show(total.formula)
    if total.path_count < 2:
        return text
    return f"{text}  ({show_count(total.path_count)} paths, through {' and '.join(total.through)})"


def _paths(paths: Paths, found: Derivation) -> Iterator[str]:
    yield f"paths from {paths.by} to {paths.of}: {show_count(paths.count)}"
    for path in paths.paths:
        yield f"  {' -> '.join(path.through)}"
        if path.contribution is not None:
            writer = Writer(path.contribution.names)
            yield f"       {writer.write(path.contribution.right).text}"
    total = found.total(paths.of, paths.by)
    if len(paths.paths) > 1 and total is not None and total.formula is not None:
        yield f"  their sum: {show(total.formula)}"


def _asked(asked: Asked) -> Iterator[str]:
    shape = ",".join(map(str, asked.shape))
    yield f"{asked.what}, from d{asked.of}/d{asked.by}: {asked.dtype}[{shape}]"
    total = asked.total
    if total is None:
        yield "  zero" if asked.is_zero else "  left out"
        return
    yield f"  {_total(total)}"
    size = int(np.prod(asked.entries, dtype=object))
    yield f"  as {len(total.patterns)} term{'s' * (len(total.patterns) != 1)} of {total.stored} numbers, for {size} entries"
    for pattern in total.patterns:
        yield f"    {pattern}"


def _plan(plan: Plan) -> Iterator[str]:
    steps = f"{len(plan.steps)} step{'s' * (len(plan.steps) != 1)}"
    yield f"plan: {steps}, {plan.flops:.3g} flops, peak memory {show_bytes(plan.peak_bytes)}"
    yield from [f"  {choice}" for choice in plan.choices]
