"""The rpcs of gradwire.v1: take, hand on, give. No mathematics, no gRPC, and nothing whose time grows with the request.

Programs are decoded, checked, differentiated and evaluated by workers; here they stay bytes. What is stored by name is the
response that GetProgram gives, so a worker that misses a program is sent the same bytes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from gradwire_core.errors import (
    ArgumentError,
    InternalError,
    NotFoundError,
    PermissionDeniedError,
    ProgramMissingError,
    ShapeError,
    TensorMissingError,
)
from gradwire_proto.known import check_known
from gradwire_proto.status import decode_status
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.admission import Admission, StreamHandler
from gradwire_server.calls import Call, FindQuick, Handler, Stream
from gradwire_server.chunks import Held
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind, Part
from gradwire_server.idle import Idle, abandon
from gradwire_server.inline import Inline, Tiny
from gradwire_server.limits import Limits
from gradwire_server.programs import StoredProgram
from gradwire_server.requests import Apart, check_program_name, find_apart, find_program_name, outline, parse_request
from gradwire_server.segments import Segment
from gradwire_server.skeletons import Skeletons, request_skeleton, whole_skeleton
from gradwire_server.stores import Stores
from gradwire_server.streams import RPC, Answer, Arrived, Peers, Session
from gradwire_server.tasks import Pool

SERVICE = pb.DESCRIPTOR.services_by_name["DifferentiationService"].full_name

_SMALL_BYTES = 4096  # of a request that is decoded here
_ENTRY_BYTES = 1024  # what the store counts for a program besides its bytes
_DEFAULT_PAGE = 100
_LAST_PAGE = 1000
_PAGE_BYTES = 2**20

_OTHER_FIELDS = 16  # of a request, besides its inputs and outputs
_TENSORS_AT_ONCE = 1000  # that are looked at before others have their turn
_SHOWN_NAMES = 12
_NO_WAIT_S = 1e-3
_PLAIN_COUNT = 1024
_NAMING = {
    Kind.EVALUATE: pb.EvaluateRequest,
    Kind.EVALUATE_IN_CHUNKS: pb.EvaluateRequest,
    Kind.DIFFERENTIATE: pb.DifferentiateRequest,
    Kind.EXPLAIN: pb.ExplainRequest,
}

M = TypeVar("M", bound=Message)


class _Plain(NamedTuple):
    """What is known of EvaluateRequests of one skeleton, whose tensors all have their elements in them.

    Attributes:
        name: of the program that they name.
        is_undivided: whether they were answered without chunks where there could be some, and so always will be: they are handed
            on as those of calls are, so that several can be evaluated as one.
    """

    name: str
    is_undivided: bool


class DifferentiationService:
    """The handlers of all rpcs but those of tensors alone, over a worker pool and what is stored.

    Args:
        config: the bounds of requests.
        pool: runs what is not a matter of bytes.
        stores: programs, and the tensors that requests name.
        capabilities: the serialized GetCapabilitiesResponse.

    Attributes:
        inline_count: how many evaluations no worker was asked for.
        idle: memory of tensors in chunks, between its uses.
    """

    def __init__(self, config: ServerConfig, pool: Pool, stores: Stores, capabilities: bytes) -> None:
        self._config = config
        self._limits = Limits.from_config(config)
        self._inline = Inline(config)
        self.inline_count = 0
        self.idle = Idle()
        self._result_sizes: Skeletons[tuple[int, ...]] = Skeletons(_PLAIN_COUNT)
        self._peers = Peers(config.max_connection_call_count)
        self._held = Held("chunked_bytes", config.chunked_bytes)
        self._pool = pool
        self._capabilities = capabilities
        self._programs = stores.programs
        self._tensors = stores.tensors
        self._plain: Skeletons[_Plain] = Skeletons(_PLAIN_COUNT)
        self._max_field_count = config.max_input_count + config.max_output_count + _OTHER_FIELDS

    def handlers(self) -> dict[str, Handler]:
        """Return the handler of each rpc, by its name."""
        return {
            "CreateProgram": self.create_program,
            "GetProgram": self.get_program,
            "ListPrograms": self.list_programs,
            "DeleteProgram": self.delete_program,
            "Evaluate": self.evaluate,
            "Differentiate": self.differentiate,
            "Explain": self.explain,
            "GetCapabilities": self.get_capabilities,
        }

    def quick_handlers(self) -> dict[str, FindQuick]:
        """Return what finds the answers to some requests at once, by the name of the rpc; its handler answers the others."""
        return {"Evaluate": self.find_quick}

    @property
    def prompt_rpcs(self) -> Collection[str]:
        """The rpcs that are answered promptly however many evaluations come."""
        return ("GetCapabilities",)

    def stream_handlers(self) -> dict[str, StreamHandler]:
        """Return the handler of each rpc that streams, by its name."""
        return {RPC: self.evaluate_stream}

    async def create_program(self, message: bytes, call: Call) -> bytes:
        """Store a program."""
        return (await self._run(Kind.CREATE_PROGRAM, message, call)).response

    async def evaluate(self, message: bytes, call: Call) -> bytes:
        """Evaluate outputs of a program."""
        self._limits.check_request(len(message))
        known = self._plain.find(message)
        if known is not None:
            return (await self._run(Kind.EVALUATE, message, call, known=known)).response
        apart = await self.find_apart(message)
        for tensor in apart:
            if not tensor.name:
                raise _no_elements(tensor)
        answer = await self._run(Kind.EVALUATE, message, call, self._find_tensors(call.identity, apart))
        if not apart:
            self._note(message, is_undivided=False)
        return answer.response

    def find_quick(self, message: bytes, identity: str) -> Callable[[bytes | memoryview], bytes] | None:
        """Return what answers a serialized EvaluateRequest of an identity at once; None where a worker must."""
        tiny = self.find_tiny(message, identity)
        return None if tiny is None else tiny.answer

    def find_tiny(self, message: bytes | memoryview, identity: str) -> Tiny | None:
        """Return what answers a serialized EvaluateRequest of an identity at once; None where a worker must."""
        tiny = self._inline.find(message)
        if tiny is None or self._programs.get(identity, tiny.digest) is None:
            return None
        self.inline_count += 1
        return tiny

    async def evaluate_stream(self, stream: Stream, call: Call, admission: Admission) -> None:
        """Evaluate outputs of programs, many requests over one stream."""
        await Session(stream, call, admission, self, self._config, self._held, self._peers, self.idle).run()

    async def evaluate_in_chunks(self, message: bytes, call: Call, apart: Sequence[Apart], arrived: Arrived) -> Answer:
        """Evaluate outputs of a program for a session."""
        self._limits.check_request(len(message))
        stored = iter(self._find_tensors(call.identity, [tensor for tensor in apart if tensor.name]) if apart else ())
        began_s = time.monotonic()
        came = iter(await arrived())
        segments = [next(stored) if tensor.name else next(came) for tensor in apart]
        waited_s = time.monotonic() - began_s
        if waited_s > _NO_WAIT_S:
            call = dataclasses.replace(call, timeout_s=call.timeout_s - waited_s)
        known = None if segments else self._plain.find(message)
        if known is not None and known.is_undivided:
            return await self._run(Kind.EVALUATE, message, call, known=known)
        answer = await self._run_reusing(message, call, segments, known)
        if not (segments or answer.segments):
            self._note(message, is_undivided=True)
        return answer

    async def _run_reusing(self, message: bytes, call: Call, segments: Sequence[Segment], known: _Plain | None) -> Answer:
        """Have a worker answer a request in chunks, in memory used before for results of the sizes that it is known for."""
        spares = self.idle.take_all(call.identity, self._result_sizes.find(message) or ())
        left = {spare.mark: spare for spare in spares}
        try:
            answer = await self._run(Kind.EVALUATE_IN_CHUNKS, message, call, (*segments, *spares), known=known)
            found = []
            for segment in answer.segments:
                ours = left.pop(segment.mark, segment)
                if ours is not segment:
                    segment.close()
                found.append(ours)
        except BaseException:
            for spare in spares:
                abandon(spare)
            raise
        for spare in left.values():
            self.idle.give(call.identity, spare)
        if found and all(segment.mark for segment in found):
            skeleton = request_skeleton(message) or whole_skeleton(message)
            if skeleton is not None:
                self._result_sizes.put(skeleton, tuple(map(len, found)))
        return Answer(answer.response, found)

    def _note(self, message: bytes, *, is_undivided: bool) -> None:
        """Take note of an EvaluateRequest that was answered, and had all elements in it."""
        skeleton = request_skeleton(message)
        if skeleton is not None:
            name = find_program_name(pb.EvaluateRequest, message, self._max_field_count)
            self._plain.put(skeleton, _Plain(name, is_undivided))

    async def find_apart(self, message: bytes) -> list[Apart]:
        """Return the tensors of a serialized EvaluateRequest whose elements are not in it, checked against the limits."""
        if self._plain.find(message) is not None:
            return []
        found = outline(pb.EvaluateRequest, message, self._max_field_count)
        apart: list[Apart] = []
        for count, tensor in enumerate(find_apart(message, found), start=1):
            if count % _TENSORS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if tensor is not None:
                self._limits.check_type(tensor.type)
                apart.append(tensor)
                self._limits.check_apart(len(apart))
        return apart

    async def differentiate(self, message: bytes, call: Call) -> bytes:
        """Return a derivative program."""
        return (await self._run(Kind.DIFFERENTIATE, message, call)).response

    async def explain(self, message: bytes, call: Call) -> bytes:
        """Return how outputs of a program are derived and computed."""
        return (await self._run(Kind.EXPLAIN, message, call)).response

    async def get_program(self, message: bytes, call: Call) -> bytes:
        """Return a stored program."""
        name = _parse_small(pb.GetProgramRequest, message).name
        found = self._programs.get(call.identity, check_program_name(name))
        if found is None:
            raise _not_found(name)
        return found.response

    async def list_programs(self, message: bytes, call: Call) -> bytes:
        """List stored programs by their names; the token of a page is the last name of the page before."""
        request = _parse_small(pb.ListProgramsRequest, message)
        count = _page_size(request.page_size)
        last = check_program_name(request.page_token) if request.page_token else ""
        programs = self._programs.items(call.identity)
        found = heapq.nsmallest(count + 1, (digest for digest in programs if digest > last))
        response = pb.ListProgramsResponse()
        size = 0
        for digest in found[:count]:
            summary = programs[digest].summary
            size += len(summary)
            if response.programs and size > _PAGE_BYTES:
                break
            response.programs.add().ParseFromString(summary)
        if len(response.programs) < len(found):
            response.next_page_token = response.programs[-1].name
        return response.SerializeToString()

    async def delete_program(self, message: bytes, call: Call) -> bytes:
        """Forget a stored program."""
        name = _parse_small(pb.DeleteProgramRequest, message).name
        digest = check_program_name(name)
        if not await self._programs.discard(call.identity, digest):
            raise _not_found(name) if self._programs.get(call.identity, digest) is None else _not_own(name)
        return pb.DeleteProgramResponse().SerializeToString()

    async def get_capabilities(self, message: bytes, _call: Call) -> bytes:
        """Return what this server is and can do."""
        _parse_small(pb.GetCapabilitiesRequest, message)
        return self._capabilities

    async def _run(
        self, kind: Kind, message: bytes, call: Call, segments: Sequence[Segment] = (), known: _Plain | None = None
    ) -> Answer:
        """Have a worker answer a request, sending it the program if it asks for it.

        A worker may hold a named program that was deleted here, or that another identity stored: so its caller must have
        stored it before a worker is even asked, lest the answer, or how long it takes, tells that it exists.
        """
        if known is not None:
            self._find(call.identity, known.name)
        else:
            self._limits.check_request(len(message))
        if known is None and kind in _NAMING:
            named = find_program_name(_NAMING[kind], message, self._max_field_count)
            if named:
                self._find(call.identity, named)
        deadline = time.monotonic() + call.timeout_s
        head = (call.request_id.encode(), message)
        answer = await self._ask(Frame(kind, (*head, b"", *segments) if segments else head), call.timeout_s, call)
        if answer.kind is Kind.MISSING:
            stored = self._find(call.identity, _bytes(answer.parts[0]).decode())
            answer = await self._ask(Frame(kind, (*head, stored.response, *segments)), deadline - time.monotonic(), call)
        if answer.kind is Kind.ERROR:
            raise decode_status(Status.FromString(_bytes(answer.parts[0])))
        if answer.kind is not Kind.RESULT:
            raise InternalError(f"worker: needed a result, got {answer.kind.name}; report the request id")
        found, program = await self._accept(call.identity, answer, must_store=kind is Kind.CREATE_PROGRAM)
        if answer.prediction is not None and not (segments or found.segments):
            digest = check_program_name(_bytes(answer.parts[0]).decode())
            self._inline.learn(message, digest, program.response, found.response, answer.prediction)
        return found

    async def _ask(self, task: Frame, timeout_s: float, call: Call) -> Frame:
        """Return the answer of a worker to a task of a call."""
        if call.span is None:
            return await self._pool.run(task, timeout_s)
        began_ns = time.time_ns()
        answer = await self._pool.run(task, timeout_s)
        call.span.add_task(began_ns, answer)
        return answer

    async def _accept(self, identity: str, answer: Frame, *, must_store: bool) -> tuple[Answer, StoredProgram]:
        """Return the answer in a result and its program, which is stored if it came with the request, and else must be still."""
        name, response, *stored = (_bytes(part) for part in answer.parts if not isinstance(part, Segment))
        if any(stored):
            program = StoredProgram(*stored)
            size = sum(map(len, stored)) + _ENTRY_BYTES
            if must_store:
                self._limits.check_stored(size)
            await self._programs.put(identity, check_program_name(name.decode()), program, size)
        else:
            program = self._find(identity, name.decode())
        return Answer(response, tuple(answer.segments)), program

    def _find_tensors(self, identity: str, named: Sequence[Apart]) -> list[Segment]:
        """Return the elements of tensors that are named.

        Raises:
            TensorMissingError: the identity sees no tensors of some names.
            ShapeError: one is of another type.
        """
        found = [self._tensors.get(identity, tensor.name) for tensor in named]
        missing = [tensor.name for tensor, stored in zip(named, found, strict=True) if stored is None]
        if missing:
            names = list(dict.fromkeys(missing))[:_SHOWN_NAMES]
            text = f"tensors: needed {len(missing)} that this server does not hold, got their names; send them, then repeat"
            raise TensorMissingError(text, names=",".join(names))
        segments = []
        for tensor, stored in zip(named, found, strict=True):
            assert stored is not None
            if stored.type != tensor.type:
                text = f"{tensor.where}: needed {stored.type}, as it is stored, got {tensor.type}; correct dtype and shape"
                raise ShapeError(text, where=tensor.where, needed=stored.type, given=tensor.type)
            segments.append(stored.segment)
        return segments

    def _find(self, identity: str, name: str) -> StoredProgram:
        found = self._programs.get(identity, check_program_name(name))
        if found is None:
            raise ProgramMissingError(f"program: needed one that this server holds, got {name}; send it, then repeat", name=name)
        return found


def _parse_small(kind: type[M], message: bytes) -> M:
    """Return a small request, of which no field may be unknown."""
    if len(message) > _SMALL_BYTES:
        name, size = kind.DESCRIPTOR.name, len(message)
        raise ArgumentError(f"{name}: needed at most {_SMALL_BYTES} bytes, got {size}; send its fields only", given=size)
    request = parse_request(kind, message)
    check_known(request)
    return request


def _page_size(given: int) -> int:
    if given < 0:
        raise ArgumentError(f"page_size: needed 0 or more, got {given}; leave it unset for {_DEFAULT_PAGE}", given=given)
    return min(given or _DEFAULT_PAGE, _LAST_PAGE)


def _not_own(name: str) -> PermissionDeniedError:
    text = f"program: needed one of the caller's own, got {name}, which the server keeps for everyone; ask the operator"
    return PermissionDeniedError(text, name=name)


def _not_found(name: str) -> NotFoundError:
    return NotFoundError(f"program: needed one that this server holds, got {name}; send it with CreateProgram", name=name)


def _no_elements(tensor: Apart) -> ArgumentError:
    needed = tensor.type.nbytes
    text = f"{tensor.where}: needed {needed} bytes for {tensor.type}, got 0; send every element once, without padding"
    return ArgumentError(text, where=tensor.where, needed=needed, given=0)


def _bytes(part: Part) -> bytes:
    assert not isinstance(part, Segment)
    return bytes(part)
