"""Sessions: many requests over one stream, side by side, each answered by its id as it finishes. No gRPC.

    reader --split, parse--> request --admit, await chunks, evaluate--> outbox --join--> writer

The reader holds a request back while as many are under way as may be, so that flow control holds the caller back. A request
is under way until its answer is written: so a caller that does not read is held back too, and the outbox is bounded. What is
answered at once is written before anything else is waited for, and in a moment in any case: others have their turn then. Answers
of one turn of the event loop are joined; none waits for more.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from gradwire_core.errors import ArgumentError, GradwireError
from gradwire_proto import joined
from gradwire_proto.status import encode_status
from gradwire_server.admission import Admission, draining
from gradwire_server.calls import Call, Stream, make_request_id
from gradwire_server.chunks import Arriving, Held, cut
from gradwire_server.config import ServerConfig
from gradwire_server.idle import Idle
from gradwire_server.inline import Tiny
from gradwire_server.parts import ANSWER, CHUNK, ERROR, EVALUATE, Part, check_part, encode_part, encode_pieces, parse
from gradwire_server.requests import Apart
from gradwire_server.segments import Segment
from gradwire_server.skeletons import Message

RPC = "EvaluateStream"

_DROPPED_COUNT = 1024
_HEAD_BYTES = 32  # of a message besides its content, at most
_MOMENT_S = 1e-3  # for which what is answered at once is answered without a break


class Answer(NamedTuple):
    """What a request is answered: a serialized EvaluateResponse, and the elements of its tensors that follow it in chunks."""

    response: bytes
    segments: Sequence[Segment] = ()


class Outgoing(NamedTuple):
    """What waits to be written.

    Attributes:
        messages: what is left of it.
        written: done once all are on their way; cancelled if they need not be.
        size: the bytes of a message that is all there is; infinite for others, which travel alone.
    """

    messages: Iterator[bytes]
    written: asyncio.Future[None]
    size: float


Arrived: TypeAlias = Callable[[], Awaitable[Sequence[Segment]]]
"""Returns the tensors of a request that come in chunks, once they are all there."""


class Evaluator(Protocol):
    """What answers the requests of sessions."""

    def find_tiny(self, message: Message, identity: str) -> Tiny | None:
        """Return what answers a serialized EvaluateRequest of an identity at once; None where that takes longer."""

    async def find_apart(self, message: bytes) -> list[Apart]:
        """Return the tensors of a serialized EvaluateRequest whose elements are not in it, checked against the limits."""

    async def evaluate_in_chunks(self, message: bytes, call: Call, apart: Sequence[Apart], arrived: Arrived) -> Answer:
        """Answer a serialized EvaluateRequest."""


class Peers:
    """Bounds how many requests are under way in all sessions of one connection.

    Args:
        max_count: how many may be.
    """

    def __init__(self, max_count: int) -> None:
        self._max_count = max_count
        self._rooms: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()

    def room(self, peer: str) -> asyncio.Semaphore:
        """Return what a connection's requests acquire; it is the same as long as somebody has it."""
        found = self._rooms.get(peer)
        if found is None:
            found = self._rooms[peer] = asyncio.Semaphore(self._max_count)
        return found


