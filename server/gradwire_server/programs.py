"""A program as it is stored: the answers about it. Nothing else may live here."""

from __future__ import annotations

from dataclasses import dataclass

from gradwire_core.program import Program
from gradwire_proto.tensor import encode_type
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """A program as it is kept: the serialized GetProgramResponse, and the serialized ProgramSummary."""

    response: bytes
    summary: bytes


def encode_stored(name: str, program: Program, message: program_pb2.Program) -> StoredProgram:
    """Return what is kept of a program.

    Args:
        name: its name on the wire.
        program: the program.
        message: its message.
    """
    summary = pb.ProgramSummary(
        name=name,
        inputs=map(encode_type, program.input_types),
        outputs=map(encode_type, program.output_types),
        equation_count=len(program.equations),
    )
    return StoredProgram(pb.GetProgramResponse(name=name, program=message).SerializeToString(), summary.SerializeToString())
