"""What a client and its server say to each other, and when it is said again. Nothing here does I/O.

The conversation is written once, as a generator: it yields a `Send` or a `Pause` and is sent what came of it, a response or an
error. `gradwire._remote` drives it over a channel.

    named, unless small and new here --> answered
         |                                  ^
         '--> PROGRAM_MISSING --> inline ---'      once a call; unseen by the user
    OVERLOADED, DRAINING --> pause --> again       while the call's time and the client's budget of repetitions last
    no answer at all     --> pause --> again       for `unreachable_s`, then UnreachableError
"""

from __future__ import annotations

import random
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from gradwire._config import ClientConfig
from gradwire._task import Task
from gradwire_core import errors
from gradwire_core.engine import Output
from gradwire_core.errors import GradwireError
from gradwire_core.program import Program
from gradwire_core.structure.structured import StructuredJacobian
from gradwire_proto.evaluation import decode_result, encode_output
from gradwire_proto.explanation import decode_derivation, encode_format
from gradwire_proto.program import encode_program
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2, tensor_pb2

KNOWN_LIMIT = 4096  # names of programs that the server is taken to hold
PAUSE_LIMIT_S = 2.0
BUDGET_START = 10.0  # repetitions a client may spend at once; each answer earns a tenth of one
BUDGET_EARNED = 0.1
DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Send:
    """A request to be sent, and the seconds it may take."""

    method: Method
    request: Any
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds to wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Method:
    """An rpc: its name, and the class of its response."""

    name: str
    response: Any


EVALUATE = Method("Evaluate", pb.EvaluateResponse)
EXPLAIN = Method("Explain", pb.ExplainResponse)
CREATE_PROGRAM = Method("CreateProgram", pb.CreateProgramResponse)
GET_CAPABILITIES = Method("GetCapabilities", pb.GetCapabilitiesResponse)
METHODS = (EVALUATE, EXPLAIN, CREATE_PROGRAM, GET_CAPABILITIES)

Conversation = Generator[Send | Pause, Any, Any]


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


