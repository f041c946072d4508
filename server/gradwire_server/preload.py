"""Programs that every caller may name and every worker compiles before it takes tasks, read from files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from gradwire_core.errors import GradwireError
from gradwire_proto.known import unknown_field
from gradwire_proto.program import decode_program
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2
from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.limits import Limits
from gradwire_server.programs import StoredProgram, encode_stored
from gradwire_server.requests import program_name

_KINDS = (pb.EvaluateRequest, pb.CreateProgramRequest, program_pb2.Program)


@dataclass(frozen=True, slots=True)
class Preload:
    """A program of a file.

    Attributes:
        path: of the file.
        request: the serialized EvaluateRequest whose outputs are compiled, without inputs.
        digest: of the program.
        program: what is kept of it.
    """

    path: str
    request: bytes
    digest: str
    program: StoredProgram


def read_preloads(config: ServerConfig) -> tuple[Preload, ...]:
    """Return the programs of the files that a configuration names.

    Raises:
        ConfigError: a file cannot be read, or holds no program, or one that passes a limit.
    """
    limits = Limits.from_config(config)
    return tuple(_read(path, limits) for path in config.preload)


def _read(path: str, limits: Limits) -> Preload:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"preload: needed a file that can be read, got {path}: {error.strerror}; correct it") from None
    why = "something else"
    for request in _requests(path, data):
        try:
            limits.check_program(request.program)
            limits.check_outputs(request.outputs)
            program = decode_program(request.program)
        except GradwireError as error:
            why = error.message
            continue
        name = program_name(program.digest)
        return Preload(path, request.SerializeToString(), program.digest, encode_stored(name, program, request.program))
    kinds = ", ".join(kind.DESCRIPTOR.name for kind in _KINDS)
    raise ConfigError(f"preload: needed one of {kinds} in {path}, got {why}; write it with Program.to_proto, or gradwire trace")


def _requests(path: str, data: bytes) -> Iterator[pb.EvaluateRequest]:
    """Yield what a file may mean: it tells the kind of its message only by what holds together."""
    for kind in _KINDS:
        message = kind()
        try:
            if path.endswith(".json"):
                json_format.Parse(data, message)
            else:
                message.ParseFromString(data)
        except (DecodeError, json_format.ParseError, UnicodeDecodeError):
            continue
        if not data or unknown_field(message, kind.DESCRIPTOR.name) is not None:
            continue
        if isinstance(message, program_pb2.Program):
            yield pb.EvaluateRequest(program=message, outputs=[pb.Output()])
        elif message.HasField("program"):
            yield _without_tensors(message)


def _without_tensors(message: pb.EvaluateRequest | pb.CreateProgramRequest) -> pb.EvaluateRequest:
    request = pb.EvaluateRequest(program=message.program)
    if isinstance(message, pb.EvaluateRequest):
        request.reproducible = message.reproducible
        request.outputs.extend(message.outputs)
        for output in request.outputs:
            output.ClearField("seeds")
    if not request.outputs:
        request.outputs.add()
    return request
