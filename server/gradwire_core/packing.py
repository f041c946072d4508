"""What is made of a program as bytes, and back: fast to read, and data alone. Nothing here is part of the wire or of a digest.

    packed   ::= length of header: 8 bytes, little-endian, header: JSON, the bytes of all arrays one behind the other
    header   ::= {"content": ..., "arrays": list of [dtype, shape, start, stop]}

A program is packed by columns. What equations have in common, primitive, params and types of results, is a *head*, which is
written once; an array holds the head of each equation, another the operands of all. Whoever reads trusts what is packed: it is for
what this user alone could have written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.canonical import little_endian
from gradwire_core.kernels.tape import Row, Tape
from gradwire_core.ops._declare import find_primitive
from gradwire_core.program import Equation, Literal, Operand, Param, Program, Var
from gradwire_core.structure.cost import Cost
from gradwire_core.structure.patterns import AxisPattern, PartPattern, Pattern
from gradwire_core.structure.sparse import SparseSpec
from gradwire_core.structure.strategy import Choice
from gradwire_core.structure.structured import JacobianSpec
from gradwire_core.types import Array, Dtype, TensorType

LENGTH_BYTES = 8
Json = Any


class Packer:
    """Collects arrays while a content is written."""

    def __init__(self) -> None:
        self._arrays: list[Json] = []
        self._parts: list[bytes] = []
        self._nbytes = 0

    def finish(self, content: Json) -> bytes:
        """Return the content, which refers to arrays by their numbers, with these."""
        header = json.dumps({"content": content, "arrays": self._arrays}, separators=(",", ":")).encode()
        return b"".join([len(header).to_bytes(LENGTH_BYTES, "little"), header, *self._parts])

    def array(self, array: Array) -> int:
        """Add an array, and return its number."""
        raw = little_endian(array).tobytes()
        self._parts.append(raw)
        self._arrays.append([array.dtype.newbyteorder("<").str, list(array.shape), self._nbytes, self._nbytes + len(raw)])
        self._nbytes += len(raw)
        return len(self._arrays) - 1

    def integers(self, numbers: Sequence[int]) -> int:
        """Add a list of integers as an array, and return its number."""
        return self.array(np.array(numbers, np.int32))

    def type(self, type: TensorType) -> Json:
        """Return a type."""
        return [type.dtype.value, list(type.shape)]

    def program(self, program: Program) -> Json:
        """Return a program."""
        literals: dict[Operand, int] = {}
        used = [item for equation in program.equations for item in equation.operands]
        for operand in (*used, *program.outputs):
            if isinstance(operand, Literal):
                literals.setdefault(operand, len(literals))
        numbers = dict(literals)
        for var in program.inputs:
            numbers[var] = len(numbers)
        heads: dict[Any, int] = {}
        written: list[Json] = []
        column: list[int] = []
        for equation in program.equations:
            results, params = equation.results, equation.params
            types = tuple([id(var.type) for var in results])
            key = (equation.primitive, types, len(equation.operands), tuple(params.items()) if params else ())
            head = heads.get(key)
            if head is None:
                head = heads[key] = len(heads)
                given = {name: self.param(value) for name, value in params.items()}
                kinds = [self.type(var.type) for var in results]
                written.append([equation.primitive.name, given, kinds, len(equation.operands)])
            column.append(head)
            for var in results:
                numbers[var] = len(numbers)
        return {
            "inputs": [self.type(var.type) for var in program.inputs],
            "literals": [self.array(item.value) for item in literals if isinstance(item, Literal)],
            "heads": written,
            "equations": self.integers(column),
            "operands": self.integers([numbers[item] for item in used]),
            "outputs": [numbers[item] for item in program.outputs],
        }

    def param(self, value: Param) -> Json:
        """Return a param: what JSON has not, with a letter for its kind."""
        if isinstance(value, Dtype):
            return ["d", value.value]
        if isinstance(value, tuple):
            return ["t", [self.param(item) for item in value]]
        if isinstance(value, Program):
            return ["p", self.program(value)]
        return value

    def tape(self, tape: Tape) -> Json:
        """Return a tape."""
        heads: dict[tuple[str, int], int] = {}
        column = [heads.setdefault((name, len(operands)), len(heads)) for _, name, operands in tape.rows]
        return {
            "inputs": [self.array(item) for item in tape.inputs],
            "outputs": [self.array(item) for item in tape.outputs],
            "dtypes": [[dtype.value for dtype in side] for side in (tape.input_dtypes, tape.output_dtypes)],
            "constants": [*map(list, tape.constants.items())],
            "heads": [*map(list, heads)],
            "rows": self.integers(column),
            "registers": self.integers([register for register, _, _ in tape.rows]),
            "operands": self.integers([operand for _, _, operands in tape.rows for operand in operands]),
        }

    def spec(self, spec: JacobianSpec | SparseSpec) -> Json:
        """Return the static half of a Jacobian."""
        head = [list(spec.shape_out), list(spec.shape_in), spec.dtype.value]
        if isinstance(spec, SparseSpec):
            return ["sparse", *head, self.array(spec.indptr), self.array(spec.indices)]
        return ["terms", *head, [_pattern_to(item) for item in spec.patterns]]

    def choice(self, choice: Choice) -> Json:
        """Return a choice."""
        costs = [
            [name, cost.flops, cost.bytes, cost.equations, cost.overhead, cost.work, cost.is_bound]
            for name, cost in choice.predictions
        ]
        return [choice.what, choice.chosen, costs]


class Unpacker:
    """Reads what a `Packer` wrote; whatever is not that raises some error.

    Args:
        packed: the bytes.

    Attributes:
        content: the content.
    """

    def __init__(self, packed: bytes) -> None:
        start = LENGTH_BYTES + int.from_bytes(packed[:LENGTH_BYTES], "little")
        header = json.loads(packed[LENGTH_BYTES:start])
        self.content: Json = header["content"]
        self._arrays = header["arrays"]
        self._blob = memoryview(packed)[start:]
        self._types: dict[tuple[str, tuple[int, ...]], TensorType] = {}

    def array(self, number: int) -> Array:
        """Return an array, which cannot be written to."""
        dtype, shape, start, stop = self._arrays[number]
        return np.frombuffer(self._blob[start:stop], np.dtype(dtype)).reshape(shape)

    def type(self, packed: Json) -> TensorType:
        """Return a type; equal ones are one."""
        key = packed[0], tuple(packed[1])
        found = self._types.get(key)
        if found is None:
            found = self._types[key] = TensorType(Dtype(key[0]), key[1])
        return found

    def program(self, packed: Json) -> Program:
        """Return a program."""
        inputs = [Var(self.type(item)) for item in packed["inputs"]]
        values: list[Operand] = [*[Literal(self.array(number)) for number in packed["literals"]], *inputs]
        heads = [
            (
                find_primitive(name),
                {key: self.param(value) for key, value in params.items()},
                [self.type(item) for item in types],
                count,
            )
            for name, params, types, count in packed["heads"]
        ]
        operands = self.array(packed["operands"]).tolist()
        equations, start = [], 0
        for head in self.array(packed["equations"]).tolist():
            primitive, params, types, count = heads[head]
            stop = start + count
            results = tuple([Var(type) for type in types])
            equations.append(Equation(primitive, tuple([values[place] for place in operands[start:stop]]), params, results))
            values += results
            start = stop
        return Program(tuple(inputs), tuple(equations), tuple([values[place] for place in packed["outputs"]]))

    def param(self, packed: Json) -> Param:
        """Return a param."""
        if not isinstance(packed, list):
            plain: Param = packed
            return plain
        kind, value = packed
        if kind == "d":
            return Dtype(value)
        return self.program(value) if kind == "p" else tuple([self.param(item) for item in value])

    def tape(self, packed: Json) -> Tape:
        """Return a tape."""
        heads = [(name, count) for name, count in packed["heads"]]
        operands = self.array(packed["operands"]).tolist()
        registers = self.array(packed["registers"]).tolist()
        rows: list[Row] = []
        start = 0
        for head, register in zip(self.array(packed["rows"]).tolist(), registers, strict=True):
            name, count = heads[head]
            stop = start + count
            rows.append((register, name, tuple(operands[start:stop])))
            start = stop
        inputs, outputs = [tuple([self.array(number) for number in packed[side]]) for side in ("inputs", "outputs")]
        dtypes = [tuple(map(Dtype, side)) for side in packed["dtypes"]]
        return Tape(inputs, dict(packed["constants"]), tuple(rows), outputs, *dtypes)

    def spec(self, packed: Json) -> JacobianSpec | SparseSpec:
        """Return the static half of a Jacobian."""
        kind, shape_out, shape_in, dtype, *rest = packed
        head = tuple(shape_out), tuple(shape_in), Dtype(dtype)
        if kind == "sparse":
            return SparseSpec(*head, *[self.array(number) for number in rest])
        return JacobianSpec(*head, tuple(map(_pattern_from, rest[0])))

    def choice(self, packed: Json) -> Choice:
        """Return a choice."""
        what, chosen, costs = packed
        return Choice(what, chosen, tuple([(name, Cost(*numbers)) for name, *numbers in costs]))


def _pattern_to(pattern: Pattern) -> Json:
    def side(axes: Sequence[AxisPattern]) -> Json:
        return [[axis.length, axis.offset, [[part.label, part.stride, part.table] for part in axis.parts]] for axis in axes]

    factors = [list(labels) for labels in pattern.factors]
    return [factors, side(pattern.out_axes), side(pattern.in_axes), list(pattern.sizes), list(pattern.sources)]


def _pattern_from(packed: Json) -> Pattern:
    def side(axes: Json) -> tuple[AxisPattern, ...]:
        return tuple([AxisPattern(length, offset, tuple([PartPattern(*part) for part in parts])) for length, offset, parts in axes])

    factors, out, into, sizes, sources = packed
    return Pattern(tuple(map(tuple, factors)), side(out), side(into), tuple(sizes), tuple(sources))
