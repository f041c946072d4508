"""Sessions: many requests over one stream, side by side, each answered by its id as it finishes. No gRPC.

    reader --parse--> request --admit, evaluate--> outbox --> writer

The reader holds a request back while as many are under way as may be, so that flow control holds the caller back. A request
is under way until its answer is written: so a caller that does not read is held back too, and the outbox is bounded.
"""

from __future__ import annotations

import asyncio
import functools
import math
import struct
from collections import deque
from typing import Any, NamedTuple

from gradwire_core.errors import ArgumentError, GradwireError
from gradwire_proto.status import encode_status
from gradwire_server.admission import Admission, draining
from gradwire_server.calls import Call, Handler, Stream, is_request_id, make_request_id
from gradwire_server.wire import FIXED64, LENGTH, VARINT, WireError, encode_varint, fields

RPC = "EvaluateStream"

_ID, _EVALUATE, _CHUNK, _CANCEL, _TIMEOUT, _REQUEST_ID = range(1, 7)
_WRITTEN_AS = {_ID: VARINT, _EVALUATE: LENGTH, _CHUNK: LENGTH, _CANCEL: LENGTH, _TIMEOUT: FIXED64, _REQUEST_ID: LENGTH}
_ANSWER, _ERROR = 2, 4
_ID_TAG = bytes((_ID << 3 | VARINT,))
_DOUBLE = struct.Struct("<d")
_LONGEST_S = 1e7


class Part(NamedTuple):
    """A message of the caller, taken apart.

    Attributes:
        id: of the request that it is about.
        kind: the number of the field that says what it does.
        content: what stands in that field.
        timeout_s: as in the message.
        request_id: as in the message.
        unknown: the number of a field that is not known, or 0.
    """

    id: int
    kind: int
    content: bytes
    timeout_s: float
    request_id: str
    unknown: int


