"""What runs in a worker process: read a frame, decode, compile, run, encode, write. Imports no gRPC, not even indirectly.

Start: `python -m gradwire_server.worker FD FD`, with the inherited ends of two socket pairs, for the stream and for descriptors
(see `channel`); the other ends are the pool's.
Whatever a task raises becomes its answer, so a worker outlives every task that does not take the process down.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import logging
import os
import select
import signal
import socket
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gradwire_core import engine
from gradwire_core.errors import ArgumentError, GradwireError, InternalError, LimitError, TracingError
from gradwire_core.kernels.choice import open_chooser
from gradwire_core.native.tier import open_tier
from gradwire_core.plans import open_plans
from gradwire_core.program import Program
from gradwire_core.sharding import find_split
from gradwire_core.structure.cost import Cost, predict
from gradwire_core.structure.sparse import SparseSpec
from gradwire_core.types import Array
from gradwire_proto import evaluation
from gradwire_proto.known import check_known
from gradwire_proto.program import decode_program, encode_program
from gradwire_proto.status import encode_status
from gradwire_proto.tensor import Elements, decode_tensor, encode_head, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2 as pb_program
from gradwire_proto.v1 import tensor_pb2 as pb_tensor
from gradwire_server.cache import RecentlyUsed
from gradwire_server.channel import Channel
from gradwire_server.config import ServerConfig
from gradwire_server.frames import CHUNKED_BYTES, Frame, Joined, Kind, Prediction, Timings, join_frames, split_frame
from gradwire_server.limits import Limits
from gradwire_server.logs import configure_logging
from gradwire_server.mappings import KEPT_S
from gradwire_server.memory import MemoryBound, end_with_parent, volunteer
from gradwire_server.programs import encode_stored
from gradwire_server.repeated import Repeated
from gradwire_server.requests import M, check_program_name, parse_request, program_name
from gradwire_server.segments import Segment, copy_elements
from gradwire_server.shards import Sharded
from gradwire_server.skeletons import Message, Skeletons

_LOGGER = logging.getLogger(__name__)
_READ_BYTES = 2**18
_EVALUATIONS = (Kind.EVALUATE, Kind.EVALUATE_IN_CHUNKS)
_IN_CHUNKS = (Kind.EVALUATE_IN_CHUNKS, Kind.EVALUATE_SHARD)
_NAMED_PARTS = 2  # of a task that brings no program
_IDLE_S = 0.01
_IDLE_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Source:
    """Where the program of a task comes from: its digest, and the program itself unless it is only named and not held."""

    digest: str
    program: Program | None
    inline: pb_program.Program | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """What an executable takes: the bytes of its results, once encoded, what else is predicted, and what compiling it took."""

    result_bytes: int
    prediction: Prediction
    cost: Cost
    compile_s: float = 0.0


class Place(NamedTuple):
    """Memory for the elements of a result, and the array in which it is to be computed there, if it can be."""

    segment: Segment | None = None
    array: Array | None = None


NO_PLACE = Place()


class Phase(enum.IntEnum):
    """The phases of a task, in the order of `Timings`."""

    DECODE = 0
    COMPILE = 1
    RUN = 2
    ENCODE = 3


class Watch:
    """Measures the phases of a task.

    Args:
        asked_s: when the task came, by `time.perf_counter`.
    """

    def __init__(self, asked_s: float) -> None:
        self._spent_s = [0.0] * len(Phase)
        self._phase = Phase.DECODE
        self._since_s = time.perf_counter()
        self._wait_s = self._since_s - asked_s

    def enter(self, phase: Phase) -> Phase:
        """Begin a phase, and return the one that ends by it."""
        now_s, left = time.perf_counter(), self._phase
        self._spent_s[left] += now_s - self._since_s
        self._since_s, self._phase = now_s, phase
        return left

    def read(self) -> Timings:
        """Return what the phases took so far."""
        self.enter(self._phase)
        decode_s, compile_s, run_s, encode_s = self._spent_s
        return Timings(self._wait_s, decode_s, compile_s, run_s, encode_s)


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
        self._admitted: weakref.WeakKeyDictionary[engine.Executable, Admitted] = weakref.WeakKeyDictionary()
        self._sharded: weakref.WeakKeyDictionary[engine.Executable, Sharded] = weakref.WeakKeyDictionary()
        self._limits = Limits.from_config(config)
        self._repeated: Skeletons[Repeated] = Skeletons(config.executable_cache_count)
        self._wanted: tuple[Repeated, int] | None = None
        self._watch = Watch(0.0)
        self._asked_s = 0.0
        self._programs: RecentlyUsed[Program] = RecentlyUsed(config.program_cache_bytes)
        tier = open_tier(config.cache_folder, config.code_folder_bytes) if config.native else None
        chooser = open_chooser(config.worker_threads, config.kernels, config.cache_folder)
        plans = open_plans(config.cache_folder, config.plan_folder_bytes)
        self._executables = engine.ExecutableCache(
            config.executable_cache_count,
            config.executable_cache_bytes,
            tier,
            chooser=chooser,
            max_peak_bytes=config.max_peak_bytes,
            plans=plans,
        )

    def answer(self, task: Frame) -> Frame:
        """Return the answer to a task, whatever happens; the segments of the task are the caller's to close."""
        self._asked_s = time.perf_counter()
        if task.kind is Kind.BATCH:
            return join_frames(self._answer_all(split_frame(task)))
        return self._answer_one(task)

    def _answer_one(self, task: Frame) -> Frame:
        found = self._answer_repeated(task)
        if found is not None:
            return found
        self._watch = watch = Watch(self._asked_s)
        request_id, message, *stored = (bytes(part) for part in task.parts if not isinstance(part, Segment))
        failure: GradwireError
        try:
            found = self._run(task, message, [part for part in stored if part])
            timings = watch.read()
            return replace(found, timings=timings, was_cached=not timings.compile_s)
        except MissingError as error:
            return Frame(Kind.MISSING, (str(error).encode(),), timings=watch.read())
        except MemoryError:
            failure = self._out_of_memory()
        except Exception as error:  # noqa: BLE001  # whatever it is, it becomes the answer
            failure = _as_gradwire_error(error, request_id.decode())
        status = encode_status(failure)
        del failure  # whose trace holds what the task held, this variable too
        return Frame(Kind.ERROR, (status.SerializeToString(),), timings=watch.read())

    def _answer_repeated(self, task: Frame) -> Frame | None:
        """Return the answer to a task like one that was answered before; None where it is to be looked at in full."""
        found = self._find_repeated(task)
        if found is None:
            return None
        began_s = time.perf_counter()
        repeated, executable, admitted = found
        try:
            inputs, seeds = repeated.read(task.parts[1])  # type: ignore[arg-type]  # a message
            decoded_s = time.perf_counter()
            with self._expecting(executable, admitted.result_bytes):
                results = executable.run(inputs, seeds)
        except (GradwireError, MemoryError):
            return None  # which tells how
        ran_s = time.perf_counter()
        answer = repeated.write(results)
        ended_s = time.perf_counter()
        repeated.note_alone(ended_s - began_s)
        timings = Timings(began_s - self._asked_s, decoded_s - began_s, 0.0, ran_s - decoded_s, ended_s - ran_s)
        return _repeated_result(task, repeated, answer, admitted.prediction, timings)

    def _find_repeated(self, task: Frame) -> tuple[Repeated, engine.Executable, Admitted] | None:
        if task.kind not in _EVALUATIONS or len(task.parts) != _NAMED_PARTS:
            return None
        repeated = self._repeated.find(task.parts[1])  # type: ignore[arg-type]  # a message
        executable = None if repeated is None else self._executables.find(repeated.digest, repeated.outputs)
        admitted = None if executable is None else self._admitted.get(executable)
        if repeated is None or executable is None or admitted is None:
            return None
        if task.kind is Kind.EVALUATE:
            fits = admitted.result_bytes <= self._limits.message_bytes
        else:
            fits = repeated.largest_bytes <= CHUNKED_BYTES
        return (repeated, executable, admitted) if fits else None

    def _answer_all(self, tasks: Sequence[Frame]) -> list[Frame]:
        """Return the answers to tasks that are alike, evaluated as one where that is faster."""
        found = self._find_repeated(tasks[0])
        if found is not None and found[0].is_stackable:
            repeated, _, admitted = found
            messages = [task.parts[1] for task in tasks]
            if all(self._repeated.find(message) is repeated for message in messages):  # type: ignore[arg-type]  # a message
                together = self._evaluate_as_one(repeated, messages)  # type: ignore[arg-type]  # the same
                if together is not None:
                    answers, timings = together
                    return [
                        _repeated_result(task, repeated, answer, admitted.prediction, timings)
                        for task, answer in zip(tasks, answers, strict=True)
                    ]
        return [self._answer_one(task) for task in tasks]

    def _evaluate_as_one(self, repeated: Repeated, messages: Sequence[Message]) -> tuple[list[bytes | Joined], Timings] | None:
        """Return the answers to requests evaluated as one, and what that took; None where they are to be evaluated one by one."""
        self._watch = watch = Watch(self._asked_s)
        count = repeated.choose_count(len(messages))
        if not count:
            return None
        executable = self._executables.find(repeated.digest, repeated.stacked_outputs(count))
        if executable is None:
            repeated.miss(len(messages))
            self._wanted = repeated, count
            if not repeated.is_worth(count):
                return None
            watch.enter(Phase.COMPILE)
            executable = self._compile_wanted()
            watch.enter(Phase.DECODE)
            if executable is None:
                return None
        try:
            inputs, seeds = repeated.read_all(messages, count)
            watch.enter(Phase.RUN)
            results = executable.run(inputs, seeds)
        except (GradwireError, MemoryError):
            return None  # each is told its own
        watch.enter(Phase.ENCODE)
        answers = [repeated.write_row(results, row) for row in range(len(messages))]
        timings = watch.read()
        repeated.note_stacked(count, timings.taken_s)
        return answers, timings._replace(batch_count=len(messages))

    def prepare(self) -> None:
        """Use time that nobody asks for anything in: compile what would have been of use."""
        if self._wanted is not None and self._wanted[0].is_worth(self._wanted[1], _IDLE_SHARE):
            self._compile_wanted()

    def _compile_wanted(self) -> engine.Executable | None:
        """Compile what evaluates several requests as one; None where that cannot be, which is not tried again."""
        assert self._wanted is not None
        (repeated, count), self._wanted = self._wanted, None
        program = self._programs.get(repeated.digest)
        if program is None:
            return None
        began_s = time.perf_counter()
        try:
            executable = self._executables.get(program, repeated.stacked_outputs(count))
            self._limits.check_plan(executable.plan)
        except Exception as error:  # noqa: BLE001  # whatever it is, they are evaluated one by one
            _LOGGER.info("requests are not evaluated as one: %s", error)
            repeated.is_stackable = False
            return None
        repeated.compile_s = time.perf_counter() - began_s
        repeated.missed_s = 0.0
        return executable

    def _run(self, task: Frame, message: bytes, stored: Sequence[bytes]) -> Frame:
        kind = task.kind
        if kind in _EVALUATIONS or kind is Kind.EVALUATE_SHARD:
            may_split = kind is not Kind.EVALUATE_SHARD and self._limits.shards > 1
            return self._evaluate(message, stored, task.segments, in_chunks=kind in _IN_CHUNKS, may_split=may_split)
        if kind is Kind.COMPILE:
            return self._precompile(message)
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

    def _evaluate(
        self, message: bytes, stored: Sequence[bytes], segments: Iterator[Segment], *, in_chunks: bool, may_split: bool
    ) -> Frame:
        request = self._parse(pb.EvaluateRequest, message)
        self._limits.check_evaluation(request)
        source = self._find_source(request, stored)
        if not request.outputs:
            raise ArgumentError("EvaluateRequest: needed at least one output, got none; add an empty one for the value")
        apart = _elements_apart(request, segments)
        inputs = [decode_tensor(tensor, f"input {index}", next(apart)) for index, tensor in enumerate(request.inputs)]
        pairs = [evaluation.decode_output(output, elements=apart) for output in request.outputs]
        outputs = tuple(output for output, _ in pairs)
        executable = self._compile(source, outputs, reproducible=request.reproducible)
        seeds = [found for _, found in pairs]
        sharded = self._find_sharded(source, outputs, executable, in_chunks=in_chunks) if may_split else None
        if sharded is not None:
            return _split(source, sharded, [*inputs, *itertools.chain(*seeds)], _places_apart(request))
        admitted = self._admit(executable, in_chunks=in_chunks)
        del request, pairs
        self._watch.enter(Phase.RUN)
        with self._expecting(executable, admitted.result_bytes):
            places, room = _find_places(executable, segments) if in_chunks else ([], {})
            results = executable.run(inputs, seeds, room)
            del inputs, seeds  # before their results take as much again
            self._watch.enter(Phase.ENCODE)
            if in_chunks:
                response, found = self._encode_in_chunks(source, results, executable.specs, places)
                del places, room
                admitted = admitted if found else self._note(message, source.digest, outputs, executable, response)
                return _result(source, response, found, prediction=admitted.prediction)
            response = self._serialize(self._encode_results(source, results, executable.specs, encode_tensor))
            admitted = self._note(message, source.digest, outputs, executable, response)
            return _result(source, response, prediction=admitted.prediction)

    def _find_sharded(
        self, source: Source, outputs: tuple[engine.Output, ...], executable: engine.Executable, *, in_chunks: bool
    ) -> Sharded | None:
        """Return in which shards an executable is evaluated that takes more than one may; None where it is not."""
        found = self._sharded.get(executable)
        if found is None:
            if executable in self._admitted or self._share(executable) <= 1:
                return None
            left = self._watch.enter(Phase.COMPILE)
            found = self._make_sharded(_held(source), outputs, executable)
            self._watch.enter(left)
        if found is not None:
            check = self._limits.check_joined if in_chunks else self._limits.check_response
            check(_result_bytes(executable))
        return found

    def _make_sharded(self, program: Program, outputs: tuple[engine.Output, ...], executable: engine.Executable) -> Sharded | None:
        def compile(part: Program, asked: Sequence[engine.Output]) -> engine.Executable:
            return self._executables.get(part, asked, reproducible=True)

        split = find_split(program, outputs, executable, compile, self._share, self._limits.shards)
        if split is None:
            return None
        found = Sharded(split, [compile(shard.program, shard.outputs) for shard in split.shards])
        if sum(map(len, found.programs)) > self._limits.message_bytes:
            return None
        self._sharded[executable] = found
        return found

    def _share(self, executable: engine.Executable) -> float:
        return self._limits.share(executable.plan, predict(executable.program))

    def _note(
        self, message: bytes, digest: str, outputs: tuple[engine.Output, ...], executable: engine.Executable, response: bytes
    ) -> Admitted:
        """Take note of a request that others may repeat, and return what it takes."""
        admitted = self._admitted[executable]
        repeated = Repeated.find(digest, outputs, executable, (message, response), admitted.cost)
        if repeated is None:
            return admitted
        repeated.compile_s = max(admitted.compile_s, self._watch.read().compile_s)
        self._repeated.put(repeated.request, repeated)
        prediction = replace(admitted.prediction, is_stackable=repeated.is_stackable)
        self._admitted[executable] = found = replace(admitted, prediction=prediction, compile_s=repeated.compile_s)
        return found

    def _precompile(self, message: bytes) -> Frame:
        """Have an executable ready for the requests to come that ask for the same outputs."""
        request = self._parse(pb.EvaluateRequest, message)
        source = self._find_source(request, ())
        outputs = tuple(evaluation.decode_output(output)[0] for output in request.outputs)
        self._admit(self._compile(source, outputs, reproducible=request.reproducible), in_chunks=True)
        return Frame(Kind.READY)

    def _admit(self, executable: engine.Executable, *, in_chunks: bool) -> Admitted:
        """Check, before anything runs, what an executable is predicted to take, and return it."""
        found = self._admitted.get(executable)
        if found is None:
            self._limits.check_plan(executable.plan)
            cost = predict(executable.program)
            self._limits.check_cost(cost)
            found = Admitted(_result_bytes(executable), Prediction(cost.seconds, executable.plan.peak_bytes), cost)
            self._admitted[executable] = found
        if not in_chunks:
            self._limits.check_response(found.result_bytes)
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
        self._watch.enter(Phase.RUN)
        for transform in map(evaluation.decode_transform, request.transforms):
            derivative = engine.derive(derivative, (transform,))
            self._limits.check_derived(len(derivative.equations))
        self._watch.enter(Phase.ENCODE)
        response = pb.DifferentiateResponse(name=program_name(derivative.digest), program=encode_program(derivative))
        return _result(source, self._serialize(response))

    def _explain(self, message: bytes, stored: Sequence[bytes]) -> Frame:
        from gradwire_core.explain import explain  # not before it is asked for, for it takes long to import
        from gradwire_proto import explanation

        request = self._parse(pb.ExplainRequest, message)
        self._limits.check_outputs(request.outputs)
        source = self._find_source(request, stored)
        pairs = [evaluation.decode_output(output) for output in request.outputs or [pb.Output()]]
        if any(seeds for _, seeds in pairs):
            raise ArgumentError("ExplainRequest: needed outputs without seeds, got some; leave them out, nothing is evaluated")
        outputs, format = tuple(output for output, _ in pairs), explanation.decode_format(request.format)
        plan = self._compile(source, outputs, reproducible=False).plan
        self._watch.enter(Phase.RUN)
        derivation = explain(_held(source), outputs, format=format, names=request.input_names, plan=plan)
        self._watch.enter(Phase.ENCODE)
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
        if found is None:
            program = _held(source)
            left = self._watch.enter(Phase.COMPILE)
            found = self._executables.get(program, outputs, reproducible)
            self._watch.enter(left)
        return found

    def _encode_results(
        self,
        source: Source,
        results: Sequence[Sequence[engine.Result]],
        specs: Sequence[Sequence[evaluation.Shapes] | None],
        encode: evaluation.Encode,
    ) -> pb.EvaluateResponse:
        response = pb.EvaluateResponse(program_name=program_name(source.digest))
        for output, found in zip(results, specs, strict=True):
            shapes: Iterable[evaluation.Shapes | None] = itertools.repeat(None) if found is None else found
            response.results.add(results=map(evaluation.encode_result, output, shapes, itertools.repeat(encode)))
        return response

    def _encode_in_chunks(
        self,
        source: Source,
        results: list[list[engine.Result]],
        specs: Sequence[Sequence[evaluation.Shapes] | None],
        places: Sequence[Place],
    ) -> tuple[bytes, list[Segment]]:
        """Return the response without its large elements, and these, each freed once it is copied; `results` is emptied.

        Args:
            source: the program.
            results: of each output.
            specs: of each output.
            places: memory for the first of the large ones, the second, and so on.
        """
        large: deque[Array] = deque()

        def encode(array: Array) -> pb_tensor.Tensor:
            if array.nbytes <= CHUNKED_BYTES:
                return encode_tensor(array)
            large.append(array)
            return encode_head(array)

        response = self._encode_results(source, results, specs, encode)
        results.clear()
        message = self._serialize(response)
        segments: list[Segment] = []
        left = iter(places)
        try:
            while large:
                segments.append(_place_elements(large.popleft(), next(left, NO_PLACE)))
        except OSError as error:
            raise MemoryError from error
        return message, segments

    def _serialize(self, response: pb.EvaluateResponse | pb.DifferentiateResponse | pb.ExplainResponse) -> bytes:
        self._limits.check_response(response.ByteSize())
        return response.SerializeToString()


