"""The canonical encoding tells every two programs apart, and equal ones never.

That it is what the manual says, byte by byte, is shown beside the wire, in tests/proto/test_canonical.py.
"""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given

from gradwire_core import canonical
from gradwire_core.builder import Builder
from gradwire_core.errors import ProgramError
from gradwire_core.ops import find_primitive
from gradwire_core.program import Equation, Literal, Program, Var
from gradwire_core.types import Dtype, TensorType
from tests.core.strategies import examples, programs

VECTOR = TensorType(Dtype.FLOAT64, (3,))


def literal(array) -> Program:
    return Program((), (), (Literal(np.asarray(array)),))


def applied(name: str, **params) -> Program:
    x, y = Var(VECTOR), Var(VECTOR)
    return Program((x,), (Equation(find_primitive(name), (x,), params, (y,)),), (y,))


def different() -> list[Program]:
    x, y = Var(VECTOR), Var(VECTOR)
    return [
        Program((), (), ()),
        Program((x,), (), ()),
        Program((x,), (), (x,)),
        Program((x,), (), (x, x)),
        Program((x, y), (), (x,)),
        Program((x, y), (), (y,)),
        *[literal(np.zeros(shape, dtype.numpy)) for dtype in Dtype for shape in [(), (0,), (1,), (2, 3), (3, 2), (6,)]],
        *[literal(number) for number in (-0.0, 1.0, 5e-324, np.nan, -np.nan, np.inf)],
        applied("sin"),
        applied("cos"),
        *[applied("sum", axes=axes) for axes in ((), (0,), (1,), (0, 1), (False,), (0.0,), ("0",), ((0,),), 0, "0", Dtype.INT64)],
        *[applied("sum", axes=axes) for axes in (applied("sin"), applied("cos"), (applied("sin"),))],
        applied("sum", axis=(0,)),
        applied("sum", axes=(0,), more=1),
    ]


def test_different_programs_have_different_encodings():
    encodings = [canonical.encode(program) for program in different()]
    assert len(set(encodings)) == len(encodings)
    digests = [program.digest for program in different()]
    assert digests == [hashlib.sha256(encoding).hexdigest() for encoding in encodings]


def test_no_encoding_begins_with_another():
    """So that none can be read as the beginning of another."""
    encodings = sorted(canonical.encode(program) for program in different())
    for one, other in itertools.pairwise(encodings):
        assert not other.startswith(one)


@examples(60)
@given(programs())
def test_a_program_rebuilt_has_the_same_digest(case):
    builder = Builder()
    inputs = [builder.input(type) for type in case.program.input_types]
    rebuilt = builder.build(builder.inline(case.program, inputs))
    assert rebuilt.digest == case.program.digest
    assert canonical.encode(rebuilt) == canonical.encode(case.program)


def test_neither_memory_order_nor_byte_order_enters():
    array = np.arange(6.0).reshape(2, 3)
    digests = {literal(item).digest for item in (array, np.asfortranarray(array), array.astype(">f8"), array[:, ::-1][:, ::-1])}
    assert len(digests) == 1


def test_little_endian_copies_only_where_it_must():
    array = np.arange(6.0).reshape(2, 3)
    assert np.shares_memory(canonical.little_endian(array), array)
    assert canonical.little_endian(array.astype(">f8")).tobytes() == array.tobytes()
    assert canonical.little_endian(np.asfortranarray(array)).tobytes() == array.tobytes()
    assert canonical.little_endian(np.array(1.5)).shape == ()


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_integers_beyond_64_bits_are_refused(number):
    with pytest.raises(ProgramError, match="param axes: needed a 64-bit integer"):
        canonical.encode(applied("sum", axes=(number,)))


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0, -1])
def test_integers_of_64_bits_are_encoded(number):
    assert canonical.encode(applied("sum", axes=(number,)))
