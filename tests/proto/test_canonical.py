"""The name of a program: computed here from the text of program.proto alone, pinned for ever, equal in every process."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys

import pytest
from hypothesis import given

from gradwire_core import canonical
from gradwire_core.program import Program, Var
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.program import decode_program, encode_program
from gradwire_proto.v1 import program_pb2 as pb
from gradwire_proto.v1 import tensor_pb2
from tests.proto.programs import PARAMS, PROGRAMS, SCALAR, carry, equation

DTYPES = {1: "float64", 2: "float32", 3: "complex128", 4: "complex64", 5: "int64", 6: "int32", 7: "bool"}


def integer(value):
    return value.to_bytes(8, "little", signed=True)


def text(value):
    return integer(len(value.encode())) + value.encode()


def items(write, values):
    return integer(len(values)) + b"".join(write(value) for value in values)


def type_(message):
    return text(DTYPES[message.dtype]) + items(integer, message.shape)


def operand(message):
    if message.HasField("number"):
        return b"\0" + integer(message.number)
    return b"\1" + type_(message.literal) + message.literal.data


PARAM_KINDS = {
    "bool_value": lambda value: b"b" + integer(int(value)),
    "int_value": lambda value: b"i" + integer(value),
    "float_value": lambda value: b"f" + struct.pack("<d", value),
    "string_value": lambda value: b"s" + text(value),
    "dtype_value": lambda value: b"d" + text(DTYPES[value]),
    "list_value": lambda value: b"t" + items(param, value.items),
    "program_value": lambda value: b"p" + program(value),
}


def param(message):
    kind = message.WhichOneof("kind")
    return PARAM_KINDS[kind](getattr(message, kind))


def equation_(message):
    names = sorted(message.params, key=str.encode)
    return b"".join(
        [
            text(message.primitive),
            items(operand, message.operands),
            items(lambda name: text(name) + param(message.params[name]), names),
            items(type_, message.results),
        ]
    )


def program(message):
    return items(type_, message.inputs) + items(equation_, message.equations) + items(operand, message.outputs)


def reference(message):
    """The canonical encoding of a message, as a client in another language would write it."""
    return b"gradwire-program-1\n" + program(message)


GOLDEN = {
    "identity": "d64a4605301a1ad1ac09e706b4d3ef8ed9eeab48d9db79c76880933a461ed350",
    "product": "23933c955e5ba8d14bc723cb14224cb288d7e53e4cf815a867c397147c7ee5a5",
    "padded": "b4a3d8ff8f89194e78d080afba4ac57caef568d3a5f5398327b47a0f95c4f249",
    "chain": "b57f6a6a678fba674d852ebf1f2c3e3e7a8fe0e43d8974333e61e3280381dff5",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_encoding_is_what_the_manual_says_and_never_changes(name):
    made = PROGRAMS[name]()
    encoded = reference(encode_program(made))
    assert canonical.encode(made) == encoded
    assert made.digest == hashlib.sha256(encoded).hexdigest() == GOLDEN[name]


def test_the_encoding_of_the_identity_byte_by_byte():
    eight = "%02x" + "00" * 7
    lines = [
        b"gradwire-program-1\n".hex(),
        eight % 1,  # one input
        eight % 7 + b"float64".hex() + eight % 0,  # float64, no axes
        eight % 0,  # no equations
        eight % 1,  # one output
        "00" + eight % 0,  # value 0
    ]
    assert canonical.encode(PROGRAMS["identity"]()).hex() == "".join(lines)


@given(value=PARAMS)
def test_params_of_every_kind_are_encoded_as_the_manual_says(value):
    made = carry(value)
    assert canonical.encode(made) == reference(encode_program(made))


def test_programs_in_params_are_encoded_as_the_manual_says():
    made = carry((carry(1), 2.5, carry(carry("s"))))
    assert canonical.encode(made) == reference(encode_program(made))


def test_what_differs_has_another_name():
    x, y = Var(SCALAR), Var(SCALAR)
    made = [
        Program((x,), (), ()),
        Program((x,), (), (x,)),
        Program((x,), (), (x, x)),
        Program((x, y), (), (x,)),
        Program((x, y), (), (y,)),
        Program((Var(TensorType(Dtype.FLOAT32, ())),), (), ()),
        Program((Var(TensorType(Dtype.FLOAT64, (1,))),), (), ()),
        *(carry(value) for value in (0, False, 0.0, -0.0, float("nan"), "", "0", (), (0,), ((0,),), Dtype.BOOL, "bool")),
    ]
    assert len({item.digest for item in made}) == len(made)


def test_neither_the_order_of_params_nor_the_identity_of_values_enters():
    x = Var(TensorType(Dtype.FLOAT32, (2,)))
    result = TensorType(Dtype.FLOAT32, (6,))
    params = {"low": (1,), "high": (2,), "interior": (1,)}
    digests = set()
    for names in (list(params), list(reversed(params))):
        pad = equation("pad", (x,), result, **{name: params[name] for name in names})
        digests.add(Program((x,), (pad,), pad.results).digest)
    assert len(digests) == 1


DIGEST = """
import sys
from gradwire_proto.program import decode_program
from gradwire_proto.v1 import program_pb2
for line in sys.stdin:
    print(decode_program(program_pb2.Program.FromString(bytes.fromhex(line))).digest)
"""


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_names_are_equal_in_every_process(seed):
    sent = "".join(encode_program(PROGRAMS[name]()).SerializeToString().hex() + "\n" for name in GOLDEN)
    environ = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", DIGEST], input=sent, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(GOLDEN.values())


def test_a_message_written_in_another_order_has_the_same_name():
    message = encode_program(PROGRAMS["product"]())
    fields = [pb.Program(outputs=message.outputs), pb.Program(equations=message.equations), pb.Program(inputs=message.inputs)]
    shuffled = pb.Program.FromString(b"".join(field.SerializeToString() for field in fields))
    assert decode_program(shuffled).digest == GOLDEN["product"]


def test_a_shape_sent_unpacked_has_the_same_name():
    packed = tensor_pb2.TensorType(dtype=1, shape=[3, 1])
    unpacked = tensor_pb2.TensorType.FromString(b"\x08\x01\x10\x03\x10\x01")
    assert packed == unpacked
    digests = [decode_program(pb.Program(inputs=[item])).digest for item in (packed, unpacked)]
    assert digests[0] == digests[1]
