"""How a primitive is written in the source of a loop: one expression of names and numbers for each, without branch and table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gradwire_core.program import Equation
from gradwire_core.types import Dtype

FUNCTIONS = ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "sech_squared", "logistic", "erf")

_REAL, _BOOL = (Dtype.FLOAT64,), (Dtype.BOOL,)


class Template(NamedTuple):
    """How a primitive is written.

    Attributes:
        text: with a place for each operand, all of them names or numbers.
        dtypes: of its operands.
        bad: what must be false, or the value is not right; empty where it always is.
    """

    text: str
    dtypes: tuple[Dtype, ...]
    bad: str = ""


TEMPLATES: Mapping[str, Template] = {
    "add": Template("{} + {}", 2 * _REAL),
    "subtract": Template("{} - {}", 2 * _REAL),
    "multiply": Template("{} * {}", 2 * _REAL),
    "divide": Template("{} / {}", 2 * _REAL),
    "negative": Template("-{}", _REAL),
    "reciprocal": Template("1.0 / {}", _REAL),
    "square": Template("{0} * {0}", _REAL),
    "absolute": Template("abs({})", _REAL),
    "sqrt": Template("sqrt({})", _REAL),
    "sign": Template("1.0 if {0} > 0.0 else (-1.0 if {0} < 0.0 else (0.0 if {0} == 0.0 else {0}))", _REAL),
    "less": Template("{} < {}", 2 * _REAL),
    "less_equal": Template("{} <= {}", 2 * _REAL),
    "greater": Template("{} > {}", 2 * _REAL),
    "greater_equal": Template("{} >= {}", 2 * _REAL),
    "equal": Template("{} == {}", 2 * _REAL),
    "not_equal": Template("{} != {}", 2 * _REAL),
    "isnan": Template("{0} != {0}", _REAL),
    "isfinite": Template("abs({}) < inf", _REAL),
    "logical_and": Template("{} & {}", 2 * _BOOL),
    "logical_or": Template("{} | {}", 2 * _BOOL),
    "logical_not": Template("not {}", _BOOL),
    "convert": Template("1.0 if {} else 0.0", _BOOL),
    "maximum": Template("{0} if ({0} >= {1}) | ({0} != {0}) else {1}", 2 * _REAL),
    "minimum": Template("{0} if ({0} <= {1}) | ({0} != {0}) else {1}", 2 * _REAL),
    "where": Template("{1} if {0} else {2}", _BOOL + 2 * _REAL),
    "zeros_outside": Template("{0}", _REAL + _BOOL, "({0} != 0.0) & (not {1})"),
    **{name: Template(name + "({})", _REAL) for name in FUNCTIONS},
    "sin": Template("sin({})", _REAL, "abs({}) > largest_angle"),
    "cos": Template("cos({})", _REAL, "abs({}) > largest_angle"),
}

POWERS: Mapping[float, str] = {
    3.0: "{0} * {0} * {0}",
    2.0: "{0} * {0}",
    1.5: "abs({0}) * sqrt(abs({0})) if ({0} >= 0.0) | ({0} == -inf) else nan",
    1.0: "{0}",
    0.5: "sqrt(abs({0})) if ({0} >= 0.0) | ({0} == -inf) else nan",
    -0.5: "1.0 / sqrt(abs({0})) if ({0} >= 0.0) | ({0} == -inf) else nan",
    -1.0: "1.0 / {0}",
}
"""Powers of these exponents, at most 2 units in the last place from the exact value."""

_DIVISIONS = ("divide", "reciprocal", "sqrt", "power")
_DIVISION_NS, _FUNCTION_NS, _OTHER_NS = 0.4, 1.2, 0.05


def element_ns(name: str) -> float:
    """Return the predicted nanoseconds that a compiled loop takes for one element of a primitive."""
    if name in FUNCTIONS:
        return _FUNCTION_NS
    return _DIVISION_NS if name in _DIVISIONS else _OTHER_NS


def find_template(equation: Equation, exponent: float | None = None) -> Template | None:
    """Return how an elementwise equation is written, given the exponent of a power where it is known; None where it is not."""
    name, dtypes = equation.primitive.name, tuple([operand.type.dtype for operand in equation.operands])
    if name == "power":
        text = POWERS.get(exponent) if exponent is not None else None
        return Template(text, 2 * _REAL) if text is not None and dtypes == 2 * _REAL else None
    template = TEMPLATES.get(name)
    if name == "convert" and equation.params["dtype"] != Dtype.FLOAT64:
        return None
    return template if template is not None and dtypes == template.dtypes else None
