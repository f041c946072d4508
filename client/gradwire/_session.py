"""What a client and its servers say to each other, and when it is said again. Nothing here does I/O.

The conversation is written once, as a generator: it yields a step and is sent what came of it. `gradwire._remote` and `_remote_aio`
drive it over channels.

    tensors that come again --> stored, unless the replica holds them
    named, unless small and new there --> answered
         |                                  ^
         |--> PROGRAM_MISSING --> inline ---|      once a call and replica; unseen by the user
         '--> TENSOR_MISSING --> stored ----'      once, then sent as data
    OVERLOADED, DRAINING --> pause --> again       while the call's time and the client's budget of repetitions last
    no answer at all     --> pause --> again       for `unreachable_s` since the server was there, then UnreachableError
    no streams there     --> a call of its own     the replica is older, or something between does not let streams through
    an old connection    --> another beside it     once it answers, requests that begin go there; nobody waits

Each attempt goes to the replica whose turn it is; where another one does not rest, at once.
"""

from __future__ import annotations

import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc

from gradwire._config import ClientConfig
from gradwire._failures import DETAILS_KEY, Ended, Failures, is_lost
from gradwire._repeats import Kept, Repeats
from gradwire._replicas import KNOWN_LIMIT, Replica, Replicas
from gradwire._streams import CHUNK_BYTES, Reply, TensorWriter, encode_input, slices
from gradwire._task import Task
from gradwire_core import errors
from gradwire_core.engine import Output
from gradwire_core.errors import GradwireError
from gradwire_core.program import Program
from gradwire_core.types import Array
from gradwire_proto.evaluation import decode_result, encode_output
from gradwire_proto.explanation import decode_derivation, encode_format
from gradwire_proto.program import encode_program
from gradwire_proto.tensor import decode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2, tensor_pb2

PAUSE_LIMIT_S = 2.0
ARRIVING_PAUSE_S = 0.002
BUDGET_START = 10.0  # repetitions a client may spend at once; each answer earns a tenth of one
BUDGET_EARNED = 0.1
DRAINING_REST_S = 1.0  # how long others are asked before a replica that is stopping


# -- the steps ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Method:
    """An rpc: its name, the class of its response, and what of it is a stream."""

    name: str
    response: Any
    has_stream: bool = False


EVALUATE = Method("Evaluate", pb.EvaluateResponse)
EXPLAIN = Method("Explain", pb.ExplainResponse)
CREATE_PROGRAM = Method("CreateProgram", pb.CreateProgramResponse)
CREATE_TENSOR = Method("CreateTensor", pb.CreateTensorResponse, has_stream=True)
GET_CAPABILITIES = Method("GetCapabilities", pb.GetCapabilitiesResponse)
METHODS = (EVALUATE, EXPLAIN, CREATE_PROGRAM, CREATE_TENSOR, GET_CAPABILITIES)

EVALUATE_STREAM = Method("EvaluateStream", pb.EvaluateResponse, has_stream=True)
"""Evaluate over the stream that a client keeps open to a replica; the request is an `Evaluation`, the answer a `Reply`."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A request of Evaluate to go over a stream.

    Attributes:
        request: the message.
        apart: the bytes of the tensors that are left out of it, in order.
    """

    request: bytes
    apart: Sequence[memoryview] = ()


@dataclass(frozen=True, slots=True)
class Send:
    """A request to be sent, and the seconds it may take; it is sent a response, or a failure.

    Attributes:
        replica: to whom.
        method: the rpc.
        request: its message, or the bytes of it; what yields them, for CREATE_TENSOR; an `Evaluation`, for EVALUATE_STREAM.
        timeout_s: the seconds.
        hedge: makes the request to be sent beside this one if no answer is there in time; the first answer counts. None: none.
    """

    replica: Replica
    method: Method
    request: Any
    timeout_s: float
    hedge: Callable[[], Send | None] | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds to wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Resolve:
    """The addresses of the target are to be looked up; `is_needed` says whether to wait for them, and for one to be reached."""

    is_needed: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """A replica is to be woken as soon as it can be reached; nobody waits for that."""

    replica: Replica


@dataclass(frozen=True, slots=True)
class Leave:
    """The connection to a replica is to be left to what is under way there; what comes next opens another."""

    replica: Replica


