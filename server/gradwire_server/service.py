"""The rpcs of gradwire.v1: take, hand on, give. No mathematics, no gRPC, and nothing whose time grows with the request.

Programs are decoded, checked, differentiated and evaluated by workers; here they stay bytes. What is stored by name is the
response that GetProgram gives, so a worker that misses a program is sent the same bytes.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from gradwire_core.errors import ArgumentError, InternalError, NotFoundError, ProgramMissingError
from gradwire_proto.known import check_known
from gradwire_proto.status import decode_status
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.cache import RecentlyUsed
from gradwire_server.calls import Call, Handler
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind
from gradwire_server.limits import Limits
from gradwire_server.metrics import Metrics
from gradwire_server.pool import WorkerPool
from gradwire_server.requests import check_program_name, parse_request

SERVICE = pb.DESCRIPTOR.services_by_name["DifferentiationService"].full_name

_SMALL_BYTES = 4096  # of a request that is decoded here
_ENTRY_BYTES = 1024  # what the store counts for a program besides its bytes
_DEFAULT_PAGE = 100
_LAST_PAGE = 1000
_PAGE_BYTES = 2**20

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """A program as it is kept: the serialized GetProgramResponse, and the serialized ProgramSummary."""

    response: bytes
    summary: bytes


class DifferentiationService:
    """The handlers of all rpcs, over a worker pool and a store of programs.

    Args:
        config: the bounds of requests and of the store.
        pool: runs what is not a matter of bytes.
        metrics: told of the size of the store.
        capabilities: the serialized GetCapabilitiesResponse.
    """

    def __init__(self, config: ServerConfig, pool: WorkerPool, metrics: Metrics, capabilities: bytes) -> None:
        self._limits = Limits.from_config(config)
        self._pool = pool
        self._metrics = metrics
        self._capabilities = capabilities
        self._programs: RecentlyUsed[StoredProgram] = RecentlyUsed(config.program_store_bytes)

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

    async def create_program(self, message: bytes, call: Call) -> bytes:
        """Store a program."""
        return await self._run(Kind.CREATE_PROGRAM, message, call)

    async def evaluate(self, message: bytes, call: Call) -> bytes:
        """Evaluate outputs of a program."""
        return await self._run(Kind.EVALUATE, message, call)

    async def differentiate(self, message: bytes, call: Call) -> bytes:
        """Return a derivative program."""
        return await self._run(Kind.DIFFERENTIATE, message, call)

    async def explain(self, message: bytes, call: Call) -> bytes:
        """Return how outputs of a program are derived and computed."""
        return await self._run(Kind.EXPLAIN, message, call)

    async def get_program(self, message: bytes, _call: Call) -> bytes:
        """Return a stored program."""
        name = _parse_small(pb.GetProgramRequest, message).name
        found = self._programs.get(check_program_name(name))
        if found is None:
            raise _not_found(name)
        return found.response

    async def list_programs(self, message: bytes, _call: Call) -> bytes:
        """List stored programs by their names; the token of a page is the last name of the page before."""
        request = _parse_small(pb.ListProgramsRequest, message)
        count = _page_size(request.page_size)
        last = check_program_name(request.page_token) if request.page_token else ""
        found = heapq.nsmallest(count + 1, (digest for digest in self._programs if digest > last))
        response = pb.ListProgramsResponse()
        size = 0
        for digest in found[:count]:
            summary = self._programs[digest].summary
            size += len(summary)
            if response.programs and size > _PAGE_BYTES:
                break
            response.programs.add().ParseFromString(summary)
        if len(response.programs) < len(found):
            response.next_page_token = response.programs[-1].name
        return response.SerializeToString()

    async def delete_program(self, message: bytes, _call: Call) -> bytes:
        """Forget a stored program."""
        name = _parse_small(pb.DeleteProgramRequest, message).name
        if not self._programs.discard(check_program_name(name)):
            raise _not_found(name)
        self._count_programs()
        return pb.DeleteProgramResponse().SerializeToString()

    async def get_capabilities(self, message: bytes, _call: Call) -> bytes:
        """Return what this server is and can do."""
        _parse_small(pb.GetCapabilitiesRequest, message)
        return self._capabilities

    async def _run(self, kind: Kind, message: bytes, call: Call) -> bytes:
        """Have a worker answer a request, sending it the program if it asks for it."""
        self._limits.check_request(len(message))
        deadline = time.monotonic() + call.timeout_s
        task = Frame(kind, (call.request_id.encode(), message))
        answer = await self._pool.run(task, call.timeout_s)
        if answer.kind is Kind.MISSING:
            stored = self._find(answer.parts[0].decode())
            task = Frame(kind, (*task.parts, stored.response))
            answer = await self._pool.run(task, deadline - time.monotonic())
        if answer.kind is Kind.ERROR:
            raise decode_status(Status.FromString(answer.parts[0]))
        if answer.kind is not Kind.RESULT:
            raise InternalError(f"worker: needed a result, got {answer.kind.name}; report the request id")
        return self._accept(answer)

    def _accept(self, answer: Frame) -> bytes:
        """Return the response of a result. A worker may remember a named program that was deleted here: then it is missing."""
        name, response, *stored = answer.parts
        if stored:
            self._store(check_program_name(name.decode()), StoredProgram(*stored))
        else:
            self._find(name.decode())
        return response

    def _store(self, digest: str, program: StoredProgram) -> None:
        self._programs.put(digest, program, len(program.response) + len(program.summary) + _ENTRY_BYTES)
        self._count_programs()

    def _find(self, name: str) -> StoredProgram:
        found = self._programs.get(check_program_name(name))
        if found is None:
            raise ProgramMissingError(f"program: needed one that this server holds, got {name}; send it, then repeat", name=name)
        return found

    def _count_programs(self) -> None:
        self._metrics.set_stored_programs(len(self._programs), self._programs.total_bytes)


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


def _not_found(name: str) -> NotFoundError:
    return NotFoundError(f"program: needed one that this server holds, got {name}; send it with CreateProgram", name=name)