class Session:
    """The requests of one stream.

    Args:
        stream: its messages.
        call: what is known of it.
        admission: lets each request in and accounts for it.
        evaluate: answers a request.
        request_count: the most requests that are under way at a time.
    """

    def __init__(self, stream: Stream, call: Call, admission: Admission, evaluate: Handler, request_count: int) -> None:
        self._stream = stream
        self._call = call
        self._admission = admission
        self._evaluate = evaluate
        self._room = asyncio.Semaphore(request_count)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._outbox: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._outbox_filled = asyncio.Event()
        self._has_read_all = False
        self._is_draining = False
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Answer requests until the caller has ended its side and has its answers, or the server drains.

        However this ends, no request of the stream runs on.

        Raises:
            ArgumentError: the caller sent what no caller may send.
            DrainingError: the server drains, and all that was read is answered.
        """
        forget = self._admission.gate.listen(self._drain)
        self._start(self._read_all())
        self._start(self._write_all())
        try:
            await self._ended
        finally:
            forget()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Any) -> asyncio.Task[None]:
        """Start a part of the session; what it raises ends the whole."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        return task

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._ended.done():
            self._ended.set_exception(error)

    def _drain(self) -> None:
        self._is_draining = True
        self._end_if_over()

    def _end_if_over(self) -> None:
        """End the session once nothing is under way and nothing more will be."""
        if self._running or self._ended.done():
            return
        if self._has_read_all:
            self._ended.set_result(None)
        elif self._is_draining:
            self._ended.set_exception(draining())

    async def _read_all(self) -> None:
        while (message := await self._stream.read()) is not None:
            part = parse(message)
            if part.kind == _EVALUATE:
                if part.id in self._running:
                    text = f"EvaluateStreamRequest: needed an id that is not under way, got {part.id}; number requests anew"
                    raise ArgumentError(text, given=part.id)
                await self._room.acquire()
                self._running[part.id] = task = self._start(self._answer(part))
                task.add_done_callback(functools.partial(self._forget, part.id))
            elif part.kind == _CANCEL:
                cancelled = self._running.get(part.id)
                if cancelled is not None:
                    cancelled.cancel()
                    await asyncio.wait((cancelled,))
            else:
                text = (
                    f"EvaluateStreamRequest: needed a chunk of a tensor that is announced, got one of id {part.id}; send no other"
                )
                raise ArgumentError(text, given=part.id)
        self._has_read_all = True
        self._end_if_over()

    def _forget(self, id: int, _task: asyncio.Task[None]) -> None:
        """Let a request go that is answered or cancelled."""
        del self._running[id]
        self._room.release()
        self._end_if_over()

    async def _answer(self, part: Part) -> None:
        """Answer one request."""
        request_id = part.request_id or make_request_id()
        try:
            call = _check(part, self._call, request_id)
            response = await self._admission.answer(RPC, self._evaluate, part.content, call)
        except GradwireError as error:
            status = encode_status(error, request_id)  # the same on the wire as the Status of gradwire.v1
            await self._write(encode_part(part.id, _ERROR, status.SerializeToString()))
        else:
            await self._write(encode_part(part.id, _ANSWER, response))

    async def _write(self, message: bytes) -> None:
        """Return once a message is on its way."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outbox.append((message, written))
        self._outbox_filled.set()
        await written

    async def _write_all(self) -> None:
        while True:
            await self._outbox_filled.wait()
            while self._outbox:
                message, written = self._outbox.popleft()
                if not written.cancelled():
                    await self._stream.write(message)
                if not written.done():
                    written.set_result(None)
            self._outbox_filled.clear()


def parse(message: bytes) -> Part:
    """Return a message of the caller, taken apart.

    Raises:
        ArgumentError: it is malformed, or of no kind.
    """
    try:
        part = _parse(message)
    except (WireError, UnicodeDecodeError):
        text = f"EvaluateStreamRequest: needed a well-formed message, got {len(message)} bytes that are none; encode it again"
        raise ArgumentError(text) from None
    if part.kind != _EVALUATE:
        unknown = part.unknown or (part.kind == _CANCEL and part.content and part.content[0] >> 3)
        if unknown:
            raise _unknown_field(unknown)
        if not part.kind:
            raise ArgumentError("EvaluateStreamRequest: needed evaluate, chunk or cancel, got none; set one")
    return part


def _parse(message: bytes) -> Part:
    id = kind = unknown = 0
    content, timeout_s, request_id = b"", 0.0, ""
    for number, written_as, value, place in fields(message):
        if _WRITTEN_AS.get(number) != written_as:
            unknown = number
        elif number == _ID:
            id = value
        elif number == _TIMEOUT:
            (timeout_s,) = _DOUBLE.unpack_from(message, value)
        elif number == _REQUEST_ID:
            request_id = message[value:place].decode()
        elif kind:
            raise WireError
        else:
            kind, content = number, message[value:place]
    return Part(id, kind, content, timeout_s, request_id, unknown)


def encode_part(id: int, kind: int, content: bytes) -> bytes:
    """Return a message to the caller: about a request, of a kind, with what stands there."""
    return b"".join((_ID_TAG, encode_varint(id), bytes((kind << 3 | LENGTH,)), encode_varint(len(content)), content))


def _unknown_field(number: int) -> ArgumentError:
    where = "EvaluateStreamRequest"
    text = f"{where}: needed fields that this server knows, got the unknown field {number}; unset it or use a newer server"
    return ArgumentError(text, where=where, given=number)


def _check(part: Part, stream: Call, request_id: str) -> Call:
    """Return what is known of a request besides its content.

    Raises:
        ArgumentError: something of it is not as it must be.
    """
    if part.unknown:
        raise _unknown_field(part.unknown)
    if not is_request_id(request_id):
        text = "request_id: needed at most 64 letters, digits, dots, dashes and underscores, got others; leave it empty, or rename"
        raise ArgumentError(text)
    given = part.timeout_s
    if not 0 <= given < math.inf:
        raise ArgumentError(
            f"timeout_s: needed 0 or more seconds, got {given}; leave it unset for no other than the stream's", given=given
        )
    return Call(request_id, min(given, _LONGEST_S) or stream.timeout_s, stream.identity)
