"""How a request travels: by a call of its own, or within a session. All of them send bytes that were encoded beforehand."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from gradwire._config import ClientConfig
from gradwire._credentials import call_metadata, open_channel
from gradwire_load.session import Assembly, Encoded

SERVICE = "/gradwire.v1.DifferentiationService/"
DETAILS_KEY = "grpc-status-details-bin"
MISSING = "PROGRAM_MISSING"


class CallError(Exception):
    """A request that was not answered.

    Attributes:
        reason: the reason that the server gave, or else the name of the code of gRPC.
        text: what it said.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason
        self.text = text


class Transport(Protocol):
    """What carries requests."""

    async def ask(self, request: Encoded, timeout_s: float) -> bytes:
        """Return the answer to a request, a serialized EvaluateResponse.

        Raises:
            CallError: there is none.
        """


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests go.

    Attributes:
        target: the address of the server.
        config: how it is known and who the caller is.
        mode: `unary` or `stream`.
        connections: how many connections there are; requests take them in turns.
    """

    target: str
    config: ClientConfig
    mode: str
    connections: int = 1


def channel_options(config: ClientConfig, number: int = 0) -> list[tuple[str, Any]]:
    """Return the options of a channel; channels of different numbers share no connection."""
    return [
        ("grpc.max_send_message_length", config.message_max_bytes),
        ("grpc.max_receive_message_length", config.message_max_bytes),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("gradwire.connection", number),
    ]


class Connections:
    """The connections of a process, taken in turns."""

    def __init__(self, route: Route) -> None:
        kind: type[Unary | Stream] = Unary if route.mode == "unary" else Stream
        metadata = call_metadata(route.target, route.config)
        self._channels = [
            open_channel(grpc.aio, route.target, route.config, channel_options(route.config, number))
            for number in range(route.connections)
        ]
        self._transports: list[Unary | Stream] = [kind(channel, metadata) for channel in self._channels]
        self._turns = itertools.cycle(self._transports)

    async def ask(self, request: Encoded, timeout_s: float) -> bytes:
        """Return the answer to a request; one whose program the server does not hold is sent again with it.

        Raises:
            CallError: there is none.
        """
        transport = next(self._turns)
        try:
            return await transport.ask(request, timeout_s)
        except CallError as error:
            if error.reason != MISSING or request.inline is None:
                raise
        return await transport.ask(request.inline, timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        for transport in self._transports:
            await transport.close()
        for channel in self._channels:
            await channel.close()


class Unary:
    """A call for each request."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]]) -> None:
        self._evaluate: Any = channel.unary_unary(f"{SERVICE}Evaluate")
        self._metadata = metadata

    async def ask(self, request: Encoded, timeout_s: float) -> bytes:
        """Return the answer to a request.

        Raises:
            CallError: there is none.
        """
        try:
            return await self._evaluate(request.data, timeout=timeout_s, metadata=self._metadata)  # type: ignore[no-any-return]
        except grpc.aio.AioRpcError as error:
            raise _of_rpc(error) from None

    async def close(self) -> None:
        """Do nothing: calls end with their channel."""


class Stream:
    """A session of EvaluateStream, opened by the first request and again after it broke."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]]) -> None:
        self._open: Any = channel.stream_stream(f"{SERVICE}EvaluateStream")
        self._metadata = metadata
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._partial: dict[int, Assembly] = {}
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None

    async def ask(self, request: Encoded, timeout_s: float) -> bytes:
        """Return the answer to a request.

        Raises:
            CallError: there is none.
        """
        if self._reader is None or self._reader.done():
            self._outbox = asyncio.Queue()
            self._reader = asyncio.get_running_loop().create_task(self._read(self._open(self._outgoing(), metadata=self._metadata)))
        number = next(self._ids)
        for message in request.stream_messages(number, timeout_s):
            self._outbox.put_nowait(message)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            return await asyncio.wait_for(answer, timeout_s + _GRACE_S)
        except TimeoutError:
            raise CallError("DEADLINE_EXCEEDED", "the session did not answer in time") from None
        finally:
            self._waiting.pop(number, None)
            self._partial.pop(number, None)

    async def _outgoing(self) -> AsyncIterator[bytes]:
        outbox = self._outbox
        while True:
            yield await outbox.get()

    async def _read(self, call: Any) -> None:
        """Hand answers to those who wait for them, until the session ends."""
        error = CallError("UNAVAILABLE", "the session ended")
        try:
            while True:
                message = await call.read()
                if message is grpc.aio.EOF:
                    break
                self._take(message)
            await _raise_status(call)
        except grpc.aio.AioRpcError as failure:
            error = _of_rpc(failure)
        finally:
            call.cancel()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(error)

    def _take(self, message: bytes) -> None:
        """Take a message of the server."""
        part = Assembly.parse(message)
        answer = self._waiting.get(part.id)
        if answer is None or answer.done():
            return
        if part.error is not None:
            answer.set_exception(_of_status(part.error))
            return
        whole = self._partial.setdefault(part.id, part)
        if whole is not part:
            whole.add(part)
        if whole.is_complete:
            answer.set_result(whole.answer())

    async def close(self) -> None:
        """End the session."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


_GRACE_S = 1.0  # past its deadline, in which the server tells that it passed


async def _raise_status(call: Any) -> None:
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise CallError(code.name, await call.details() or "")


def _of_rpc(error: grpc.aio.AioRpcError) -> CallError:
    """Return the failure of a call."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return _of_status(value, error.code().name)
    return CallError(error.code().name, error.details() or "")


def _of_status(data: bytes, code: str = "") -> CallError:
    """Return the failure that a serialized google.rpc.Status tells, by its ErrorInfo."""
    try:
        status = Status.FromString(data)
        for detail in status.details:
            if detail.Is(ErrorInfo.DESCRIPTOR):
                return CallError(ErrorInfo.FromString(detail.value).reason, status.message)
    except DecodeError:
        return CallError(code or "INTERNAL", "an error that cannot be read")
    return CallError(code or _code_name(status.code), status.message)


def _code_name(number: int) -> str:
    return next((item.name for item in grpc.StatusCode if item.value[0] == number), "UNKNOWN")
