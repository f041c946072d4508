"""Programs, between records of the core and messages.

Both directions are one loop over the equations, of time and memory linear in them. Only params recur, and no deeper than
`NESTING_LIMIT`. What a message holds beyond what this version knows is refused: it might change what the program means.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from gradwire_core.builder import FOLD_ELEMENTS
from gradwire_core.check import check_program
from gradwire_core.errors import GradwireError, ProgramError, UnknownPrimitiveError
from gradwire_core.ops import find_primitive
from gradwire_core.program import Equation, Literal, Operand, Param, Params, Primitive, Program, Var
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.known import unknown_field
from gradwire_proto.tensor import decode_dtype, decode_tensor, decode_type, encode_dtype, encode_tensor, encode_type
from gradwire_proto.v1 import program_pb2 as pb
from gradwire_proto.v1 import tensor_pb2

NESTING_LIMIT = 16
"""The deepest that lists and programs may be nested in params; protobuf parsers refuse messages nested beyond 100."""

NAME_LIMIT = 100
"""The longest name of a primitive that is looked for, in characters."""


def encode_program(program: Program) -> pb.Program:
    """Return the message of a program.

    Raises:
        ProgramError: an operand is no value assigned before its use, or a param is none that can be sent.
    """
    return _encode_program(program, 0)


def decode_program(message: pb.Program) -> Program:
    """Return the program of a message, checked by its grammar and its types.

    Raises:
        ProgramError: the message breaks the grammar or holds something unknown; the text names the equation, from 0.
        UnknownPrimitiveError: an equation names a primitive that this version does not have.
        ShapeError, DtypeError: a type cannot exist, or operands do not fit their primitive.
        ArgumentError: a literal has the wrong number of bytes.
    """
    found = unknown_field(message, "program")
    if found is not None:
        where, number = found
        text = f"{where}: needed fields that this version knows, got the unknown field {number}; leave it unset or use a newer one"
        raise ProgramError(text, where=where, given=number)
    return _decode_program(message, 0)


def _at(place: str, error: GradwireError) -> GradwireError:
    """Return the error with the place put before its text."""
    placed = type(error)(f"{place}, {error.message}")
    placed.metadata = {**error.metadata, "where": place}
    return placed


class _Encoder:
    """What the encoding of one program remembers: the numbers of its values, and the messages of its types."""

    def __init__(self) -> None:
        self.numbers: dict[Operand, int] = {}
        self.types: dict[TensorType, tensor_pb2.TensorType] = {}

    def assign(self, variables: Iterable[Var], target: Any) -> None:
        for var in variables:
            self.numbers[var] = len(self.numbers)
            found = self.types.get(var.type)
            if found is None:
                found = self.types[var.type] = encode_type(var.type)
            target.append(found)

    def read(self, operands: Iterable[Operand], target: Any, what: str) -> None:
        for operand in operands:
            number = self.numbers.get(operand)
            if number is not None:
                target.add(number=number)
            elif isinstance(operand, Literal):
                target.add(literal=encode_tensor(operand.value))
            else:
                text = f"{what} {len(target)}: needed a value assigned before its use, got a later or unknown one; reorder"
                raise ProgramError(text, where=f"{what} {len(target)}")


def _encode_program(program: Program, depth: int) -> pb.Program:
    message = pb.Program()
    encoder = _Encoder()
    encoder.assign(program.inputs, message.inputs)
    for index, equation in enumerate(program.equations):
        target = message.equations.add(primitive=equation.primitive.name)
        try:
            encoder.read(equation.operands, target.operands, "operand")
            for name, value in equation.params.items():
                _encode_param(value, target.params[name], name, depth)
        except GradwireError as error:
            raise _at(f"equation {index} ({equation.primitive.name})", error) from None
        encoder.assign(equation.results, target.results)
    encoder.read(program.outputs, message.outputs, "output")
    return message


def _encode_param(value: object, target: pb.Param, name: str, depth: int) -> None:
    if isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ProgramError(f"param {name}: needed a 64-bit integer, got {value}; use a smaller number", given=value)
        target.int_value = value
    elif isinstance(value, float):
        target.float_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, Dtype):
        target.dtype_value = encode_dtype(value)
    elif isinstance(value, tuple):
        _check_nesting(depth, name)
        target.list_value.SetInParent()
        for item in value:
            _encode_param(item, target.list_value.items.add(), name, depth + 1)
    elif isinstance(value, Program):
        _check_nesting(depth, name)
        target.program_value.CopyFrom(_encode_program(value, depth + 1))
    else:
        kind = type(value).__name__
        text = f"param {name}: needed a bool, int, float, str, Dtype, tuple or Program, got {kind}; convert it"
        raise ProgramError(text, given=kind)


def _check_nesting(depth: int, name: str) -> None:
    if depth >= NESTING_LIMIT:
        text = f"param {name}: needed lists and programs nested at most {NESTING_LIMIT} deep, got more; flatten them"
        raise ProgramError(text, needed=NESTING_LIMIT)


class _Decoder:
    """What the decoding of one program remembers: its values by their numbers, its types and small constants by their messages."""

    def __init__(self) -> None:
        self.values: list[Var] = []
        self.types: dict[tuple[int, tuple[int, ...]], TensorType] = {}
        self.literals: dict[tuple[int, tuple[int, ...], bytes, str], Literal] = {}

    def assign(self, messages: Iterable[tensor_pb2.TensorType], what: str) -> tuple[Var, ...]:
        made = []
        for index, message in enumerate(messages):
            key = (message.dtype, tuple(message.shape))
            found = self.types.get(key)
            if found is None:
                found = self.types[key] = decode_type(message, f"{what} {index}")
            made.append(Var(found))
        self.values += made
        return tuple(made)

    def read(self, messages: Iterable[pb.Operand], what: str) -> tuple[Operand, ...]:
        made: list[Operand] = []
        for index, message in enumerate(messages):
            source = message.WhichOneof("source")
            if source == "number":
                number = message.number
                if not 0 <= number < len(self.values):
                    raise self._unassigned(number, f"{what} {index}")
                made.append(self.values[number])
            elif source == "literal":
                made.append(self._literal(message.literal, f"{what} {index}"))
            else:
                text = f"{what} {index}: needed a value's number or a literal, got neither; set one"
                raise ProgramError(text, where=f"{what} {index}")
        return tuple(made)

    def _literal(self, message: tensor_pb2.Tensor, where: str) -> Literal:
        """Return a constant; as in a builder, equal ones are one where they are small."""
        shape = tuple(message.shape)
        if math.prod(shape) > FOLD_ELEMENTS:
            return Literal(decode_tensor(message, where))
        key = (message.dtype, shape, message.data, message.name)
        found = self.literals.get(key)
        if found is None:
            found = self.literals[key] = Literal(decode_tensor(message, where))
        return found

    def _unassigned(self, number: int, where: str) -> ProgramError:
        count = len(self.values)
        needed = f"a value assigned before, 0 to {count - 1}" if count else "a literal, as no value is assigned before"
        return ProgramError(f"{where}: needed {needed}, got value {number}; reorder or correct it", where=where, given=number)


def _decode_program(message: pb.Program, depth: int) -> Program:
    decoder = _Decoder()
    primitives: dict[str, Primitive] = {}
    inputs = decoder.assign(message.inputs, "input")
    equations = []
    for index, item in enumerate(message.equations):
        name = item.primitive
        try:
            primitive = primitives.get(name)
            if primitive is None:
                primitive = primitives[name] = _find_primitive(name)
            operands = decoder.read(item.operands, "operand")
            params = _decode_params(item.params, primitive, depth) if item.params else {}
            results = decoder.assign(item.results, "result")
        except GradwireError as error:
            raise _at(f"equation {index} ({name[:NAME_LIMIT]})", error) from None
        equations.append(Equation(primitive, operands, params, results))
    program = Program(inputs, tuple(equations), decoder.read(message.outputs, "output"))
    check_program(program)
    return program


def _find_primitive(name: str) -> Primitive:
    if len(name) > NAME_LIMIT:
        text = f"primitive: needed a name of at most {NAME_LIMIT} characters, got {len(name)}; see GetCapabilities for all"
        raise UnknownPrimitiveError(text, given=len(name))
    return find_primitive(name)


def _decode_params(given: Mapping[str, pb.Param], primitive: Primitive, depth: int) -> Params:
    """Return the params in the order of their declaration, or sorted where they are not those of the primitive."""
    names = primitive.params if set(given) == set(primitive.params) else sorted(given)
    params = {name: _decode_param(given[name], name, depth) for name in names}
    for name, needed in _kinds(primitive).items():
        given_kinds = set(_walk(params[name])) if name in params else set()
        if not given_kinds <= needed:
            text = f"param {name}: needed {_show(needed)}, got {_show(given_kinds)}; send a value of that kind"
            raise ProgramError(text, where=f"param {name}", needed=_show(needed), given=_show(given_kinds))
    return params


_Kind: TypeAlias = tuple[bool, type]
"""Whether a value is an item of a list, and its class."""


@functools.cache
def _kinds(primitive: Primitive) -> dict[str, set[_Kind]]:
    """Return the kinds that each param has in the samples of a primitive: those, and no others, does the primitive expect."""
    found: dict[str, set[_Kind]] = {}
    for sample in primitive.samples(np.random.default_rng(0)):
        for name, value in sample.params.items():
            found.setdefault(name, set()).update(_walk(value))
    return found


def _walk(value: Param) -> Iterator[_Kind]:
    """Yield the kind of a param, and those of its items, to any depth."""
    yield False, type(value)
    items = [value] if isinstance(value, tuple) else []
    while items:
        for item in items.pop():
            yield True, type(item)
            if isinstance(item, tuple):
                items.append(item)


def _show(kinds: set[_Kind]) -> str:
    """Print kinds, e.g. `tuple of int`."""
    whole, items = (" or ".join(sorted(kind.__name__ for is_item, kind in kinds if is_item is part)) for part in (False, True))
    return f"{whole} of {items}" if items else whole


def _decode_param(message: pb.Param, name: str, depth: int) -> Param:
    kind = message.WhichOneof("kind")
    if kind is None:
        text = f"param {name}: needed a value of a kind that this version knows, got none; set one, or use a newer version"
        raise ProgramError(text, where=f"param {name}")
    if kind == "list_value":
        _check_nesting(depth, name)
        return tuple(_decode_param(item, name, depth + 1) for item in message.list_value.items)
    if kind == "program_value":
        _check_nesting(depth, name)
        try:
            return _decode_program(message.program_value, depth + 1)
        except GradwireError as error:
            raise _at(f"param {name}", error) from None
    if kind == "dtype_value":
        return decode_dtype(message.dtype_value, f"param {name}")
    value: Param = getattr(message, kind)
    return value
