"""Contractions of contractions become one, where its best path is predicted to take less time.

`(A @ B) @ v` is written as a product of matrices and one with a vector; as one contraction of three operands it is two products
with a vector. `sum(A @ B)` becomes a product of sums, and `trace(A @ B)` one sum of products. What is made in between must have no
other use. The same products are summed in another order: what is finite differs by rounding alone.
"""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gradwire_core.builder import Builder, Value
from gradwire_core.einsum import MOST_WEIGHED, canonical_subscripts, lower
from gradwire_core.program import Equation, Operand, Primitive, Program

# What is merged is predicted to take at most this share of the time before.
ENOUGH = 0.8
# A contraction, and what else may stand after one.
LINKS = frozenset({"diagonal", "einsum", "sum", "transpose"})


def merge_contractions(program: Program) -> Program:
    """Return the program with contractions of contractions as one where that is faster; itself where there are none."""
    merged = _find(program)
    if not merged:
        return program
    builder = Builder()
    known: dict[Operand, Value] = dict(zip(program.inputs, builder.repeat_inputs(program), strict=True))
    gone = {equation for tree in merged.values() for equation in tree.equations}
    for equation in program.equations:
        tree = merged.get(equation)
        if tree is not None:
            operands = [builder.resolve(operand, known) for operand in tree.operands]
            known[equation.results[0]] = builder.emit(tree.primitive, operands, {"subscripts": tree.subscripts})[0]
        elif equation not in gone:
            operands = [builder.resolve(operand, known) for operand in equation.operands]
            known.update(zip(equation.results, builder.repeat(equation, operands), strict=True))
    return builder.build([builder.resolve(operand, known) for operand in program.outputs])


def _find(program: Program) -> dict[Equation, _Tree]:
    """Return what becomes one, by the equation that is its last."""
    made = {equation.results[0]: equation for equation in program.equations if equation.primitive.name in LINKS}
    if not any(equation.primitive.name == "einsum" for equation in made.values()):
        return {}
    uses = Counter([*program.outputs, *[operand for equation in program.equations for operand in equation.operands]])
    outputs = set(program.outputs)
    inner: dict[Operand, Equation] = {
        result: equation for result, equation in made.items() if uses[result] == 1 and result not in outputs
    }
    merged: dict[Equation, _Tree] = {}
    gone: set[Equation] = set()
    for equation in reversed(made.values()):
        if equation not in gone and equation.primitive.name != "transpose":
            tree = _grow(equation, inner)
            if tree is not None:
                merged[equation] = tree
                gone.update(tree.equations)
    return merged


@dataclass
class _Tree:
    """A contraction, with those that make its operands.

    Attributes:
        operands: what it takes.
        groups: the labels of each, as numbers.
        output: the labels of the result.
        equations: what it stands for, the last one first.
    """

    operands: list[Operand]
    groups: list[list[int]]
    output: list[int]
    equations: list[Equation] = field(default_factory=list)

    @property
    def primitive(self) -> Primitive:
        """That of contractions."""
        return next(equation.primitive for equation in self.equations if equation.primitive.name == "einsum")

    @property
    def subscripts(self) -> str:
        """The subscripts of the whole."""
        names = ["".join([string.ascii_letters[label] for label in labels]) for labels in (*self.groups, self.output)]
        return canonical_subscripts(names[:-1], names[-1])

    def is_better(self) -> bool:
        """Whether it may be written as one contraction, and that is faster."""
        labels = {label for group in self.groups for label in group}
        if len(labels) > len(string.ascii_letters) or any(len(set(group)) < len(group) for group in self.groups):
            return False
        apart = sum(map(_seconds, self.equations))
        return lower(self.subscripts, tuple(operand.type.shape for operand in self.operands)).seconds <= ENOUGH * apart


def _grow(last: Equation, inner: Mapping[Operand, Equation]) -> _Tree | None:
    """Return an equation with the contractions that make its operands, as far as they go; None where that is no better."""
    numbers = itertools.count(last.results[0].type.ndim)
    output = [*range(last.results[0].type.ndim)]
    tree = _Tree([last.results[0]], [output], output)
    waiting = [[last]] if last.primitive.name == "einsum" else [_chain(last, inner)]
    place = 0
    while place < len(tree.operands):
        chain = waiting.pop() if waiting else _chain(inner.get(tree.operands[place]), inner)
        if not chain or len(tree.operands) + len(chain[-1].operands) - 1 > MOST_WEIGHED:
            place += 1
            continue
        operands: Sequence[Operand] = ()
        groups = [tree.groups[place]]
        for equation in chain:
            operands, groups = equation.operands, _labels_within(equation, groups[0], numbers)
        tree.operands[place : place + 1], tree.groups[place : place + 1] = operands, groups
        tree.equations += chain
    return tree if len(tree.equations) > 1 and tree.is_better() else None


def _chain(equation: Equation | None, inner: Mapping[Operand, Equation]) -> list[Equation]:
    """Return an equation and those before it, up to a contraction; none where there is no such."""
    found: list[Equation] = []
    while equation is not None:
        found.append(equation)
        if equation.primitive.name == "einsum":
            return found
        equation = inner.get(equation.operands[0])
    return []


def _labels_within(equation: Equation, result: Sequence[int], numbers: Iterator[int]) -> list[list[int]]:
    """Return the labels of the operands of an equation whose result has the given ones."""
    params = equation.params
    if equation.primitive.name == "einsum":
        groups, _, output = str(params["subscripts"]).partition("->")
        names = dict(zip(output, result, strict=True))
        return [
            [names[letter] if letter in names else names.setdefault(letter, next(numbers)) for letter in group]
            for group in groups.split(",")
        ]
    ndim = equation.operands[0].type.ndim
    if equation.primitive.name == "transpose":
        return [[result[_integers(params["axes"]).index(axis)] for axis in range(ndim)]]
    if equation.primitive.name == "sum":
        left, summed = iter(result), _integers(params["axes"])
        return [[next(numbers) if axis in summed else next(left) for axis in range(ndim)]]
    labels = _integers(params["labels"])
    order = [*dict.fromkeys(labels)]
    return [[result[order.index(label)] for label in labels]]


def _integers(param: object) -> tuple[int, ...]:
    assert isinstance(param, tuple)
    return param


def _seconds(equation: Equation) -> float:
    """Return the predicted time of one equation."""
    shapes = tuple(operand.type.shape for operand in equation.operands)
    if equation.primitive.name == "einsum":
        return lower(str(equation.params["subscripts"]), shapes).seconds
    if equation.primitive.name != "sum":
        return 0.0
    letters = string.ascii_letters[: len(shapes[0])]
    kept = "".join(letter for axis, letter in enumerate(letters) if axis not in _integers(equation.params["axes"]))
    return lower(f"{letters}->{kept}", shapes).seconds
