"""What runs in a worker process: read a frame, decode, compile, run, encode, write. Imports no gRPC, not even indirectly.

Start: `python -m gradwire_server.worker FD`, where FD is the inherited end of a socket pair; the other end is the pool's.
Whatever a task raises becomes its answer, so a worker outlives every task that does not take the process down.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import signal
import socket
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradwire_core import engine
from gradwire_core.errors import ArgumentError, GradwireError, InternalError, LimitError, TracingError
from gradwire_core.explain import explain
from gradwire_core.program import Program
from gradwire_core.structure.cost import predict
from gradwire_core.structure.sparse import SparseSpec
from gradwire_proto import evaluation, explanation
from gradwire_proto.known import check_known
from gradwire_proto.program import decode_program, encode_program
from gradwire_proto.status import encode_status
from gradwire_proto.tensor import decode_tensor, encode_type
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2 as pb_program
from gradwire_server.cache import RecentlyUsed
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind, receive_frame, send_frame
from gradwire_server.limits import Limits
from gradwire_server.logs import configure_logging
from gradwire_server.memory import MemoryBound, volunteer
from gradwire_server.requests import M, check_program_name, parse_request, program_name

_LOGGER = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Source:
    """Where the program of a task comes from: its digest, and the program itself unless it is only named and not held."""

    digest: str
    program: Program | None
    inline: pb_program.Program | None = None


class MissingError(Exception):
    """Raised when a task names a program that this worker does not hold, and needs it."""


class Worker:
    """Answers tasks, keeping decoded programs and executables between them.

    Args:
        config: the limits of requests and the bounds of both caches.
        memory: the bound of this process, if it has one.
    """

    def __init__(self, config: ServerConfig, memory: MemoryBound | None = None) -> None:
        self._memory = memory
        self._admitted: weakref.WeakKeyDictionary[engine.Executable, int] = weakref.WeakKeyDictionary()
        self._limits = Limits.from_config(config)
        self._programs: RecentlyUsed[Program] = RecentlyUsed(config.program_cache_bytes)
        self._executables = engine.ExecutableCache(config.executable_cache_count, config.executable_cache_bytes)

    def answer(self, task: Frame) -> Frame:
        """Return the answer to a task, whatever happens."""
        request_id, message, *stored = task.parts
        failure: GradwireError
        try:
            return self._run(task.kind, message, stored)
        except MissingError as error:
            return Frame(Kind.MISSING, (str(error).encode(),))
        except MemoryError:
            failure = self._out_of_memory()
        except Exception as error:  # noqa: BLE001  # whatever it is, it becomes the answer
            failure = _as_gradwire_error(error, request_id.decode())
        return Frame(Kind.ERROR, (encode_status(failure).SerializeToString(),))

    def _run(self, kind: Kind, message: bytes, stored: Sequence[bytes]) -> Frame:
        if kind is Kind.EVALUATE:
            return self._evaluate(message, stored)
        if kind is Kind.DIFFERENTIATE:
            return self._differentiate(message, stored)
        if kind is Kind.EXPLAIN:
            return self._explain(message, stored)
        return self._create_program(message)

    def _out_of_memory(self, predicted_bytes: int | None = None) -> LimitError:
        allowed = self._memory.max_bytes if self._memory is not None else 0
        given = "more" if predicted_bytes is None else f"more than the {predicted_bytes} that were predicted"
        text = f"evaluation: needed at most {allowed} bytes of memory in all, got {given}; make the request smaller"
        return LimitError(text, limit="worker_memory_bytes", allowed=allowed, given=predicted_bytes or "unknown")

    def _parse(self, kind: type[M], message: bytes) -> M:
        """Return a request whose program is neither too long nor too deep; what is too deep for any parser is told as such."""
        self._limits.check_size(kind, message)
        try:
            return parse_request(kind, message)
        except ArgumentError:
            self._limits.check_nesting(kind, message)
            raise

    def _create_program(self, message: bytes) -> Frame:
        request = self._parse(pb.CreateProgramRequest, message)
        self._limits.check_program(request.program)
        check_known(request)
        if not request.HasField("program"):
            raise ArgumentError("CreateProgramRequest: needed a program, got none; set `program`")
        source = self._decode(request.program)
        return _result(source, pb.CreateProgramResponse(name=program_name(source.digest)).SerializeToString())

    def _evaluate(self, message: bytes, stored: Sequence[bytes]) -> Frame:
        request = self._parse(pb.EvaluateRequest, message)
        self._limits.check_evaluation(request)
        source = self._find_source(request, stored)
        if not request.outputs:
            raise ArgumentError("EvaluateRequest: needed at least one output, got none; add an empty one for the value")
        pairs = [evaluation.decode_output(output) for output in request.outputs]
        executable = self._compile(source, tuple(output for output, _ in pairs), reproducible=request.reproducible)
        result_bytes = self._admit(executable)
        inputs = [decode_tensor(tensor, f"input {index}") for index, tensor in enumerate(request.inputs)]
        with self._expecting(executable, result_bytes):
            results = executable.run(inputs, [seeds for _, seeds in pairs])
            return _result(source, self._encode_results(source, results, executable.specs))

    def _admit(self, executable: engine.Executable) -> int:
        """Check, before anything runs, what an executable is predicted to take; return the bytes of its results."""
        found = self._admitted.get(executable)
        if found is None:
            self._limits.check_plan(executable.plan)
            found = _result_bytes(executable)
            self._limits.check_response(found)
            self._limits.check_cost(predict(executable.program))
            self._admitted[executable] = found
        return found

    @contextlib.contextmanager
    def _expecting(self, executable: engine.Executable, result_bytes: int) -> Iterator[None]:
        """Bound the memory of a block, and have it fail by that limit."""
        predicted = executable.plan.peak_bytes
        bound = contextlib.nullcontext() if self._memory is None else self._memory.expecting(predicted, result_bytes)
        try:
            with bound:
                yield
        except MemoryError as error:
            raise self._out_of_memory(predicted) from error
        except LimitError as error:
            if isinstance(error.__cause__, MemoryError):
                raise self._out_of_memory(predicted) from error
            raise

    def _differentiate(self, message: bytes, stored: Sequence[bytes]) -> Frame:
        request = self._parse(pb.DifferentiateRequest, message)
        self._limits.check_transforms(request.transforms)
        source = self._find_source(request, stored)
        if not request.transforms:
            raise ArgumentError("DifferentiateRequest: needed at least one transform, got none; add one")
        derivative = _held(source)
        for transform in map(evaluation.decode_transform, request.transforms):
            derivative = engine.derive(derivative, (transform,))
            self._limits.check_derived(len(derivative.equations))
        response = pb.DifferentiateResponse(name=program_name(derivative.digest), program=encode_program(derivative))
        return _result(source, self._serialize(response))

    def _explain(self, message: bytes, stored: Sequence[bytes]) -> Frame:
        request = self._parse(pb.ExplainRequest, message)
        self._limits.check_outputs(request.outputs)
        source = self._find_source(request, stored)
        pairs = [evaluation.decode_output(output) for output in request.outputs or [pb.Output()]]
        if any(seeds for _, seeds in pairs):
            raise ArgumentError("ExplainRequest: needed outputs without seeds, got some; leave them out, nothing is evaluated")
        outputs, format = tuple(output for output, _ in pairs), explanation.decode_format(request.format)
        plan = self._compile(source, outputs, reproducible=False).plan
        derivation = explain(_held(source), outputs, format=format, names=request.input_names, plan=plan)
        response = pb.ExplainResponse(
            program_name=program_name(source.digest),
            derivation=explanation.encode_derivation(derivation),
            plan=explanation.encode_plan(plan),
        )
        return _result(source, self._serialize(response))

    def _find_source(
        self, request: pb.EvaluateRequest | pb.DifferentiateRequest | pb.ExplainRequest, stored: Sequence[bytes]
    ) -> Source:
        """Return the program of a request, of which no field may be unknown."""
        if request.HasField("program"):
            self._limits.check_program(request.program)
        check_known(request)
        kind = request.WhichOneof("program_source")
        if kind == "program":
            return self._decode(request.program)
        if kind is None:
            raise ArgumentError(f"{request.DESCRIPTOR.name}: needed a program or its name, got neither; set one")
        digest = check_program_name(request.program_name)
        program = self._programs.get(digest)
        if program is None and stored:
            program = self._decode(pb.GetProgramResponse.FromString(stored[0]).program).program
        return Source(digest, program)

    def _decode(self, message: pb_program.Program) -> Source:
        program = decode_program(message)
        digest = program.digest
        self._programs.put(digest, program, message.ByteSize())
        return Source(digest, program, message)

    def _compile(self, source: Source, outputs: tuple[engine.Output, ...], *, reproducible: bool) -> engine.Executable:
        found = self._executables.find(source.digest, outputs, reproducible)
        return found or self._executables.get(_held(source), outputs, reproducible)

    def _encode_results(
        self, source: Source, results: Sequence[Sequence[engine.Result]], specs: Sequence[Sequence[evaluation.Shapes] | None]
    ) -> bytes:
        response = pb.EvaluateResponse(program_name=program_name(source.digest))
        for output, found in zip(results, specs, strict=True):
            shapes: Iterable[evaluation.Shapes | None] = itertools.repeat(None) if found is None else found
            response.results.add(results=map(evaluation.encode_result, output, shapes))
        return self._serialize(response)

    def _serialize(self, response: pb.EvaluateResponse | pb.DifferentiateResponse | pb.ExplainResponse) -> bytes:
        self._limits.check_response(response.ByteSize())
        return response.SerializeToString()


def main(argv: Sequence[str]) -> int:
    """Answer tasks until the front end hangs up; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the front end decides when a worker ends
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # even in the middle of a task, end with the front end
    np.seterr(all="ignore")  # NaN and inf are results
    with socket.socket(fileno=int(argv[0])) as connection:
        serve(connection)
    return 0