class Session:
    """What a client knows of its server, and how it talks with it."""

    def __init__(self, target: Any, config: ClientConfig) -> None:
        if not isinstance(target, str) or not target.strip():
            raise errors.ArgumentError(
                f"connect: needed a target such as 'localhost:50051', got {target!r}; pass its address", given=target
            )
        self.target: str = target
        self.config = config
        self._known: OrderedDict[str, None] = OrderedDict()
        self._budget = BUDGET_START

    # -- conversations -----------------------------------------------------------------------------------------------------

    def run(self, task: Task) -> Conversation:
        """Evaluate a task; the answer is its rebuilt results."""
        request = pb.EvaluateRequest(
            inputs=map(encode_tensor, task.inputs),
            outputs=map(encode_output, task.outputs, task.seeds),
            reproducible=task.reproducible,
        )
        response = yield from self._ask(EVALUATE, request, task.program)
        return task.rebuild([list(map(_decode, item.results)) for item in response.results])

    def explain(self, program: Program, outputs: Sequence[Output], format: str, names: Sequence[str] = ()) -> Conversation:
        """Ask how outputs of a program are derived; the answer is the derivation."""
        request = pb.ExplainRequest(outputs=map(encode_output, outputs), format=encode_format(format), input_names=names)
        response = yield from self._ask(EXPLAIN, request, program)
        return decode_derivation(response.derivation, format)

    def register(self, program: Program) -> Conversation:
        """Store a program at the server; the answer is its name."""
        request = pb.CreateProgramRequest(program=encode_program(program))
        response = yield from self._repeat(CREATE_PROGRAM, request, time.monotonic() + self.config.timeout_s)
        self._remember(response.name)
        return response.name

    def capabilities(self) -> Conversation:
        """Ask what the server can do."""
        deadline_s = time.monotonic() + self.config.timeout_s
        response = yield from self._repeat(GET_CAPABILITIES, pb.GetCapabilitiesRequest(), deadline_s)
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

    def _ask(self, method: Method, request: pb.EvaluateRequest | pb.ExplainRequest, program: Program) -> Conversation:
        """Send a request about a program, named where the server is taken to hold it; the answer is the response."""
        request.program_name = name = f"programs/{program.digest}"
        if name not in self._known:
            small = self._small(program)
            if small is not None:
                request.program.CopyFrom(small)
        deadline_s = time.monotonic() + self.config.timeout_s
        try:
            response = yield from self._repeat(method, request, deadline_s)
        except errors.ProgramMissingError:
            request.program.CopyFrom(encode_program(program))
            response = yield from self._repeat(method, request, deadline_s)
        self._remember(name)
        return response

    def _small(self, program: Program) -> program_pb2.Program | None:
        """Return the message of a program that is small enough to travel unasked."""
        if len(program.equations) * 16 > self.config.inline_max_bytes:
            return None
        message = encode_program(program)
        return message if message.ByteSize() <= self.config.inline_max_bytes else None

    def _remember(self, name: str) -> None:
        self._known[name] = None
        if len(self._known) > KNOWN_LIMIT:
            self._known.popitem(last=False)

    # -- repetition ----------------------------------------------------------------------------------------------------------

    def _repeat(self, method: Method, request: Any, deadline_s: float) -> Conversation:
        """Send a request until it is answered, or repeating it is of no use."""
        began_s = time.monotonic()
        for attempt in range(10_000):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise self.late()
            answer = yield Send(method, request, left_s)
            if not isinstance(answer, grpc.RpcError):
                self._budget = min(self._budget + BUDGET_EARNED, BUDGET_START)
                return answer
            error = self.decode_error(answer, attempt + 1, time.monotonic() - began_s)
            pause_s = self._pause(error, attempt, began_s)
            if pause_s is None or time.monotonic() + pause_s > deadline_s:
                raise error from answer
            yield Pause(pause_s)
        raise AssertionError

    def _pause(self, error: GradwireError, attempt: int, began_s: float) -> float | None:
        """Return the seconds to wait before a request is repeated; None where it is not."""
        pause_s: float = min(self.config.retry_first_s * 2**attempt, PAUSE_LIMIT_S) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
        if isinstance(error, errors.UnreachableError):
            left_s = began_s + self.config.unreachable_s - time.monotonic()
            return min(pause_s, left_s) if left_s > 0 else None
        if (
            not isinstance(error, (errors.OverloadedError, errors.DrainingError))
            or attempt >= self.config.retry_count
            or self._budget < 1
        ):
            return None
        self._budget -= 1
        return max(pause_s, float(error.metadata.get("retry_after_s", 0.0)))

    # -- errors ----------------------------------------------------------------------------------------------------------------

    def decode_error(self, error: Any, attempts: int, elapsed_s: float) -> GradwireError:
        """Return the error that the server raised, or what a failure of the transport means here."""
        for key, value in error.trailing_metadata() or ():
            if key == DETAILS_KEY:
                return decode_status(Status.FromString(value))
        code, details = error.code(), error.details() or ""
        if code in _TRANSPORT:
            return _TRANSPORT[code](self, details, attempts, elapsed_s)
        text = f"{self.target}: needed an answer of gradwire, got {code.name} ({details}); look into the server's log"
        return errors.InternalError(text, target=self.target, code=code.name)

    def late(self, *_: Any) -> GradwireError:
        limit_s = self.config.timeout_s
        text = f"{self.target}: needed an answer within {limit_s:g} s, got none; raise timeout_s or ask for less"
        return errors.DeadlineError(text, target=self.target, timeout_s=limit_s)

    def unreachable(self, details: str, attempts: int, elapsed_s: float) -> GradwireError:
        if _is_distrust(details):
            text = (
                f"{self.target}: needed a server with a certificate for that name from a trusted authority, got one without "
                f"({_brief(details)}); check the name, and ca_file"
            )
            return errors.UnreachableError(text, target=self.target, attempts=attempts)
        tries = f"{attempts} {'try' if attempts == 1 else 'tries'} over {elapsed_s:.1f} s"
        text = (
            f"{self.target}: needed a gradwire server, got no connection in {tries} ({_brief(details)}); "
            f"check the address, and that the server runs: gradwire serve --listen {self.target}"
        )
        return errors.UnreachableError(text, target=self.target, attempts=attempts)

    def not_gradwire(self, details: str, *_: Any) -> GradwireError:
        text = f"{self.target}: needed a gradwire server, got an answer of something else ({_brief(details)}); check the address"
        return errors.UnreachableError(text, target=self.target, attempts=1)

    def too_large(self, details: str, *_: Any) -> GradwireError:
        sizes = re.search(r"\((\d+) vs\. (\d+)\)", details)  # what gRPC says on either side
        given, limit = sizes.groups() if sizes else ("a larger one", self.config.message_max_bytes)
        text = f"{self.target}: needed messages of at most {limit} bytes, got {given}; send or ask for less at once"
        return errors.LimitError(text, target=self.target, limit=limit, given=given)

    def cancelled(self, *_: Any) -> GradwireError:
        return errors.CancelledError(f"{self.target}: the call was cancelled before its answer; call again", target=self.target)

    def unauthenticated(self, details: str, *_: Any) -> GradwireError:
        text = f"{self.target}: needed valid credentials, got none that are ({_brief(details)}); bring a valid token"
        return errors.UnauthenticatedError(text, target=self.target)


_TRANSPORT: dict[grpc.StatusCode, Callable[[Session, str, int, float], GradwireError]] = {
    grpc.StatusCode.UNAVAILABLE: Session.unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Session.late,
    grpc.StatusCode.CANCELLED: Session.cancelled,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Session.too_large,
    grpc.StatusCode.UNIMPLEMENTED: Session.not_gradwire,
    grpc.StatusCode.UNAUTHENTICATED: Session.unauthenticated,
}


_is_distrust = re.compile("CERTIFICATE_VERIFY_FAILED|Hostname Verification|Peer name .* is not in peer certificate").search


def _brief(details: str) -> str:
    """Return the cause at the end of gRPC's account of a failure."""
    return details.rpartition("last error: ")[2].strip()[:200] or "no reason given"


def _decode(result: pb.Result) -> Any:
    """Return a result; an array, dense or sparse, is the caller's own, and can be written."""
    found = decode_result(result)
    if isinstance(found, StructuredJacobian):
        return found
    return found.astype(found.dtype.newbyteorder("="), copy=True)
