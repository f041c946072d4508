"""A derivation as LaTeX, to be set within a document that uses amsmath."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gradwire_core.explain.derivation import Step
from gradwire_core.explain.explanation import Asked, Explanation, Section
from gradwire_core.explain.naming import Formula, Ratio, windows
from gradwire_core.explain.notation import Applied, AtMost, Call, Delta, Index, Number, Over, Power, Quotient, Symbol
from gradwire_core.explain.text import ATOM, OVER, POWER, RELATIONS, SUM, Text, Writer, show_count
from gradwire_core.planner import show_bytes

NAMED = frozenset({"arccos", "arcsin", "arctan", "cos", "cosh", "exp", "log", "sin", "sinh", "tan", "tanh"})
"""Functions that LaTeX has a command for, by the same name; log is the natural logarithm."""
GREEK = frozenset({
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "pi", "rho",
    "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon",
    "Phi", "Psi", "Omega",
})  # fmt: skip
SIGNS = {">=": r"\ge", "<=": r"\le", "!=": r"\ne", "and": r"\land", "or": r"\lor"}
SUMS = {"sum": r"\sum", "prod": r"\prod", "max": r"\max", "min": r"\min"}


class LatexWriter(Writer):
    """Writes expressions as LaTeX."""

    mark = r"\partial"

    def element(self, name: str, at: tuple[Index, ...] | None) -> str:
        """Return an element with its indices below, side by side where each is one letter."""
        return _name(name) + (self.indices(at) if at else "")

    def indices(self, at: tuple[Index, ...]) -> str:
        """Return indices as a subscript, side by side where each is one letter."""
        texts = list(map(self.index, at))
        separator = "" if all(re.fullmatch(r"[a-z]'*", text) for text in texts) else ","
        return f"_{{{separator.join(texts)}}}"

    def atom(self, atom: Any) -> str:
        """Return a symbol, or what stands for one."""
        if isinstance(atom, Symbol):
            letter, digits, primes = re.fullmatch(r"([a-z])(\d*)('*)", self.names[atom]).groups()  # type: ignore[union-attr]  # so named
            return f"{letter}_{{{digits}}}{primes}" if digits else letter + primes
        return self.element(atom.name, atom.at)

    def bracketed(self, text: str) -> str:
        """Return text in parentheses that grow with it."""
        return rf"\left({text}\right)"

    def times(self, parts: list[str]) -> str:
        """Return a product; names of functions and digits keep a distance."""
        return r" \, ".join(parts)

    def _number(self, node: Number) -> Text:
        value = node.value
        if isinstance(value, bool):
            return Text(rf"\mathrm{{{str(value).lower()}}}", ATOM)
        if isinstance(value, complex):
            return Text(rf"\left({_digits(value.real)} + {_digits(value.imag)} \mathrm{{i}}\right)", ATOM)
        return Text(_digits(value), SUM if value < 0 else ATOM)

    def number(self, value: Any) -> str:
        """Return a number before a product."""
        return self._number(Number(value)).text

    def _applied(self, node: Applied) -> Text:
        text = rf"{_function(node.primitive)}\left({', '.join(self.write(item).text for item in node.operands)}\right)"
        if node.result >= 0:
            text = rf"{text}^{{({node.result})}}"
        if node.at:
            text = rf"\left[{text}\right]_{{{','.join(map(self.index, node.at))}}}"
        return Text(text, ATOM)

    def _call(self, node: Call) -> Text:
        relation = RELATIONS.get(node.primitive)
        operands = [self.write(item) for item in node.operands]
        if relation:
            sign = SIGNS.get(relation, relation)
            return Text(rf"\left[{f' {sign} '.join(item.text for item in operands)}\right]", ATOM)
        if node.primitive == "where":
            condition, first, second = (item.text for item in operands)
            rows = rf"{first} & \text{{if }} {condition} \\ {second} & \text{{otherwise}}"
            return Text(rf"\begin{{cases}} {rows} \end{{cases}}", POWER)
        if node.primitive == "sqrt":
            return Text(rf"\sqrt{{{operands[0].text}}}", ATOM)
        if node.primitive == "absolute":
            return Text(rf"\left|{operands[0].text}\right|", ATOM)
        return Text(rf"{_function(node.primitive)}\left({', '.join(item.text for item in operands)}\right)", POWER)

    def _quotient(self, node: Quotient) -> Text:
        return Text(rf"\frac{{{self.write(node.numerator).text}}}{{{self.write(node.denominator).text}}}", POWER)

    def _power(self, node: Power) -> Text:
        return Text(f"{self.within(self.write(node.base), ATOM)}^{{{self.write(node.exponent).text}}}", POWER)

    def _delta(self, node: Delta) -> Text:
        return Text(rf"\delta{self.indices((node.first, node.second))}", ATOM)

    def _atmost(self, node: AtMost) -> Text:
        return Text(rf"\left[{self.index(node.first)} \le {self.index(node.second)}\right]", ATOM)

    def _over(self, node: Over) -> Text:
        names = ", ".join(self.atom(symbol) for symbol in node.symbols)
        return Text(f"{SUMS[node.kind]}_{{{names}}} {self.within(self.write(node.body), OVER)}", OVER)

    def _ratio(self, node: Ratio) -> Text:
        return Text(rf"\frac{{{self.mark} {self.write(node.of).text}}}{{{self.mark} {self.write(node.by).text}}}", ATOM)


class TotalWriter(LatexWriter):
    """Writes the derivatives along all paths with an upright d, not with that of partial ones."""

    mark = r"\mathrm{d}"


def _name(name: str) -> str:
    """Return the name of an array: one letter in italics, a longer one upright."""
    letter = re.fullmatch(r"([A-Za-z])(\d*)", name)
    if letter:
        return f"{letter[1]}^{{({letter[2]})}}" if letter[2] else letter[1]
    if name in GREEK:
        return rf"\{name}"
    return rf"\mathrm{{{escape(name)}}}"


def _function(name: str) -> str:
    return rf"\{name}" if name in NAMED else rf"\operatorname{{{escape(name)}}}"


def _digits(value: float) -> str:
    text = repr(value)
    if text in ("inf", "-inf", "nan"):
        return {"inf": r"\infty", "-inf": r"-\infty", "nan": r"\mathrm{NaN}"}[text]
    mantissa, _, exponent = text.partition("e")
    return rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if exponent else mantissa


def escape(text: str) -> str:
    """Return text with what LaTeX reads as a command escaped."""
    return re.sub(r"([_&%$#{}])", r"\\\1", text)


def show(made: Formula, *, is_total: bool = False) -> str:
    """Return a formula as LaTeX, aligned at its equals sign."""
    writer = (TotalWriter if is_total else LatexWriter)(made.names)
    return f"{writer.write(made.left).text} &= {writer.write(made.right).text}"


def render(explained: Explanation) -> str:
    """Return an explanation as LaTeX."""
    lines = [line for section in explained.sections for line in _section(section)]
    plan = explained.plan
    if plan is not None:
        memory = escape(show_bytes(plan.peak_bytes))
        lines += [
            "",
            f"Plan: {len(plan.steps)} steps, {_digits(float(f'{plan.flops:.3g}')).removesuffix('.0')} flops, peak memory {memory}.",
        ]
        lines += [rf"\\ {escape(choice.what)}: {escape(choice.chosen)}." for choice in plan.choices]
    return "\n".join(lines)


def _section(section: Section) -> Iterator[str]:
    found = section.derivation
    if section.title:
        yield rf"\paragraph{{{escape(section.title)}}}"
    shapes = [rf"${_name(name)} \in {_space(type.shape)}$" for name, type in found.inputs]
    yield f"Inputs: {', '.join(shapes)}."
    yield from _aligned([row for step in found.steps for row in _rows(step)])
    if found.left_out:
        yield f"{found.left_out} more equations are left out."
    for paths in found.paths:
        of, by = _name(paths.of), _name(paths.by)
        yield f"Paths from ${by}$ to ${of}$: {_power_of_ten(paths.count)}."
        rows = [_path_row(path.through, path.contribution) for path in paths.paths]
        yield from _aligned(rows if len(rows) > 1 else [])
    yield from _aligned([row for asked in section.asked for row in _asked(asked)])


def _rows(step: Step) -> Iterator[str]:
    first = True
    for made in step.formulas:
        bounds = [rf"{LatexWriter(made.names).atom(symbol)} < {symbol.size}" for symbol in windows(made, step.shape_of(made))]
        window = rf" \quad \text{{for }} {', '.join(bounds)}" if bounds else ""
        rest = r" \text{, else } 0" if bounds and step.is_partial else ""
        yield show(made) + window + rest + (rf" && \text{{{escape(step.rule)}}}" if first else "")
        first = False
    known = {show(partial.formula, is_total=True) for partial in step.partials if partial.formula is not None}
    yield from [show(partial.formula) for partial in step.partials if partial.formula is not None]
    for total in step.totals:
        line = "" if total.formula is None else show(total.formula, is_total=True)
        if line and line not in known:
            yield line + (rf" && \text{{sum over {show_count(total.path_count)} paths}}" if total.path_count > 1 else "")


def _path_row(through: tuple[str, ...], contribution: Formula | None) -> str:
    way = r" \to ".join(map(_name, through))
    if contribution is None:
        return f"{way} &"
    return f"{way} &: {LatexWriter(contribution.names).write(contribution.right).text}"


def _asked(asked: Asked) -> Iterator[str]:
    note = rf" && \text{{{escape(asked.what)}}}"
    if asked.total is not None and asked.total.formula is not None:
        yield show(asked.total.formula, is_total=True) + note
    elif asked.is_zero:
        yield rf"\frac{{\mathrm{{d}} {_name(asked.of)}}}{{\mathrm{{d}} {_name(asked.by)}}} &= 0{note}"


def _aligned(rows: list[str]) -> Iterator[str]:
    if rows:
        yield r"\begin{align*}"
        yield " \\\\\n".join(f"  {row}" for row in rows)
        yield r"\end{align*}"


def _space(shape: tuple[int, ...]) -> str:
    sizes = r" \times ".join(map(str, shape))
    return rf"\mathbb{{R}}^{{{sizes}}}" if shape else r"\mathbb{R}"


def _power_of_ten(count: int) -> str:
    return f"${show_count(count).replace('about 10^', '10^{')}}}$" if count >= 10**30 else str(count)
