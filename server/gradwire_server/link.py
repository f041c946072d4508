"""How two processes ask each other things over one connection: questions are numbered, and answered as the answers are ready.

    question   ASK, number, what is asked, arguments      -> ANSWER or FAILURE, unless it is given up
    ANSWER     number                                     what the question gave
    FAILURE    number                                     google.rpc.Status
    CANCEL     number                                     the question is given up: nobody waits for its answer any more

Each is a frame whose first part is a head of these; what else it brings, segments included, are its further parts. Nothing else may
live here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, cast

from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from gradwire_core.errors import GradwireError, InternalError, WorkerLostError
from gradwire_proto.status import decode_status, encode_status
from gradwire_server.channel import SMALL_BYTES, Channel
from gradwire_server.frames import Frame, Kind, Part
from gradwire_server.segments import Segment

_LOGGER = logging.getLogger(__name__)
_HEAD = struct.Struct("<BBQ")
_LARGE_COUNT = 100  # questions at a time that bring descriptors: the kernel holds some 250 unread, and whoever sends more must wait


class _Role(enum.IntEnum):
    """What a frame is."""

    ASK = 1
    ANSWER = 2
    FAILURE = 3
    CANCEL = 4


class Verb(enum.IntEnum):
    """What is asked."""

    NONE = 0
    RUN = 1
    PUT = 2
    DISCARD = 3
    CHANGE = 4
    USE = 5
    METRICS = 6
    BEGIN = 7
    SERVE = 8
    STOP = 9


Answerer: TypeAlias = Callable[[bytes, Frame], "Frame | Awaitable[Frame]"]
"""Answers a question by its arguments and the frame that it brought: at once, before what comes after it is read, or later."""


class Link(asyncio.Protocol):
    """One side of a connection.

    Args:
        descriptors: the socket beside the stream; it is closed with the link.
        answerers: what answers the questions of the other side.

    Attributes:
        ended: set once the other side is gone.
    """

    def __init__(self, descriptors: socket.socket, answerers: Mapping[Verb, Answerer]) -> None:
        self._channel = Channel(descriptors)
        self._answerers = answerers
        self._transport: asyncio.Transport | None = None
        self._asked: dict[int, asyncio.Future[Frame]] = {}
        self._answering: dict[int, asyncio.Future[Frame]] = {}
        self._large = asyncio.Semaphore(_LARGE_COUNT)
        self._last = 0
        self.ended = asyncio.Event()

    async def open(self, stream: socket.socket) -> None:
        """Begin to ask and answer over a stream socket, which is closed with the link."""
        stream.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=stream)

    async def ask(self, verb: Verb, arguments: bytes = b"", frame: Frame | None = None) -> Frame:
        """Return the answer to a question; a task that is cancelled gives it up. Segments of the frame stay the caller's.

        Raises:
            GradwireError: what the other side raised; a WorkerLostError if it is gone.
        """
        frame = frame or Frame(Kind.READY)
        if any(_is_large(part) for part in frame.parts):
            async with self._large:
                return await self._ask(verb, arguments, frame)
        return await self._ask(verb, arguments, frame)

    async def _ask(self, verb: Verb, arguments: bytes, frame: Frame) -> Frame:
        if self.ended.is_set():
            raise _lost()
        self._last += 1
        number = self._last
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._send(_Role.ASK, verb, number, frame, arguments)
            return await answer
        except asyncio.CancelledError:
            if not self.ended.is_set():
                self._send(_Role.CANCEL, Verb.NONE, number, Frame(Kind.READY))
            raise
        except OSError as error:
            raise WorkerLostError(f"server: needed to pass a request on, got {error.strerror}; repeat it later") from error
        finally:
            del self._asked[number]

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the stream."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        try:
            for frame in self._channel.feed(data):
                self._take(frame)
        except (OSError, ValueError, struct.error) as error:
            _LOGGER.error("link broken: %s", error)  # noqa: TRY400  # a trace says no more
            self.close()

    def connection_lost(self, exception: Exception | None) -> None:  # noqa: ARG002  # however it ended
        """Fail what is still asked, and give up what is being answered."""
        self._channel.close()
        self.ended.set()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(_lost())
        for task in self._answering.values():
            task.cancel()

    def _take(self, frame: Frame) -> None:
        head, *parts = frame.parts
        assert isinstance(head, bytes)
        role, verb, number = _HEAD.unpack_from(head)
        inner = dataclasses.replace(frame, parts=tuple(parts))
        if role == _Role.ASK:
            self._answer(Verb(verb), number, head[_HEAD.size :], inner)
        elif role == _Role.CANCEL:
            task = self._answering.get(number)
            if task is not None:
                task.cancel()
        else:
            self._settle(number, inner, has_failed=role == _Role.FAILURE)

    def _settle(self, number: int, frame: Frame, *, has_failed: bool) -> None:
        answer = self._asked.get(number)
        if answer is None or answer.done():
            frame.close()  # nobody waits for it any more
        elif has_failed:
            (status,) = frame.parts
            assert isinstance(status, bytes)
            answer.set_exception(decode_status(Status.FromString(status)))
        else:
            answer.set_result(frame)

    def _answer(self, verb: Verb, number: int, arguments: bytes, frame: Frame) -> None:
        found = self._answerers[verb](arguments, frame)
        if isinstance(found, Frame):
            self._reply(number, found)
        else:
            task = self._answering[number] = asyncio.ensure_future(found)
            task.add_done_callback(functools.partial(self._finish, number))

    def _finish(self, number: int, task: asyncio.Future[Frame]) -> None:
        """Send what a question gave, unless it was given up."""
        del self._answering[number]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            answer = task.result()
            self._reply(number, answer)
            answer.close()
            return
        if not isinstance(error, GradwireError):
            _LOGGER.error("question failed", exc_info=error)
            error = InternalError("server: needed to work, got a defect of its own; report the request id")
        self._reply(number, Frame(Kind.ERROR, (encode_status(error).SerializeToString(),)), _Role.FAILURE)

    def _reply(self, number: int, answer: Frame, role: _Role = _Role.ANSWER) -> None:
        if self.ended.is_set():
            return
        try:
            self._send(role, Verb.NONE, number, answer)
        except OSError as error:
            _LOGGER.error("answer lost: %s", error)  # noqa: TRY400  # a trace says no more
            self.close()

    def _send(self, role: _Role, verb: Verb, number: int, frame: Frame, arguments: bytes = b"") -> None:
        assert self._transport is not None
        head = _HEAD.pack(role, verb, number) + arguments
        self._transport.write(self._channel.pack(dataclasses.replace(frame, parts=(head, *frame.parts))))


def _is_large(part: Part) -> bool:
    if isinstance(part, Segment):
        return True
    return (part.nbytes if isinstance(part, memoryview) else len(part)) > SMALL_BYTES


def _lost() -> WorkerLostError:
    return WorkerLostError("server: needed the process that keeps the workers, got none; repeat the request later")
