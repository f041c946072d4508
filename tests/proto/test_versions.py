"""Clients one version older are understood; clients one version newer are understood, or told what was not.

A newer version is made here as a newer server would be built: the descriptors of this version with additions, compiled into
messages of their own.
"""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

from gradwire_core.errors import ArgumentError, DtypeError, ProgramError
from gradwire_proto.evaluation import decode_output, decode_result
from gradwire_proto.known import check_known
from gradwire_proto.program import decode_program, encode_program
from gradwire_proto.tensor import decode_tensor, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2, tensor_pb2, transform_pb2
from tests.proto.programs import product

FIELD = descriptor_pb2.FieldDescriptorProto
NEW_NUMBER = 100


def newer():
    """The messages of a version in which every message has one more field, every oneof one more case, every enum one more value."""
    files = []
    for module in (tensor_pb2, program_pb2, transform_pb2, pb):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.append(file)
    for file in files:
        for message in file.message_type:
            added = message.field.add(name="novelty", number=NEW_NUMBER, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
            if message.oneof_decl and not message.oneof_decl[0].name.startswith("_"):
                added.oneof_index = 0
        for enum in file.enum_type:
            enum.value.add(name=f"{enum.name.upper()}_NOVEL", number=NEW_NUMBER)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    for file in files:
        pool.Add(file)
    names = [message.name for file in files for message in file.message_type]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"gradwire.v1.{name}")) for name in names}


NEWER = newer()


def request():
    return pb.EvaluateRequest(
        program=encode_program(product()),
        inputs=[encode_tensor(np.array([0.5, 1.0, 1.5]))],
        outputs=[
            pb.Output(),
            pb.Output(transforms=[transform_pb2.Transform(grad=transform_pb2.Grad(argnums=[0]))]),
            pb.Output(transforms=[transform_pb2.Transform(jvp=transform_pb2.Jvp())], seeds=[encode_tensor(np.ones(3))]),
        ],
    )


def as_newer(message):
    return NEWER[message.DESCRIPTOR.name].FromString(message.SerializeToString())


def sent(message):
    """What this version reads of a message of the newer one."""
    return getattr(pb, message.DESCRIPTOR.name).FromString(message.SerializeToString())


def test_a_newer_client_that_uses_nothing_new_is_understood():
    message = sent(as_newer(request()))
    check_known(message)
    assert message == request()
    assert decode_program(message.program).digest == product().digest


PLACES = [
    "",
    ".inputs[0]",
    ".outputs[1]",
    ".outputs[1].transforms[0]",
    ".outputs[1].transforms[0].grad",
    ".outputs[2].seeds[0]",
    ".program",
    ".program.inputs[0]",
    ".program.equations[1]",
    ".program.equations[1].operands[0]",
    ".program.equations[2].results[0]",
    ".program.equations[2].params['axes']",
    ".program.equations[2].params['axes'].list_value",
    ".program.outputs[0]",
]


def at(message, place):
    """The message within a message."""
    for name, index in re.findall(r"\.(\w+)(?:\[(.+?)\])?", place):
        message = getattr(message, name)
        if index:
            message = message[ast.literal_eval(index)]
    return message


@pytest.mark.parametrize("place", PLACES)
def test_a_newer_client_is_told_which_field_is_unknown(place):
    message = as_newer(request())
    at(message, place).novelty = "unheard of"
    with pytest.raises(ArgumentError) as raised:
        check_known(sent(message))
    assert raised.value.message.startswith(
        f"EvaluateRequest{place}: needed fields that this server knows, got the unknown field 100; "
    )


@pytest.mark.parametrize("place", [place for place in PLACES if place.startswith(".program")])
def test_a_program_that_is_not_understood_is_never_decoded(place):
    message = as_newer(request())
    at(message, place).novelty = "unheard of"
    with pytest.raises(ProgramError, match="got the unknown field 100"):
        decode_program(sent(message).program)


def test_a_new_transform_is_refused_even_unchecked():
    message = as_newer(request().outputs[1])
    message.transforms[0].novelty = "laplacian"
    with pytest.raises(ArgumentError, match=r"output 1, transform 0: needed one of grad, .*, got none that this version knows"):
        decode_output(sent(message), "output 1")


def test_a_new_layout_is_refused():
    message = as_newer(request().outputs[1])
    message.layout = NEW_NUMBER
    with pytest.raises(ArgumentError, match=r"output 1: needed one of LAYOUT_DENSE, .*, got the unknown number 100"):
        decode_output(sent(message), "output 1")


def test_a_new_dtype_is_refused():
    message = as_newer(request())
    message.inputs[0].dtype = NEW_NUMBER
    with pytest.raises(DtypeError, match=r"inputs\[0\]: needed a dtype, .*, got the unknown number 100"):
        decode_tensor(sent(message).inputs[0], "inputs[0]")


def test_additions_to_an_answer_are_ignored_by_an_older_client():
    answer = as_newer(pb.EvaluateResponse(results=[pb.OutputResult(results=[pb.Result(dense=encode_tensor(np.ones(2)))])]))
    answer.novelty = "more"
    answer.results[0].results[0].dense.novelty = "more"
    read = pb.EvaluateResponse.FromString(answer.SerializeToString())
    assert decode_result(read.results[0].results[0]).tolist() == [1, 1]


REQUEST_1_0 = (
    "125b0a05080112010312100a0373696e120208002205080112010312190a086d756c7469706c791202080112020800220508"
    "01120103121d0a0373756d120208021a0e0a0461786573120632040a021000220208011a0208031a0208011a1f0801120103"
    "1a18000000000000e03f000000000000f03f000000000000f83f220022070a050a030a010022250a0222001a1f0801120103"
    "1a18000000000000f03f000000000000f03f000000000000f03f"
)


def test_a_request_of_the_first_version_is_understood_for_ever():
    message = pb.EvaluateRequest.FromString(bytes.fromhex(REQUEST_1_0))
    check_known(message)
    assert message == request()


def test_checking_does_not_change_the_request():
    message = sent(as_newer(request()))
    before = message.SerializeToString(deterministic=True)
    check_known(message)
    assert message.SerializeToString(deterministic=True) == before