def serve(connection: socket.socket) -> None:
    """Answer the frames of a connection until it ends."""
    settings = receive_frame(connection)
    if settings is None:
        return
    config = ServerConfig.from_json(settings.parts[0])
    configure_logging(config.log_level)
    volunteer()
    worker = Worker(config, MemoryBound(config.worker_memory_limit_bytes))
    send_frame(connection, Frame(Kind.READY))
    while (task := receive_frame(connection)) is not None:
        try:
            send_frame(connection, worker.answer(task))
        except OSError:
            return


def _as_gradwire_error(error: Exception, request_id: str) -> GradwireError:
    """Return the error for the caller. No caller traces: a TracingError, which names lines of Python, is a defect too."""
    if isinstance(error, GradwireError) and not isinstance(error, TracingError):
        return error
    _LOGGER.error("task failed request_id=%s", request_id, exc_info=error)
    return InternalError("server: needed to work, got a defect of its own; report the request id")


def _held(source: Source) -> Program:
    if source.program is None:
        raise MissingError(program_name(source.digest))
    return source.program


def _result_bytes(executable: engine.Executable) -> int:
    """Return the bytes of all results, with the places of sparse ones."""
    places = (spec.nbytes for specs in executable.specs for spec in specs or () if isinstance(spec, SparseSpec))
    return sum(type.nbytes for type in executable.program.output_types) + sum(places)


def _result(source: Source, response: bytes) -> Frame:
    name = program_name(source.digest)
    parts: tuple[bytes, ...] = (name.encode(), response)
    if source.program is not None and source.inline is not None:
        parts += _stored(name, source.program, source.inline)
    return Frame(Kind.RESULT, parts)


def _stored(name: str, program: Program, message: pb_program.Program) -> tuple[bytes, bytes]:
    """Return what the front end keeps of a program: the response of GetProgram, and the summary of ListPrograms."""
    summary = pb.ProgramSummary(
        name=name,
        inputs=map(encode_type, program.input_types),
        outputs=map(encode_type, program.output_types),
        equation_count=len(program.equations),
    )
    return pb.GetProgramResponse(name=name, program=message).SerializeToString(), summary.SerializeToString()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
