"""A derivation as data that JSON can hold: dicts, lists, text, numbers and None.

Every formula is given as text, as LaTeX, and as a tree. A node of a tree is a dict of one kind: `number`, `element` with
`at`, `call` or `apply` with `of`, `sum`, `product`, `quotient`, `power`, `delta`, `at_most`, or `over` with `of`. An index is
`{"offset": n, "parts": [[stride, name or element]]}`. So a derivation can be evaluated, drawn or checked elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from gradwire_core.explain import latex, text
from gradwire_core.explain.derivation import Derivation, Partial, Paths, Step, Total
from gradwire_core.explain.explanation import Asked, Explanation, Section
from gradwire_core.explain.naming import Formula, Ratio
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
from gradwire_core.planner import Plan
from gradwire_core.program import Param, show_param
from gradwire_core.types import TensorType

Data = dict[str, Any]
MOST_DIGITS = 4000
MOST_NUMBERS = 1000


def render(explained: Explanation) -> Data:
    """Return an explanation as data."""
    return {
        "derivations": [_section(section) for section in explained.sections],
        "plan": None if explained.plan is None else _plan(explained.plan),
    }


def _section(section: Section) -> Data:
    return {"of": section.title, **_derivation(section.derivation), "asked": [_asked(asked) for asked in section.asked]}


def _derivation(found: Derivation) -> Data:
    return {
        "inputs": [
            {"name": name, **_type(type), "indices": list(indices)}
            for (name, type), indices in zip(found.inputs, found.indices, strict=True)
        ],
        "steps": [_step(step) for step in found.steps],
        "equations_left_out": found.left_out,
        "outputs": list(found.outputs),
        "constants": [
            {"name": name, **_type(TensorType.of(array)), "values": _values(array.tolist()) if array.size <= MOST_NUMBERS else None}
            for name, array in found.constants.items()
        ],
        "paths": [_paths(paths) for paths in found.paths],
    }


def _type(type: TensorType) -> Data:
    return {"dtype": str(type.dtype), "shape": list(type.shape)}


def _values(values: Any) -> Any:
    """Return nested lists of numbers; of those that JSON does not have, text."""
    if isinstance(values, list):
        return [_values(value) for value in values]
    return _number(values)


def _number(value: Any) -> Any:
    if isinstance(value, complex):
        return {"real": _number(value.real), "imag": _number(value.imag)}
    return value if not isinstance(value, float) or math.isfinite(value) else repr(value)


def _param(value: Param) -> Any:
    if isinstance(value, tuple):
        return list(map(_param, value))
    return _number(value) if isinstance(value, bool | int | float | str) else show_param(value)


def _step(step: Step) -> Data:
    return {
        "number": step.number,
        "equation": step.equation,
        "primitive": step.primitive,
        "results": [{"name": name, **_type(type)} for name, type in zip(step.names, step.types, strict=True)],
        "formulas": [_formula(made) for made in step.formulas],
        "else_zero": step.is_partial,
        "rule": step.rule,
        "partials": [_partial(partial) for partial in step.partials],
        "totals": [_total(total) for total in step.totals],
    }


def _partial(partial: Partial) -> Data:
    return {"of": partial.of, "by": partial.by, "formula": _optional(partial.formula), "equation_count": partial.count}


def _total(total: Total) -> Data:
    return {
        "of": total.of,
        "by": total.by,
        "shape": list(total.shape),
        "through": list(total.through),
        "path_count": _count(total.path_count),
        "formula": _optional(total.formula),
        "patterns": list(total.patterns),
        "stored_numbers": total.stored,
    }


def _count(count: int) -> int | None:
    """Return a count; None where it has more digits than readers of JSON take."""
    return count if count.bit_length() < MOST_DIGITS / 0.30103 else None


def _paths(paths: Paths) -> Data:
    return {
        "of": paths.of,
        "by": paths.by,
        "count": _count(paths.count),
        "log2_count": math.log2(paths.count),
        "paths": [{"through": list(path.through), "contribution": _optional(path.contribution)} for path in paths.paths],
    }


def _asked(asked: Asked) -> Data:
    return {
        "what": asked.what,
        "of": asked.of,
        "by": asked.by,
        "dtype": str(asked.dtype),
        "shape": list(asked.shape),
        "is_zero": asked.is_zero,
        "derivative": None if asked.total is None else _total(asked.total),
    }


def _plan(plan: Plan) -> Data:
    choices = [
        {
            "what": choice.what,
            "chosen": choice.chosen,
            "predictions": [
                {"strategy": name, "seconds": cost.seconds, "flops": cost.flops, "is_bound": cost.is_bound}
                for name, cost in choice.predictions
            ],
        }
        for choice in plan.choices
    ]
    return {"step_count": len(plan.steps), "flops": plan.flops, "peak_bytes": plan.peak_bytes, "choices": choices}


# -- formulas ------------------------------------------------------------------------------------------------------------------


def _optional(made: Formula | None) -> Data | None:
    return None if made is None else _formula(made)


def _formula(made: Formula) -> Data:
    writer = _TreeWriter(made.names)
    left = made.left
    sides = {"of": writer.write(left.of), "by": writer.write(left.by)} if isinstance(left, Ratio) else writer.write(left)
    return {
        "text": text.show(made),
        "latex": latex.show(made).replace("&=", "="),
        "left": sides,
        "right": writer.write(made.right),
        "indices": {name: symbol.size for symbol, name in made.names.items()},
    }


class _TreeWriter:
    """Writes expressions as trees."""

    def __init__(self, names: Mapping[Symbol, str]) -> None:
        self.names = names

    def index(self, index: Index) -> Data:
        parts = []
        for stride, atom in index.parts:
            value = self.names[atom] if isinstance(atom, Symbol) else self.write(Element(atom.name, atom.at))
            parts.append([stride, value])
        return {"offset": index.offset, "parts": parts}

    def at(self, at: tuple[Index, ...] | None) -> list[Data] | None:
        return None if at is None else list(map(self.index, at))

    def all(self, items: tuple[Any, ...]) -> list[Data]:
        return [self.write(item) for item in items]

    def write(self, node: Any) -> Data:
        return TREES[type(node)](node, self)

    def applied(self, node: Applied) -> Data:
        given = {key: _param(value) for key, value in node.params}
        operands, at = self.all(node.operands), self.at(node.at)
        return {"apply": node.primitive, "params": given, "of": operands, "result": node.result, "at": at}

    def over(self, node: Over) -> Data:
        ranges = {self.names[symbol]: symbol.size for symbol in node.symbols}
        return {"over": node.kind, "ranges": ranges, "of": self.write(node.body)}


TREES: dict[type, Callable[[Any, _TreeWriter], Data]] = {
    Number: lambda node, _: {"number": _number(node.value)},
    Element: lambda node, to: {"element": node.name, "at": to.at(node.at)},
    Applied: lambda node, to: to.applied(node),
    Call: lambda node, to: {"call": node.primitive, "of": to.all(node.operands)},
    Sum: lambda node, to: {"sum": to.all(node.items)},
    Product: lambda node, to: {"product": to.all(node.items)},
    Quotient: lambda node, to: {"quotient": to.all((node.numerator, node.denominator))},
    Power: lambda node, to: {"power": to.all((node.base, node.exponent))},
    Delta: lambda node, to: {"delta": [to.index(node.first), to.index(node.second)]},
    AtMost: lambda node, to: {"at_most": [to.index(node.first), to.index(node.second)]},
    Over: lambda node, to: to.over(node),
}
