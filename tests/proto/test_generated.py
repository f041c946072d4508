"""The generated code is that of the .proto files, and lives in this package under the names of the interface."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gradwire_proto.v1 import differentiation_service_pb2, program_pb2, tensor_pb2, transform_pb2

MODULES = [differentiation_service_pb2, program_pb2, tensor_pb2, transform_pb2]


def test_generated_code_is_fresh():
    done = subprocess.run([sys.executable, "-m", "gradwire_proto", "--check"], capture_output=True, text=True, check=False)
    if done.returncode == 2:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_descriptors_keep_the_names_of_the_interface(module):
    assert module.DESCRIPTOR.package == "gradwire.v1"
    assert module.DESCRIPTOR.name == f"gradwire/v1/{module.__name__.rpartition('.')[2].removesuffix('_pb2')}.proto"


@pytest.mark.parametrize("module", MODULES)
def test_integers_are_signed_and_64_bits(module):
    def fields(message):
        yield from message.fields
        for nested in message.nested_types:
            yield from fields(nested)

    kinds = {field.type for message in module.DESCRIPTOR.message_types_by_name.values() for field in fields(message)}
    named = {"TYPE_INT32", "TYPE_UINT32", "TYPE_UINT64", "TYPE_SINT32", "TYPE_SINT64", "TYPE_FIXED32", "TYPE_FIXED64"}
    field = next(iter(tensor_pb2.Tensor.DESCRIPTOR.fields))
    assert not kinds & {getattr(field, name) for name in named}


def test_importing_the_codec_imports_no_grpc():
    names = ("program", "tensor", "evaluation", "explanation", "sparse", "status", "known", "v1.differentiation_service_pb2")
    code = f"import sys, {', '.join(f'gradwire_proto.{name}' for name in names)}; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
