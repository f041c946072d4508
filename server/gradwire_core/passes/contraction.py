"""Contraction order: a contraction of many operands becomes contractions of two, along the path of least predicted time.

Transposes of operands, and of a result that nothing else takes, become part of the contraction, and labels are named in the order
in which they appear: so what two contractions have in common is one equation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from gradwire_core.builder import Builder, Value
from gradwire_core.einsum import canonical_subscripts, label_sizes, natural_labels, search_path
from gradwire_core.ops.shaping import transpose
from gradwire_core.program import Equation, Operand, Program


def order_contractions(program: Program) -> Program:
    """Return the program with contractions of two operands at most; itself where there is nothing to do."""
    made: dict[Operand, Equation] = {result: equation for equation in program.equations for result in equation.results}
    if not any(_is_reducible(equation, made) for equation in program.equations):
        return program
    return _absorb_transposes(_Ordering().run(program))


def _is_reducible(equation: Equation, made: dict[Operand, Equation]) -> bool:
    if equation.primitive.name != "einsum" or len(equation.operands) < 2:
        return False
    return len(equation.operands) > 2 or any(_is_transpose(made.get(operand)) for operand in equation.operands)


def _is_transpose(equation: Equation | None) -> bool:
    return equation is not None and equation.primitive.name == "transpose"


def _subscripts(equation: Equation) -> tuple[list[str], str]:
    subscripts = equation.params["subscripts"]
    assert isinstance(subscripts, str)
    left, _, output = subscripts.partition("->")
    return left.split(","), output


def _axes(equation: Equation) -> tuple[int, ...]:
    axes = equation.params["axes"]
    assert isinstance(axes, tuple)
    return tuple(axis for axis in axes if isinstance(axis, int))


class _Ordering:
    """A program emitted again, with its contractions in order."""

    def __init__(self) -> None:
        self.builder = Builder()
        self.numbers: dict[Operand, int] = {}

    def run(self, program: Program) -> Program:
        """Return the program after the pass."""
        builder = self.builder
        known: dict[Operand, Value] = dict(zip(program.inputs, builder.repeat_inputs(program), strict=True))
        for equation in program.equations:
            operands = [builder.resolve(operand, known) for operand in equation.operands]
            if equation.primitive.name == "einsum" and len(operands) > 1:
                known[equation.results[0]] = self._contract(equation, operands)
            else:
                known.update(zip(equation.results, builder.repeat(equation, operands), strict=True))
        return builder.build([builder.resolve(operand, known) for operand in program.outputs])

    def _contract(self, equation: Equation, operands: list[Value]) -> Value:
        groups, output = _subscripts(equation)
        parts = [self._untransposed(value, labels) for value, labels in zip(operands, groups, strict=True)]
        parts.sort(key=self._number)
        subscripts = f"{','.join(labels for _, labels in parts)}->{output}"
        first: dict[Operand, int] = {}
        alike = tuple(first.setdefault(value.operand, index) for index, (value, _) in enumerate(parts))
        for one, other, labels in search_path(subscripts, tuple(value.shape for value, _ in parts), alike):
            parts.append(self._pair(equation, (parts[one], parts[other]), labels, output))
        value, labels = parts[-1]
        result: Value = transpose(value, tuple(labels.index(label) for label in output))
        return result

    def _untransposed(self, value: Value, labels: str) -> tuple[Value, str]:
        """Return the source of a transposed operand, with its labels in their order."""
        equation = self.builder.producer(value.operand)
        while equation is not None and _is_transpose(equation):
            named = dict(zip(_axes(equation), labels, strict=True))
            value, labels = Value(self.builder, equation.operands[0]), "".join(named[axis] for axis in range(len(labels)))
            equation = self.builder.producer(value.operand)
        return value, labels

    def _pair(self, equation: Equation, pair: Iterable[tuple[Value, str]], needed: str, output: str) -> tuple[Value, str]:
        """Return a contraction of two operands, and its labels: in one order of operands and of labels, however it was written."""
        (value, mine), (second, others) = sorted(pair, key=self._number)
        sizes = label_sizes((mine, others), (value.shape, second.shape))
        labels = natural_labels((mine, others), needed, output, sizes)
        params = {"subscripts": canonical_subscripts((mine, others), labels)}
        return self.builder.emit(equation.primitive, (value, second), params)[0], labels

    def _number(self, part: tuple[Value, str]) -> int:
        return self.numbers.setdefault(part[0].operand, len(self.numbers))


def _absorb_transposes(program: Program) -> Program:
    """Return the program in which a contraction gives its result in the order in which alone it is taken."""
    uses = Counter([*program.outputs, *[operand for equation in program.equations for operand in equation.operands]])
    contractions = {equation.results[0] for equation in program.equations if equation.primitive.name == "einsum"}
    absorbed: dict[Operand, Equation] = {
        equation.operands[0]: equation
        for equation in program.equations
        if _is_transpose(equation) and equation.operands[0] in contractions and uses[equation.operands[0]] == 1
    }
    equations = []
    for equation in program.equations:
        after = absorbed.get(equation.results[0])
        if after is not None:
            groups, output = _subscripts(equation)
            subscripts = f"{','.join(groups)}->{''.join(output[axis] for axis in _axes(after))}"
            equations.append(Equation(equation.primitive, equation.operands, {"subscripts": subscripts}, after.results))
        elif not (_is_transpose(equation) and absorbed.get(equation.operands[0]) is equation):
            equations.append(equation)
    return Program(program.inputs, tuple(equations), program.outputs)
