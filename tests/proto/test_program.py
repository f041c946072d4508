"""Programs across the wire: round trips, messages that are wrong, and programs that are long."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from gradwire_core import canonical
from gradwire_core.builder import Builder
from gradwire_core.errors import ArgumentError, DtypeError, GradwireError, ProgramError, ShapeError, UnknownPrimitiveError
from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Equation, Literal, Program, Var
from gradwire_core.types import Dtype, TensorType
from gradwire_proto import program as codec
from gradwire_proto.program import NESTING_LIMIT, decode_program, encode_program
from gradwire_proto.v1 import program_pb2 as pb
from gradwire_proto.v1 import tensor_pb2
from tests.proto.programs import PARAMS, PROGRAMS, RECORD, SCALAR, VECTOR, carry, chain, equation, product


def wire(program):
    return decode_program(pb.Program.FromString(encode_program(program).SerializeToString()))


@pytest.mark.parametrize("name", PROGRAMS)
def test_round_trip(name):
    program = PROGRAMS[name]()
    given = wire(program)
    assert canonical.encode(given) == canonical.encode(program)
    assert str(given) == str(program)


def comparable(params):
    """Sub-programs are equal where their digests are."""
    return {key: value.digest if isinstance(value, Program) else value for key, value in params.items()}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_primitive_round_trips(name):
    primitive = PRIMITIVES[name]
    for sample in primitive.samples(np.random.default_rng(0)):
        operands = tuple(Var(TensorType.of(array)) for array in sample.operands)
        results = tuple(map(Var, primitive.infer(*(var.type for var in operands), **sample.params)))
        program = Program(operands, (Equation(primitive, operands, sample.params, results),), results)
        given = wire(program)
        assert given.digest == program.digest
        assert comparable(given.equations[0].params) == comparable(sample.params)


@pytest.fixture
def carrier(monkeypatch):
    """Return `carry`; the codec finds its primitive."""
    monkeypatch.setattr(codec, "find_primitive", {"record": RECORD}.__getitem__)
    return carry


@given(value=PARAMS)
def test_params_of_every_kind_round_trip(value):
    program = carry(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "find_primitive", {"record": RECORD}.__getitem__)
        given = wire(program)
    assert repr(given.equations[0].params["value"]) == repr(value)
    assert given.digest == program.digest


def test_programs_are_params_too(carrier):
    program = carrier((carrier(1), carrier(carrier((True, Dtype.BOOL)))))
    given = wire(program)
    assert given.digest == program.digest
    assert given.equations[0].params["value"][1].equations[0].params["value"].input_types == (SCALAR,)


def nest(value, deep, step):
    for _ in range(deep):
        value = step(value)
    return value


@pytest.mark.parametrize("kind", ["lists", "programs"])
def test_params_nest_to_the_limit_and_no_deeper(carrier, kind):
    step = carrier if kind == "programs" else lambda value: (value,)
    deepest = carrier(nest(0, NESTING_LIMIT, step))
    message = encode_program(deepest)
    assert decode_program(pb.Program.FromString(message.SerializeToString())).digest == deepest.digest
    with pytest.raises(ProgramError, match="nested at most 16 deep"):
        encode_program(carrier(nest(0, NESTING_LIMIT + 1, step)))
    if kind == "programs":
        message = pb.Program(equations=[pb.Equation(primitive="record", params={"value": pb.Param(program_value=message)})])
    else:
        inner = message.equations[0].params["value"]
        inner.CopyFrom(pb.Param(list_value=pb.ParamList(items=[inner])))
    with pytest.raises(ProgramError, match="nested at most 16 deep"):
        decode_program(message)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, None, [1], 1j, np.int64(1)])
def test_params_of_no_kind_are_not_sent(carrier, value):
    with pytest.raises(ProgramError, match=r"equation 0 \(record\), param value: needed"):
        encode_program(carrier(value))


def test_values_used_before_they_are_assigned_are_not_sent():
    x, stray = Var(VECTOR), Var(VECTOR)
    with pytest.raises(ProgramError, match=r"equation 0 \(sin\), operand 0: needed a value assigned before"):
        encode_program(Program((x,), (equation("sin", (stray,), VECTOR),), ()))
    with pytest.raises(ProgramError, match="output 1: needed a value assigned before"):
        encode_program(Program((x,), (), (x, stray)))


TYPE = tensor_pb2.TensorType(dtype=1, shape=[3])
SINE = pb.Equation(primitive="sin", operands=[pb.Operand(number=0)], results=[TYPE])
TOTAL = pb.Equation(primitive="sum", operands=[pb.Operand(number=0)], results=[tensor_pb2.TensorType(dtype=1)])


def changed(message, **fields):
    copy = type(message)()
    copy.CopyFrom(message)
    for name in fields:
        copy.ClearField(name)
    copy.MergeFrom(type(message)(**fields))
    return copy


def literal(**fields):
    return [pb.Operand(literal=tensor_pb2.Tensor(**fields))]


AXES = pb.Param(list_value=pb.ParamList(items=[pb.Param(int_value=0)]))
MALFORMED = {
    "a later value": (
        changed(SINE, operands=[pb.Operand(number=1)]),
        ProgramError,
        "equation 0 (sin), operand 0: needed a value assigned before, 0 to 0, got value 1",
    ),
    "a negative value": (changed(SINE, operands=[pb.Operand(number=-1)]), ProgramError, "got value -1"),
    "an empty operand": (
        changed(SINE, operands=[pb.Operand()]),
        ProgramError,
        "equation 0 (sin), operand 0: needed a value's number or a literal, got neither",
    ),
    "no operand": (changed(SINE, operands=[]), ProgramError, "equation 0 (sin): needed 1 operands, got 0"),
    "two operands": (
        changed(SINE, operands=[pb.Operand(number=0)] * 2),
        ProgramError,
        "equation 0 (sin): needed 1 operands, got 2",
    ),
    "a literal of no dtype": (changed(SINE, operands=literal()), DtypeError, "equation 0 (sin), operand 0: needed a dtype"),
    "a literal too short": (
        changed(SINE, operands=literal(dtype=1, shape=[3], data=bytes(8))),
        ArgumentError,
        "equation 0 (sin), operand 0: needed 24 bytes for float64[3], got 8",
    ),
    "a literal that is named": (
        changed(SINE, operands=literal(dtype=1, shape=[0], name="tensors/x")),
        ArgumentError,
        "equation 0 (sin), operand 0: needed elements, got the name 'tensors/x'",
    ),
    "a literal too large": (
        changed(SINE, operands=literal(dtype=1, shape=[2**40, 2**40])),
        ShapeError,
        "equation 0 (sin), operand 0: needed a tensor of less than 2^63 bytes",
    ),
    "no result": (changed(SINE, results=[]), ProgramError, "equation 0 (sin): needed results of type float64[3], got "),
    "a result of another type": (
        changed(SINE, results=[tensor_pb2.TensorType(dtype=1, shape=[4])]),
        ProgramError,
        "needed results of type float64[3], got float64[4]",
    ),
    "a result of no dtype": (
        changed(SINE, results=[tensor_pb2.TensorType(shape=[3])]),
        DtypeError,
        "equation 0 (sin), result 0: needed a dtype",
    ),
    "a result of a negative shape": (
        changed(SINE, results=[tensor_pb2.TensorType(dtype=1, shape=[-3])]),
        ShapeError,
        "equation 0 (sin), result 0: needed lengths of 0 or more",
    ),
    "no primitive": (changed(SINE, primitive=""), UnknownPrimitiveError, "equation 0 (), primitive: needed one"),
    "an unknown primitive": (
        changed(SINE, primitive="sine"),
        UnknownPrimitiveError,
        "equation 0 (sine), primitive: needed one this version has, got 'sine'; the nearest is 'sin'",
    ),
    "a long primitive": (
        changed(SINE, primitive="s" * 10**6),
        UnknownPrimitiveError,
        "primitive: needed a name of at most 100 characters, got 1000000",
    ),
    "a missing param": (TOTAL, ProgramError, "equation 0 (sum): needed params axes, got none"),
    "a param too many": (
        changed(TOTAL, params={"axes": AXES, "axis": AXES}),
        ProgramError,
        "equation 0 (sum): needed params axes, got axes, axis",
    ),
    "an empty param": (
        changed(TOTAL, params={"axes": pb.Param()}),
        ProgramError,
        "equation 0 (sum), param axes: needed a value of a kind that this version knows, got none",
    ),
    "a param of another kind": (
        changed(TOTAL, params={"axes": pb.Param(int_value=0)}),
        ProgramError,
        "equation 0 (sum), param axes: needed tuple of int, got int;",
    ),
    "a param of no dtype": (
        changed(TOTAL, params={"axes": pb.Param(dtype_value=0)}),
        DtypeError,
        "equation 0 (sum), param axes: needed a dtype",
    ),
    "a param of another dtype": (
        changed(TOTAL, params={"axes": pb.Param(dtype_value=50)}),
        DtypeError,
        "got the unknown number 50",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_equations_are_refused(name):
    message, error, text = MALFORMED[name]
    with pytest.raises(error) as raised:
        decode_program(pb.Program(inputs=[TYPE], equations=[message]))
    assert text in raised.value.message
    assert type(raised.value) is error


def test_malformed_inputs_and_outputs_are_refused():
    with pytest.raises(DtypeError, match="input 1: needed a dtype"):
        decode_program(pb.Program(inputs=[TYPE, tensor_pb2.TensorType()]))
    with pytest.raises(ProgramError, match="output 0: needed a literal, as no value is assigned before, got value 0"):
        decode_program(pb.Program(outputs=[pb.Operand(number=0)]))
    with pytest.raises(ProgramError, match="output 1: needed a value's number or a literal, got neither"):
        decode_program(pb.Program(inputs=[TYPE], outputs=[pb.Operand(number=0), pb.Operand()]))


def test_an_error_in_a_program_of_a_param_names_both_places(carrier):
    message = encode_program(carrier((1, carrier(2))))
    inner = message.equations[0].params["value"].list_value.items[1].program_value
    inner.equations[0].operands[0].number = 7
    with pytest.raises(ProgramError) as raised:
        decode_program(message)
    assert raised.value.message.startswith("equation 0 (record), param value, equation 0 (record), operand 0: needed a value")


@given(st.data())
def test_any_corruption_is_decoded_or_refused(data):
    raw = bytearray(encode_program(product()).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError, GradwireError):
        decode_program(pb.Program.FromString(bytes(raw)))


VALUES = {
    bool: [False, True],
    int: [0, 1, -1, 3, 10**18, -(2**63), 2**63 - 1],
    float: [0.5, np.nan, np.inf],
    str: ["", "->", ",", "i->i", "ii->i", "ij,jk->ik", "i->ii", "i" * 200, "i\0", "...->"],
    Dtype: list(Dtype),
    Program: [Program((), (), ()), Program((one := Var(TensorType(Dtype.FLOAT64, (3,))),), (), (one, one))],
    tuple: [(), (0,), (0, 0), (-1,), (1, 0), (2, 3), (0, 1, 2), (10**18,), (2**62, 2**62), (1,) * 70],
}
TYPES = [TensorType(dtype, shape) for dtype in Dtype for shape in ((), (3,), (2, 3), (3, 3), (0,), (2, 2, 2), (2**40,))]


@pytest.mark.parametrize("name", PRIMITIVES)
def test_hostile_equations_are_decoded_or_refused(name):
    primitive = PRIMITIVES[name]
    rng = np.random.default_rng(7)
    samples = list(primitive.samples(rng))

    def pick(items):
        return items[rng.integers(len(items))]

    for _ in range(200):
        sample = pick(samples)
        operands = [TensorType.of(array) for array in sample.operands]
        params = dict(sample.params)
        if params:
            key = pick(list(params))
            params[key] = pick(VALUES[type(params[key]) if rng.random() < 0.8 else pick(list(VALUES))])
        if operands:
            operands[rng.integers(len(operands))] = pick(TYPES)
        if primitive.arity is None:
            operands = operands[: rng.integers(4)] + [pick(TYPES)] * rng.integers(3)
        variables = tuple(map(Var, operands))
        hostile = Program(variables, (Equation(primitive, variables, params, (Var(pick(TYPES)),)),), ())
        with contextlib.suppress(GradwireError):
            wire(hostile)


def test_a_literal_of_a_decoded_program_is_its_own():
    tensor = tensor_pb2.Tensor(dtype=1, data=np.float64(2).tobytes())
    program = decode_program(pb.Program(outputs=[pb.Operand(literal=tensor)]))
    assert isinstance(program.outputs[0], Literal)
    assert program.outputs[0].value.item() == 2
    assert not program.outputs[0].value.flags.writeable


def test_a_long_chain_takes_time_linear_in_its_equations():
    def seconds(count):
        program = chain(count)
        started = time.perf_counter()
        message = encode_program(program)
        decode_program(message)
        return time.perf_counter() - started

    seconds(100)
    assert seconds(100_000) < 100 * max(seconds(5_000), 0.02)


def test_equal_constants_are_one_again():
    builder = Builder()
    x = builder.input(VECTOR)
    program = builder.build([(2.0 * x + 1.0) * 2.0 + np.arange(3.0) * x * np.arange(3.0)])
    for made in (program, decode_program(encode_program(program))):
        literals = [item for step in made.equations for item in step.operands if isinstance(item, Literal)]
        assert len(set(literals)) == len({(item.type, item.value.tobytes()) for item in literals}) < len(literals)