class Session:
    """The requests of one stream.

    Args:
        stream: its messages.
        call: what is known of it.
        admission: lets each request in and accounts for it.
        evaluator: answers requests.
        config: the bounds of a session.
        held: counts the bytes of tensors in chunks of all sessions.
        peers: counts the requests of all sessions.
        idle: memory that was used before.
    """

    def __init__(
        self,
        stream: Stream,
        call: Call,
        admission: Admission,
        evaluator: Evaluator,
        config: ServerConfig,
        held: Held,
        peers: Peers,
        idle: Idle,
    ) -> None:
        self._stream = stream
        self._call = call
        self._admission = admission
        self._evaluator = evaluator
        self._stall_timeout_s = config.stall_timeout_s
        self._held = Held("stream_tensor_bytes", config.max_stream_tensor_bytes, held)
        self._room = asyncio.Semaphore(config.max_stream_request_count)
        self._peer_room = peers.room(call.peer)
        self._idle = idle
        self._under_way = 0
        self._running: dict[int, asyncio.Task[None]] = {}  # by id, until the last message is about to be written
        self._arriving: dict[int, Arriving] = {}
        self._dropped: dict[int, None] = {}  # ids whose chunks come for nothing, as the request has ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._talking: set[asyncio.Task[Any]] = set()  # those that must not be cancelled while a message is being written
        self._max_joined_count = config.max_stream_joined_count
        self._made: list[bytes] = []  # messages that wait for the end of what the reader is at
        self._made_bytes = 0
        self._made_since_s = 0.0
        self._outbox: deque[Outgoing] = deque()
        self._outbox_filled = asyncio.Event()
        self._is_writing = False
        self._is_over = False
        self._settled = asyncio.Event()
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
        self._talking |= {self._start(self._read_all()), self._start(self._write_all())}
        try:
            await self._ended
        except GradwireError:
            for task in self._tasks - self._talking:
                task.cancel()
            await self._settle()
            raise
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
        if self._under_way or self._ended.done():
            return
        if self._has_read_all:
            self._ended.set_result(None)
        elif self._is_draining:
            self._ended.set_exception(draining())

    async def _read_all(self) -> None:
        while (message := await self._stream.read()) is not None:
            spans = joined.split(joined.REQUESTS, message, self._max_joined_count)
            if spans is None:
                await self._hear(parse(message))
            else:
                for start, end in spans:
                    await self._hear(parse(message[start:end]))
            if self._made:
                await self._write_made()
        for arriving in self._arriving.values():
            arriving.end()
        self._has_read_all = True
        self._end_if_over()

    async def _hear(self, part: Part) -> None:
        """Do what a message says. The message that answers it at once, if one does, is to be written by `_write_made`."""
        if part.kind == EVALUATE:
            if self._admission.turn.is_over:
                await self._admission.turn.come()
            answer = self._answer_at_once(part) if part.is_plain and part.id not in self._running else None
            if answer is None:
                await self._begin(part, bytes(part.content))
            else:
                await self._make(answer)
        elif part.kind == CHUNK:
            self._take(part)
        elif part.id in self._running:
            task = self._running[part.id]
            task.cancel()
            await asyncio.wait((task,))

    async def _make(self, message: bytes) -> None:
        """Keep a message for `_write_made`; write those kept where it does not fit, and all once a moment is over."""
        if self._made and self._made_bytes + len(message) > joined.MOST_BYTES:
            await self._write_made()
        now_s = time.monotonic()
        if not self._made:
            self._made_since_s = now_s
        self._made.append(message)
        self._made_bytes += len(message)
        if len(self._made) >= self._call.joined_count or now_s - self._made_since_s > _MOMENT_S:
            await self._write_made()

    async def _write_made(self) -> None:
        """Write the messages that the reader made, as one."""
        message = joined.join(joined.RESPONSES, self._made)
        size = len(message) if len(self._made) == 1 else math.inf
        self._made, self._made_bytes = [], 0
        if self._is_writing:
            await self._write(iter((message,)), size)
        else:
            await self._write_now(message)

    async def _begin(self, part: Part, message: bytes) -> None:
        """Begin a request, once there is room for it."""
        if part.id in self._running:
            text = f"EvaluateStreamRequest: needed an id that is not under way, got {part.id}; number requests anew"
            raise ArgumentError(text, given=part.id)
        if self._made and (self._room.locked() or self._peer_room.locked()):
            await self._write_made()
        await self._room.acquire()
        await self._peer_room.acquire()
        self._dropped.pop(part.id, None)
        try:
            work = await self._prepare(part.id, message)
        except BaseException:
            self._peer_room.release()
            raise
        self._under_way += 1
        self._running[part.id] = task = self._start(self._answer(part, message, work))
        task.add_done_callback(functools.partial(self._forget, part.id))

    def _answer_at_once(self, part: Part) -> bytes | None:
        """Return the message that answers a request; None where that takes longer."""
        tiny = self._evaluator.find_tiny(part.content, self._call.identity)
        if tiny is None:
            return self._refuse_at_once(part)
        request_id = make_request_id()
        try:
            pieces = self._admission.answer_at_once(
                RPC, tiny.pieces, part.content, request_id, self._call.identity, self._call.parent
            )
        except GradwireError as error:
            return encode_part(part.id, ERROR, encode_status(error, request_id).SerializeToString())
        return encode_pieces(part.id, ANSWER, pieces, tiny.response_bytes)

    def _refuse_at_once(self, part: Part) -> bytes | None:
        """Return the message that refuses a request whose like was refused a moment ago; None where it was not."""
        request_id = make_request_id()
        refusal = self._admission.refuse_again(RPC, part.content, request_id, self._call.identity)
        return None if refusal is None else encode_part(part.id, ERROR, refusal.status(request_id))

    async def _prepare(self, id: int, message: bytes) -> Callable[[bytes, Call], Awaitable[Answer]]:
        """Return what answers a request; from now on its chunks are taken. It raises what the request is refused with."""
        try:
            apart = await self._evaluator.find_apart(message)
            chunked = [tensor for tensor in apart if not tensor.name]
            if chunked:
                self._arriving[id] = Arriving(chunked, self._held, self._stall_timeout_s, self._idle, self._call.identity)
        except GradwireError as error:
            self._drop(id)
            return functools.partial(_refuse, error)
        return functools.partial(self._evaluate, id, apart)

    def _take(self, part: Part) -> None:
        """Take a chunk."""
        arriving = self._arriving.get(part.id)
        if arriving is not None and not arriving.is_complete:
            arriving.add(part.chunk)
        elif part.id not in self._dropped:
            text = f"EvaluateStreamRequest: needed a chunk of a tensor that is announced, got one of id {part.id}; send no other"
            raise ArgumentError(text, given=part.id)

    def _drop(self, id: int) -> None:
        """Have chunks come for nothing: their sender cannot have known yet."""
        self._dropped[id] = None
        if len(self._dropped) > _DROPPED_COUNT:
            del self._dropped[next(iter(self._dropped))]

    def _forget(self, id: int, task: asyncio.Task[None]) -> None:
        """Let a request go that is answered or cancelled."""
        if self._running.get(id) is task:
            del self._running[id]
        self._under_way -= 1
        self._room.release()
        self._peer_room.release()
        self._end_if_over()

    async def _answer(self, part: Part, message: bytes, work: Callable[[bytes, Call], Awaitable[Answer]]) -> None:
        """Answer one request."""
        request_id = part.request_id or make_request_id()
        try:
            call = check_part(part, self._call, request_id)
            answer = await self._admission.answer(RPC, work, message, call)
        except GradwireError as error:
            status = encode_status(error, request_id)  # the same on the wire as the Status of gradwire.v1
            content = status.SerializeToString()
            await self._write(self._messages(part.id, ERROR, content), len(content) + _HEAD_BYTES)
        else:
            await self._send(part.id, answer)
        finally:
            self._let_go(part.id)

    async def _evaluate(self, id: int, apart: Sequence[Apart], message: bytes, call: Call) -> Answer:
        end_s = asyncio.get_running_loop().time() + call.timeout_s
        arriving = self._arriving.get(id)

        async def arrived() -> Sequence[Segment]:
            segments = () if arriving is None else await arriving.wait(end_s - asyncio.get_running_loop().time())
            await self._held.wait(end_s - asyncio.get_running_loop().time())
            return segments

        is_answered = False
        try:
            answer = await self._evaluator.evaluate_in_chunks(message, call, apart, arrived)
            is_answered = True
            return answer
        finally:
            self._let_go(id, is_answered=is_answered)

    def _let_go(self, id: int, *, is_answered: bool = False) -> None:
        """Let go of the tensors that came for a request, and of those that will."""
        arriving = self._arriving.pop(id, None)
        if arriving is not None:
            if not arriving.is_complete:
                self._drop(id)
            arriving.close(is_read=is_answered)

    async def _send(self, id: int, answer: Answer) -> None:
        has_company = self._under_way > 1 and self._call.joined_count > 1  # which may be answered in this turn of the event loop
        if not (answer.segments or self._is_writing or self._outbox or has_company):
            self._running.pop(id, None)
            await self._write_alone(encode_part(id, ANSWER, answer.response))
            return
        size = sum(map(len, answer.segments))
        self._held.add(size)
        try:
            whole = len(answer.response) + _HEAD_BYTES
            await self._write(self._messages(id, ANSWER, answer.response, answer.segments), math.inf if size else whole)
        finally:
            self._held.add(-size)

    def _messages(self, id: int, kind: int, content: bytes, segments: Sequence[Segment] = ()) -> Iterator[bytes]:
        """Yield the messages that answer a request, letting go of each tensor once it is sent, and of the id before the last."""
        left = sum(map(len, segments))
        if not left:
            self._running.pop(id, None)
        yield encode_part(id, kind, content)
        for segment in segments:
            try:
                for chunk in cut(segment):
                    left -= len(chunk)
                    if not left:
                        self._running.pop(id, None)
                    yield encode_part(id, CHUNK, chunk)
                    del chunk  # which keeps the memory
            finally:
                self._idle.give(self._call.identity, segment)

    async def _write(self, messages: Iterator[bytes], size: float) -> None:
        """Return once messages are on their way; those of other requests may come in between. The size is that of `Outgoing`."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outbox.append(Outgoing(messages, written, size))
        self._outbox_filled.set()
        await written

    async def _write_alone(self, message: bytes) -> None:
        """Write a message that is all of an answer, while no other waits or is being written."""
        task = asyncio.current_task()
        assert task is not None
        self._talking.add(task)
        try:
            await self._write_now(message)
        finally:
            self._talking.discard(task)

    async def _write_now(self, message: bytes) -> None:
        """Write a message while no other is being written; none is, once the session ends with an error."""
        if self._is_over:
            raise asyncio.CancelledError
        self._is_writing = True
        try:
            await self._stream.write(message)
        finally:
            self._is_writing = False
            self._settled.set()
        if self._outbox:
            self._outbox_filled.set()

    async def _settle(self) -> None:
        """Let no message be written any more, and wait for the one that is: a call that ends in the midst of one never ends."""
        self._is_over = True
        if self._is_writing:
            self._settled.clear()
            await self._settled.wait()

    async def _write_all(self) -> None:
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled.clear()
            while self._outbox and not self._is_writing:
                chosen, messages = self._choose()
                if messages:
                    await self._write_now(joined.join(joined.RESPONSES, messages))
                    self._put_back(chosen)

    def _choose(self) -> tuple[list[Outgoing], list[bytes]]:
        """Take from the outbox what is to be written next, as one; return its messages too, each taken when it is to be written."""
        chosen: list[Outgoing] = []
        messages: list[bytes] = []
        left_bytes = float(joined.MOST_BYTES)
        while self._outbox and len(messages) < self._call.joined_count:
            item = self._outbox[0]
            if messages and item.size > left_bytes:
                break
            self._outbox.popleft()
            message = None if item.written.cancelled() else next(item.messages, None)
            if message is not None:
                chosen.append(item)
                messages.append(message)
                left_bytes -= item.size
            elif not item.written.done():
                item.written.set_result(None)
        return chosen, messages

    def _put_back(self, chosen: Sequence[Outgoing]) -> None:
        """Have what was written follow, behind what has come meanwhile, if there is more of it."""
        for item in chosen:
            if item.size == math.inf:
                self._outbox.append(item)
            elif not item.written.done():
                item.written.set_result(None)


async def _refuse(error: GradwireError, _message: bytes, _call: Call) -> Answer:
    raise error
