"""The backend at servers that is awaited: drives conversations over channels of the running event loop, one to each address."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any

import grpc

from gradwire._channels import JOINED, STREAM, addresses_of, calls_of, connect_to
from gradwire._config import ClientConfig
from gradwire._credentials import Metadata, call_metadata
from gradwire._failures import LATE, Ended, closed, lost
from gradwire._lines import Lines
from gradwire._remote import check_open, check_process, is_there
from gradwire._replicas import Replica
from gradwire._session import (
    CREATE_TENSOR,
    EVALUATE_STREAM,
    GET_CAPABILITIES,
    Conversation,
    Evaluation,
    Leave,
    Pause,
    Probe,
    Renew,
    Resolve,
    Send,
    Session,
    is_failure,
)
from gradwire._streams import Stream
from gradwire_proto.v1 import differentiation_service_pb2 as pb


class AsyncLine:
    """The channel to one replica, and the stream over it."""

    def __init__(self, address: str, session: Session, metadata: Metadata) -> None:
        self._metadata = metadata
        self._channel = connect_to(grpc.aio, address, session)
        self._calls = calls_of(self._channel)
        self._open_stream = self._channel.stream_stream(STREAM)
        self._stream: Stream | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, send: Send) -> Any:
        """Return what comes of a request: a response or a failure."""
        if send.method is not EVALUATE_STREAM:
            try:
                request = send.request() if send.method is CREATE_TENSOR else send.request
                return await self._calls[send.method](request, timeout=send.timeout_s, metadata=self._metadata)
            except grpc.RpcError as error:
                return error
        answered = asyncio.get_running_loop().create_future()
        stream = self._current()
        evaluation: Evaluation = send.request
        ticket = stream.begin(evaluation.request, evaluation.apart, send.timeout_s, functools.partial(_wake, answered))
        try:
            async with asyncio.timeout(send.timeout_s):
                await answered
        except TimeoutError:
            stream.cancel(ticket)
        except BaseException:
            stream.cancel(ticket)
            raise
        return ticket.answer or LATE

    async def reach(self, timeout_s: float | None = None) -> bool:
        """Wait until there is a connection and somebody answers; return whether that was so in time."""
        ask = self._calls[GET_CAPABILITIES]
        try:
            await ask(pb.GetCapabilitiesRequest(), timeout=timeout_s, metadata=self._metadata, wait_for_ready=True)
        except grpc.RpcError as error:
            return is_there(error)
        return True

    async def close(self) -> None:
        """Close the channel; requests under way are cancelled."""
        if self._stream is not None:
            self._stream.end(closed())
        await self._channel.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _current(self) -> Stream:
        """Return the stream, opened if there is none."""
        if self._stream is None or self._stream.error is not None:
            is_ready = asyncio.Event()
            self._stream = Stream(is_ready.set)
            call = self._open_stream(metadata=(*self._metadata, JOINED))
            for work in (_read(call, self._stream), _write(call, self._stream, is_ready)):
                task = asyncio.create_task(work)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return self._stream


def _keep(tasks: set[asyncio.Task[Any]], work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start work whose task is kept until it is done."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


def _wake(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)


async def _read(call: Any, stream: Stream) -> None:
    """Hand what comes over a stream to those who wait, until it ends."""
    try:
        stream.open(await call.initial_metadata())
        while (message := await call.read()) is not grpc.aio.EOF:
            stream.receive(message)
        stream.end(lost("the server ended the stream"))
    except asyncio.CancelledError:  # by close, or by what is between here and the server
        stream.end(lost("the stream was cancelled"))
        raise
    except grpc.RpcError as error:
        stream.end(error)
    except Exception as error:  # noqa: BLE001  # what a server sent is not of the protocol
        stream.end(Ended(grpc.StatusCode.INTERNAL, str(error)))
    finally:
        call.cancel()


async def _write(call: Any, stream: Stream, is_ready: asyncio.Event) -> None:
    """Write what is to be written to a stream, until it ends."""
    with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):  # the reader is told too
        while stream.error is None:
            is_ready.clear()
            while (message := stream.pull(block=False)) is not None:
                await call.write(message)
            await is_ready.wait()


class AsyncBackend:
    """Drives conversations over channels of the running event loop, opened when they are first needed."""

    def __init__(self, target: str, config: ClientConfig) -> None:
        self.session = Session(target, config)
        self._metadata = call_metadata(target, config)
        self._lines: Lines[AsyncLine] = Lines(
            lambda replica: AsyncLine(replica.address, self.session, self._metadata),
            lambda line: _keep(self._ending, line.close()),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._pid = os.getpid()

    async def drive(self, conversation: Conversation) -> Any:
        """Return the answer of a conversation.

        Raises:
            ArgumentError: the client is closed, or the process was forked since it was opened.
        """
        check_open(self.session, is_closed=self._is_closed)
        check_process(self.session, self._pid)
        answer: Any = None
        while True:
            try:
                step = conversation.send(answer)
            except StopIteration as stop:
                return stop.value
            answer = await (self._send(step) if isinstance(step, Send) else self._do(step))

    async def drive_each(self, conversations: Iterable[Conversation], in_flight: int) -> AsyncIterator[Any]:
        """Yield the answers of conversations in their order, so many of which are under way at a time."""
        window: deque[asyncio.Task[Any]] = deque()
        try:
            for conversation in conversations:
                window.append(asyncio.create_task(self.drive(conversation)))
                if len(window) >= in_flight:
                    yield await window.popleft()
            while window:
                yield await window.popleft()
        finally:
            for task in window:
                task.cancel()
            await asyncio.gather(*window, return_exceptions=True)

    async def close(self) -> None:
        """Close the channels; calls under way are cancelled."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        if self._pid == os.getpid():  # in a forked process nothing of gRPC may be touched
            await asyncio.gather(*self._ending, *(line.close() for line in self._lines.remove_all()))

    async def _send(self, send: Send) -> Any:
        hedge_after_s = self.session.config.hedge_after_s
        if send.hedge is None or hedge_after_s is None:
            return await self._ask(send)
        first = asyncio.create_task(self._ask(send))
        asked = {first}
        try:
            done, left = await asyncio.wait(asked, timeout=hedge_after_s)
            other = send.hedge() if left else None
            if other is not None:
                asked.add(asyncio.create_task(self._ask(other)))
            left = asked - done
            while left and all(is_failure(item.result()) for item in done):
                fresh, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                done |= fresh
            answers = [item.result() for item in done]
            return next((answer for answer in answers if not is_failure(answer)), answers[0])
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _ask(self, send: Send) -> Any:
        if self._is_closed:
            return closed()
        line = self._lines.take(send.replica)
        try:
            return await line.ask(send)
        finally:
            self._lines.give_back(line)

    async def _do(self, step: Pause | Resolve | Probe | Leave | Renew) -> Any:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
        elif isinstance(step, Probe):
            self._start(self._probe(step.replica))
        elif isinstance(step, Leave):
            self._lines.leave(step.replica)
        elif isinstance(step, Renew):
            self._start(self._renew(step.replica))
        elif step.is_needed:
            return await self._look_up()
        else:
            self._start(self._look_up())
        return None

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return _keep(self._tasks, work)

    async def _probe(self, replica: Replica) -> None:
        line = self._lines.take(replica)
        self._lines.give_back(line)
        try:
            await line.reach()
        finally:  # too if the line is left and closed
            replica.wake()

    async def _renew(self, replica: Replica) -> None:
        """Replace the line to a replica by another, if somebody answers over that in time."""
        line = self._lines.spare(replica)
        try:
            if await line.reach(self.session.config.unreachable_s):
                self._lines.replace(replica, line)
        finally:
            self._lines.give_back(line)

    async def _look_up(self) -> Any:
        """Look the addresses of the target up, and wait until one can be reached; return a failure if there are none."""
        name = self.session.replicas.name
        assert name is not None
        try:
            found = await asyncio.get_running_loop().getaddrinfo(name.host, int(name.port), type=socket.SOCK_STREAM)
        except OSError as error:
            return lost(f"{name.host}: {error.strerror or error}")
        fresh = self.session.replicas.resolve(addresses_of(found))
        self._lines.retain(tuple(self.session.replicas))
        if len(self.session.replicas) > 1 and fresh:
            for replica in fresh:
                replica.rest()
            probes = [self._start(self._probe(replica)) for replica in fresh]
            await asyncio.wait(probes, timeout=self.session.config.unreachable_s, return_when=asyncio.FIRST_COMPLETED)
        return None