@dataclass(frozen=True, slots=True)
class Renew:
    """Another connection to a replica is to be opened, which takes the place of the one there is once somebody answers over it.

    Nobody waits for that; the one there is is left to what is under way there.
    """

    replica: Replica


Step = Send | Pause | Resolve | Probe | Leave | Renew
Conversation = Generator[Step, Any, Any]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server can do.

    Attributes:
        server_version: the version of the software.
        api_version: the version of the interface, such as `1.0`.
        primitives: the names of the primitives it has.
        transforms: the names of the transforms it has.
        dtypes: the names of its dtypes.
        layouts: the names of the layouts of its results.
        limits: what it accepts at most, by name; the names end in their unit.
        worker_count: the processes that evaluate.
    """

    server_version: str
    api_version: str
    primitives: tuple[str, ...]
    transforms: tuple[str, ...]
    dtypes: tuple[str, ...]
    layouts: tuple[str, ...]
    limits: dict[str, int]
    worker_count: int


@dataclass(slots=True, eq=False)
class _Call:
    """A call and how far it got.

    Attributes:
        deadline_s: when its time is over.
        program: the program it is about, if it is about one.
        task: what it evaluates, if it evaluates.
        named: the inputs that are named, by their numbers.
        make: makes the request for a replica, and says how it travels.
        inlined: the replicas that got the program inline.
        stored: what was stored for it, and where.
        is_alone: whether it shall share no stream with others.
        silent_s: since when nobody answers it; None if nobody was missing yet.
    """

    deadline_s: float
    make: Callable[[_Call, Replica], tuple[Method, Any]]
    program: Program | None = None
    task: Task | None = None
    named: dict[int, Kept] = field(default_factory=dict)
    inlined: set[Replica] = field(default_factory=set)
    stored: set[tuple[Replica, str]] = field(default_factory=set)
    is_alone: bool = False
    silent_s: float | None = None


class Session:
    """What a client knows of its servers, and how it talks with them."""

    def __init__(self, target: Any, config: ClientConfig) -> None:
        if not isinstance(target, str) or not target.strip():
            raise errors.ArgumentError(
                f"connect: needed a target such as 'localhost:50051', got {target!r}; pass its address", given=target
            )
        self.target: str = target
        self.config = config
        self.failures = Failures(target, config)
        self.replicas = Replicas(target)
        self._repeats = Repeats(config.named_min_bytes, config.kept_bytes)
        self._budget = BUDGET_START
        self._outputs: OrderedDict[tuple[int, bool], tuple[Any, bytes]] = OrderedDict()

    # -- conversations -----------------------------------------------------------------------------------------------------

    def run(self, task: Task) -> Conversation:
        """Evaluate a task; the answer is its rebuilt results."""
        call = _Call(self._deadline_s(), self._evaluation, task.program, task, self._repeats.find(task))
        answer = yield from self._ask(call)
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        elements = iter(reply.elements)
        decode = partial(_decode, elements)
        return task.rebuild([list(map(decode, item.results)) for item in reply.response.results])

    def explain(self, program: Program, outputs: Sequence[Output], format: str, names: Sequence[str] = ()) -> Conversation:
        """Ask how outputs of a program are derived; the answer is the derivation."""

        def make(call: _Call, replica: Replica) -> tuple[Method, Any]:
            request = pb.ExplainRequest(outputs=map(encode_output, outputs), format=encode_format(format), input_names=names)
            self._tell_program(request, call, replica)
            return EXPLAIN, request

        response = yield from self._ask(_Call(self._deadline_s(), make, program))
        return decode_derivation(response.derivation, format)

    def register(self, program: Program) -> Conversation:
        """Store a program at the server; the answer is its name."""
        request = pb.CreateProgramRequest(program=encode_program(program))
        call = _Call(self._deadline_s(), lambda *_: (CREATE_PROGRAM, request), program)
        response = yield from self._ask(call)
        return response.name

    def capabilities(self) -> Conversation:
        """Ask what the server can do."""
        call = _Call(self._deadline_s(), lambda *_: (GET_CAPABILITIES, pb.GetCapabilitiesRequest()))
        response = yield from self._ask(call)
        return Capabilities(
            server_version=response.server_version,
            api_version=response.api_version,
            primitives=tuple(item.name for item in response.primitives),
            transforms=tuple(response.transforms),
            dtypes=tuple(tensor_pb2.Dtype.Name(item).removeprefix("DTYPE_").lower() for item in response.dtypes),
            layouts=tuple(pb.Layout.Name(item).removeprefix("LAYOUT_").lower() for item in response.layouts),
            limits=dict(response.limits),
            worker_count=response.worker_count,
        )

    def _deadline_s(self) -> float:
        return time.monotonic() + self.config.timeout_s

    # -- requests ----------------------------------------------------------------------------------------------------------

    def _evaluation(self, call: _Call, replica: Replica) -> tuple[Method, Any]:
        """Return the request of an evaluation, as it travels to a replica: over its stream, large tensors apart, if it has one."""
        task = call.task
        assert task is not None
        is_streamed = self.config.sessions and replica.has_streams and not call.is_alone
        writer = TensorWriter(CHUNK_BYTES if is_streamed else None)
        request = pb.EvaluateRequest()
        self._tell_program(request, call, replica)
        parts = [request.SerializeToString()]
        for number, array in enumerate(task.inputs):
            kept = call.named.get(number)
            is_held = kept is not None and kept.name in replica.tensors
            parts.append(encode_input(kept.message.SerializeToString() if kept and is_held else writer.write(array)))
        parts.append(self._encode_outputs(task, writer))
        encoded = b"".join(parts)
        if not is_streamed:
            return EVALUATE, encoded
        if len(encoded) > self.config.message_max_bytes:  # would end the stream, and what others wait for there
            raise self.failures.too_large(f"({len(encoded)} vs. {self.config.message_max_bytes})")
        return EVALUATE_STREAM, Evaluation(encoded, writer.apart)

    def _encode_outputs(self, task: Task, writer: TensorWriter) -> bytes:
        """Return what the message of a request says of outputs, and all behind that; it is the same in each call without seeds."""
        if any(task.seeds):
            outputs = list(map(encode_output, task.outputs))
            for message, seeds in zip(outputs, task.seeds, strict=True):
                for array in seeds:
                    message.seeds.add().MergeFromString(writer.write(array))
            return pb.EvaluateRequest(outputs=outputs, reproducible=task.reproducible).SerializeToString()
        key = (id(task.outputs), task.reproducible)
        found = self._outputs.get(key)
        if found is None:
            outputs = list(map(encode_output, task.outputs))
            encoded = pb.EvaluateRequest(outputs=outputs, reproducible=task.reproducible).SerializeToString()
            found = self._outputs[key] = (task.outputs, encoded)  # what is held keeps its id
            if len(self._outputs) > KNOWN_LIMIT:
                self._outputs.popitem(last=False)
        return found[1]

    def _tell_program(self, request: pb.EvaluateRequest | pb.ExplainRequest, call: _Call, replica: Replica) -> None:
        """Tell a request its program: by name where the replica is taken to hold it, else inline if it is small or was missing."""
        assert call.program is not None
        name = f"programs/{call.program.digest}"
        message = None
        if replica in call.inlined:
            message = encode_program(call.program)
        elif name not in replica.programs:
            message = self._small(call.program)
        if message is None:
            request.program_name = name
        else:
            request.program.CopyFrom(message)

    def _small(self, program: Program) -> program_pb2.Program | None:
        """Return the message of a program that is small enough to travel unasked."""
        if len(program.equations) * 16 > self.config.inline_max_bytes:
            return None
        message = encode_program(program)
        return message if message.ByteSize() <= self.config.inline_max_bytes else None

    def _hedge(self, call: _Call) -> Send | None:
        """Return a request to be sent beside one that takes long; None where the budget does not allow it."""
        if self._budget < 1:
            return None
        self._budget -= 1
        replica = self.replicas.pick()
        return Send(replica, *call.make(call, replica), call.deadline_s - time.monotonic())

    # -- repetition ----------------------------------------------------------------------------------------------------------

    def _ask(self, call: _Call) -> Conversation:
        """Send a request until it is answered, or repeating it is of no use; the answer is the response."""
        began_s = time.monotonic()
        attempts = 0
        replica = None
        while True:
            if time.monotonic() >= call.deadline_s:
                raise self.failures.late()
            replica, answer = yield from self._attempt(call, replica)
            if answer is _AGAIN:
                continue
            attempts += 1
            if not is_failure(answer):
                self._note(call, replica)
                return answer
            error = self.failures.decode(answer, attempts, time.monotonic() - began_s)
            if self._mends(call, replica, answer, error):
                attempts -= 1
                continue
            if isinstance(error, errors.UnreachableError) and call.silent_s is None:
                call.silent_s = time.monotonic() if replica is not None and replica.has_answered else began_s
            pause_s = self._pause(call, replica, error, attempts)
            if pause_s is None or time.monotonic() + pause_s > call.deadline_s:
                raise error from answer if isinstance(answer, BaseException) else None
            pause_s = yield from self._turn_away(replica, error, pause_s)
            replica = None
            if pause_s:
                yield Pause(pause_s)

    def _attempt(self, call: _Call, replica: Replica | None) -> Generator[Step, Any, tuple[Replica | None, Any]]:
        """Do what is next for a call; return the replica that was asked, and what came of it."""
        if not len(self.replicas) or self.replicas.are_stale:
            self.replicas.postpone()
            answer = yield Resolve(is_needed=not len(self.replicas))
            if not len(self.replicas):
                return None, answer
        replica = replica or self.replicas.pick()
        if self.config.connection_age_s and replica.is_old(self.config.connection_age_s):
            yield Renew(replica)
        left_s = call.deadline_s - time.monotonic()
        answer = yield from self._store(call, replica, left_s)
        return replica, (yield self._send(call, replica, left_s)) if answer is None else answer

    def _send(self, call: _Call, replica: Replica, left_s: float) -> Send:
        hedge = partial(self._hedge, call) if call.task is not None and self.config.hedge_after_s is not None else None
        return Send(replica, *call.make(call, replica), left_s, hedge)

    def _note(self, call: _Call, replica: Replica | None) -> None:
        """Note an answer."""
        self._budget = min(self._budget + BUDGET_EARNED, BUDGET_START)
        if replica is not None:
            replica.has_answered = True
            if call.program is not None:
                replica.programs.add(f"programs/{call.program.digest}")

    def _mends(self, call: _Call, replica: Replica | None, answer: Any, error: GradwireError) -> bool:
        """Whether the request is answered if it is sent there again in another way, which is done by noting why."""
        if replica is None:
            return False
        if isinstance(error, errors.ProgramMissingError) and replica not in call.inlined:
            replica.programs.discard(f"programs/{call.program.digest}" if call.program is not None else "")
            call.inlined.add(replica)
            return True
        if isinstance(error, errors.TensorMissingError):
            missing = {kept.name for kept in call.named.values()} & set(error.metadata.get("names", "").split(","))
            for name in missing:
                replica.tensors.discard(name)
            return bool(missing)
        if call.task is None or call.is_alone or not self.config.sessions or not replica.has_streams or not _is_of_stream(answer):
            return False
        # The stream failed, which says nothing of the request: it is asked by itself.
        replica.has_streams = answer.code() is not grpc.StatusCode.UNIMPLEMENTED
        call.is_alone = True
        return True

    def _pause(self, call: _Call, replica: Replica | None, error: GradwireError, attempts: int) -> float | None:
        """Return the seconds to wait before a request is repeated; None where it is not."""
        pause_s: float = min(self.config.retry_first_s * 2 ** (attempts - 1), PAUSE_LIMIT_S) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
        if call.silent_s is not None and isinstance(error, errors.UnreachableError):
            if any(item is not replica and not item.is_resting for item in self.replicas):
                return 0.0  # however long this one was silent
            left_s = call.silent_s + self.config.unreachable_s - time.monotonic()
            return min(pause_s, left_s) if left_s > 0 else None
        if (
            not isinstance(error, (errors.OverloadedError, errors.DrainingError))
            or attempts > self.config.retry_count
            or self._budget < 1
        ):
            return None
        self._budget -= 1
        return max(pause_s, float(error.metadata.get("retry_after_s", 0.0)))

    def _turn_away(self, replica: Replica | None, error: GradwireError, pause_s: float) -> Generator[Step, Any, float]:
        """Let the other replicas be asked, if there are any; return the seconds to wait before that.

        A connection to a server that is stopping is left, for behind one address there may be several servers.
        """
        if replica is not None and isinstance(error, errors.DrainingError) and replica.may_be_left():
            yield Leave(replica)
        if replica is None or len(self.replicas) == 1:
            return pause_s
        if isinstance(error, errors.UnreachableError):
            replica.rest()
            yield Probe(replica)
        else:
            replica.rest(max(pause_s, DRAINING_REST_S if isinstance(error, errors.DrainingError) else 0.0))
        return pause_s if all(item.is_resting for item in self.replicas) else 0.0

    # -- tensors -------------------------------------------------------------------------------------------------------------

    def _store(self, call: _Call, replica: Replica, left_s: float) -> Generator[Step, Any, Any]:
        """Store a tensor of a call that the replica lacks; return None if it lacks none, else a failure, or to go on.

        A tensor that cannot be stored is sent as data instead. So is one that the replica lacks although it was stored for this
        call: it may be that each request reaches another machine, or that there is no room.
        """
        for number, kept in list(call.named.items()):
            name = kept.name
            if name in replica.tensors:
                continue
            if name in replica.arriving:
                yield Pause(ARRIVING_PAUSE_S)
                return _AGAIN
            if not replica.has_tensors or (replica, name) in call.stored:
                del call.named[number]
                continue
            replica.arriving.add(name)
            try:
                answer = yield Send(replica, CREATE_TENSOR, partial(_tensor_messages, kept), left_s)
            finally:
                replica.arriving.discard(name)
            if not is_failure(answer):
                replica.tensors.add(name)
            elif isinstance(answer, grpc.RpcError) and answer.code() is grpc.StatusCode.UNIMPLEMENTED:
                replica.has_tensors = False
            elif isinstance(self.failures.decode(answer), _REPEATED):
                return answer
            call.stored.add((replica, name))
            return _AGAIN
        return None


_AGAIN: Any = object()
_REPEATED = (errors.UnreachableError, errors.OverloadedError, errors.DrainingError)


def is_failure(answer: Any) -> bool:
    """Whether what came of a request is a failure."""
    return isinstance(answer, (grpc.RpcError, pb.Status, GradwireError))


def _is_of_stream(answer: Any) -> bool:
    """Whether a failure is one of a whole stream that a call of its own may escape; not one of the connection, or made here."""
    if not isinstance(answer, grpc.RpcError) or isinstance(answer, Ended):
        return False
    is_told = DETAILS_KEY in dict[Any, Any](answer.trailing_metadata() or ())  # type: ignore[arg-type]  # pairs
    return not is_told and (not is_lost(answer) or answer.code() is grpc.StatusCode.CANCELLED)


# -- messages ----------------------------------------------------------------------------------------------------------------


def _tensor_messages(kept: Kept) -> Iterator[pb.CreateTensorRequest]:
    """Yield the messages that bring a tensor to be stored."""
    first, *rest = slices(memoryview(kept.data))
    head = kept.message
    yield pb.CreateTensorRequest(tensor=tensor_pb2.Tensor(dtype=head.dtype, shape=head.shape, data=bytes(first)))
    for part in rest:
        yield pb.CreateTensorRequest(data=bytes(part))


def _decode(elements: Iterator[Array], result: pb.Result) -> Any:
    """Return a result; an array, dense or sparse, is the caller's own, and can be written."""
    kind = result.WhichOneof("kind")
    if kind == "dense":
        return _own(elements, result.dense, "result")
    return decode_result(result, read=partial(_read if kind == "structured" else _own, elements))


def _read(elements: Iterator[Array], tensor: tensor_pb2.Tensor, where: str) -> Array:
    """Return the array of a tensor, read-only; what came in chunks is taken from where it was put."""
    return decode_tensor(tensor, where, tensor.data or next(elements).data if math.prod(tensor.shape) else None)


def _own(elements: Iterator[Array], tensor: tensor_pb2.Tensor, where: str) -> Array:
    """Return the array of a tensor, which can be written; what came in chunks stays where it was put."""
    data = tensor.data
    array = decode_tensor(tensor, where, bytearray(data) if data or 0 in tensor.shape else next(elements).data)
    array.flags.writeable = True
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
