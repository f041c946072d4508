r"""The canonical encoding of a program, version 1: the bytes whose SHA-256 names it.

Protobuf bytes are not canonical, so the name of a program is defined here and never changes within a version. Integers are
8 bytes, two's complement, little-endian; text is its length in bytes, then UTF-8; a list is its length, then its items.

    encoding  ::= "gradwire-program-1\n" program
    program   ::= inputs: list of type, equations: list of equation, outputs: list of operand
    type      ::= dtype: text ("float64"), dims: list of integer
    equation  ::= primitive: text, operands: list of operand, params: list of (name: text, param), results: list of type
    operand   ::= 0x00 number: integer     the value of that number: inputs, then results, counted from 0 in order
                | 0x01 literal             type, then its elements: raw, row-major, little-endian; a bool is one byte, 0 or 1
    param     ::= "b" integer (0 or 1) | "i" integer | "f" 8 bytes of IEEE 754 binary64, little-endian | "s" text
                | "d" dtype: text | "t" list of param | "p" program

Params are in the order of their names' UTF-8 bytes. Nothing else enters: no names of values, no version of the software.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwire_core.errors import ProgramError
from gradwire_core.types import Dtype, TensorType

if TYPE_CHECKING:
    from gradwire_core.program import Literal, Operand, Param, Program, Var

MAGIC = b"gradwire-program-1\n"
_pack_integer = struct.Struct("<q").pack
_pack_float = struct.Struct("<d").pack


def digest(program: Program) -> str:
    """Return the SHA-256 of the canonical encoding, in lower-case hexadecimal."""
    state = hashlib.sha256(MAGIC)
    _write_program(program, state.update)
    return state.hexdigest()


def encode(program: Program) -> bytes:
    """Return the canonical encoding."""
    parts = [MAGIC]
    _write_program(program, parts.append)
    return b"".join(parts)


def little_endian(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the array in row-major order with little-endian elements, copied only where that differs."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)


def _text(text: str) -> bytes:
    raw = text.encode()
    return _pack_integer(len(raw)) + raw


def _type(type: TensorType, known: dict[TensorType, bytes]) -> bytes:
    found = known.get(type)
    if found is None:
        dims = b"".join(map(_pack_integer, type.shape))
        found = known[type] = _text(type.dtype.value) + _pack_integer(type.ndim) + dims
    return found


def _literal(literal: Literal, known: dict[TensorType, bytes]) -> bytes:
    return b"\x01" + _type(literal.type, known) + little_endian(literal.value).tobytes()


def _param(value: Param, name: str) -> bytes:  # noqa: PLR0911  # one return a kind
    if isinstance(value, bool):
        return b"b" + _pack_integer(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ProgramError(f"param {name}: needed a 64-bit integer, got {value}; use a smaller number", given=value)
        return b"i" + _pack_integer(value)
    if isinstance(value, float):
        return b"f" + _pack_float(value)
    if isinstance(value, str):
        return b"s" + _text(value)
    if isinstance(value, Dtype):
        return b"d" + _text(value.value)
    if isinstance(value, tuple):
        return b"t" + _pack_integer(len(value)) + b"".join(_param(item, name) for item in value)
    parts = [b"p"]
    _write_program(value, parts.append)
    return b"".join(parts)


def _write_program(program: Program, write: Callable[[bytes], Any]) -> None:
    numbers: dict[Var, int] = {}
    known: dict[TensorType, bytes] = {}

    def types(items: Iterable[Var]) -> bytes:
        return b"".join(_type(item.type, known) for item in items)

    def number(items: Iterable[Var]) -> None:
        for item in items:
            numbers[item] = len(numbers)

    def operands(items: tuple[Operand, ...]) -> bytes:
        parts = [_pack_integer(len(items))]
        for item in items:
            index = numbers.get(item)  # type: ignore[arg-type]  # a literal is simply not found
            parts.append(_literal(item, known) if index is None else b"\x00" + _pack_integer(index))  # type: ignore[arg-type]
        return b"".join(parts)

    number(program.inputs)
    write(_pack_integer(len(program.inputs)) + types(program.inputs))
    write(_pack_integer(len(program.equations)))
    for equation in program.equations:
        params = sorted((key.encode(), key, value) for key, value in equation.params.items())
        given = b"".join(_text(key) + _param(value, key) for _, key, value in params)
        head = _text(equation.primitive.name) + operands(equation.operands)
        results = _pack_integer(len(equation.results)) + types(equation.results)
        write(head + _pack_integer(len(params)) + given + results)
        number(equation.results)
    write(operands(program.outputs))