def main(argv: Sequence[str]) -> int:
    """Answer tasks until the front end hangs up; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the front end decides when a worker ends
    end_with_parent()
    np.seterr(all="ignore")  # NaN and inf are results
    stream, descriptors = (socket.socket(fileno=int(number)) for number in argv)
    with stream, contextlib.closing(Channel(descriptors, reads_in_place=True)) as channel:
        serve(stream, channel)
    return 0


def serve(connection: socket.socket, channel: Channel) -> None:
    """Answer the frames of a connection until it ends.

    Args:
        connection: the stream.
        channel: how frames travel over it.
    """
    idle: list[Callable[[], None]] = []
    frames = receive_frames(connection, channel, lambda: [work() for work in idle])
    settings = next(frames, None)
    if settings is None:
        return
    config = ServerConfig.from_json(bytes(settings.parts[0]))  # type: ignore[arg-type]  # settings are no segment
    configure_logging(config.log_level, config.log_format)
    volunteer()
    os.nice(config.worker_niceness)
    worker = Worker(config, MemoryBound(config.worker_memory_limit_bytes))
    idle.append(worker.prepare)
    with contextlib.suppress(OSError):  # the front end is gone
        connection.sendall(channel.pack(Frame(Kind.READY)))
        for task in frames:
            answer = worker.answer(task)
            task.close()
            connection.sendall(channel.pack(answer))
            answer.close()


def receive_frames(connection: socket.socket, channel: Channel, rest: Callable[[], object]) -> Iterator[Frame]:
    """Yield the frames that come over a stream, until the other side is gone; in between, when none comes for a while, rest."""
    while True:
        try:
            if not select.select((connection,), (), (), _IDLE_S)[0]:
                rest()
                if not select.select((connection,), (), (), KEPT_S)[0]:
                    channel.rest()
            data = connection.recv(_READ_BYTES)
        except ConnectionError:
            return
        if not data:
            return
        yield from channel.feed(data)


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


def _split(source: Source, sharded: Sharded, arrays: Sequence[Array], places: Sequence[int | None]) -> Frame:
    """Return the answer of a task that is to be done in shards."""
    name, _, *stored = _result(source, b"", ()).parts
    try:
        parts, segments = sharded.tell(arrays, places)
    except OSError as error:
        raise MemoryError from error
    return Frame(Kind.SPLIT, (name, *stored, *parts, *segments))


def _result(
    source: Source, response: bytes, segments: Sequence[Segment] | None = None, prediction: Prediction | None = None
) -> Frame:
    """Return the answer of a task; one in chunks has all parts before its segments, be they empty."""
    name = program_name(source.digest)
    stored: tuple[bytes, ...] = () if segments is None else (b"", b"")
    if source.program is not None and source.inline is not None:
        program = encode_stored(name, source.program, source.inline)
        stored = (program.response, program.summary)
    return Frame(Kind.RESULT, (name.encode(), response, *stored, *(segments or ())), prediction)


def _find_places(executable: engine.Executable, spares: Iterable[Segment]) -> tuple[list[Place], dict[int, Array]]:
    """Return places for large results, in their order, and the arrays among them, by the number of the output.

    They are those left over by a task, where these are as large; else new ones, for what can be computed there.

    Raises:
        MemoryError: there is none for them.
    """
    places = [Place(spare) for spare in spares]
    room: dict[int, Array] = {}
    if sys.byteorder != "little" or any(executable.specs):
        return places, room
    large = (item for item in enumerate(executable.program.output_types) if item[1].nbytes > CHUNKED_BYTES)
    for index, (number, type) in enumerate(large):
        if index == len(places):
            places.append(NO_PLACE)
        if number in executable.rooms:
            segment = places[index].segment
            if segment is None or not segment.size == segment.written == type.nbytes:
                try:
                    segment = Segment.allocate(type.nbytes)
                except OSError as error:
                    raise MemoryError from error
            room[number] = np.frombuffer(segment.buffer, type.dtype.numpy).reshape(type.shape)
            places[index] = Place(segment, room[number])
    return places, room


def _place_elements(array: Array, place: Place) -> Segment:
    """Return a segment of the elements of an array; none are copied if it was computed in the memory that is its place."""
    if place.segment is not None and place.array is array:
        return place.segment.share()
    return copy_elements(array, place.segment)


def _repeated_result(task: Frame, repeated: Repeated, answer: bytes | Joined, prediction: Prediction, timings: Timings) -> Frame:
    """Return the answer of a task like one before."""
    parts: tuple[bytes | Joined, ...] = (program_name(repeated.digest).encode(), answer)
    if task.kind is Kind.EVALUATE_IN_CHUNKS:
        parts += b"", b""
    return Frame(Kind.RESULT, parts, prediction, timings, was_cached=True)


def _elements_apart(request: pb.EvaluateRequest, segments: Iterator[Segment]) -> Iterator[Elements | None]:
    """Yield the elements of each tensor of a request, inputs first, where they are in a segment, else None."""
    for place in _places_apart(request):
        segment = None if place is None else next(segments, None)
        yield None if segment is None else segment.buffer


def _places_apart(request: pb.EvaluateRequest) -> list[int | None]:
    """Return for each tensor of a request, inputs first, the index of the segment that its elements are in, else None."""
    count = itertools.count()
    return [
        next(count) if tensor.name or not (tensor.data or 0 in tensor.shape) else None
        for tensor in itertools.chain(request.inputs, *(output.seeds for output in request.outputs))
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
