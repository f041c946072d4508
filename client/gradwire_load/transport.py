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
from gradwire._streams import Reply, Stream
from gradwire_load.encoding import Encoded, reply_bytes
from gradwire_proto import joined

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
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.use_local_subchannel_pool", 1),
        ("gradwire.connection", number),
    ]


class Connections:
    """The connections of a process, taken in turns."""

    def __init__(self, route: Route) -> None:
        kind: type[Unary | Session] = Unary if route.mode == "unary" else Session
        metadata = call_metadata(route.target, route.config)
        self._channels = [
            open_channel(grpc.aio, route.target, route.config, channel_options(route.config, number))
            for number in range(route.connections)
        ]
        self._transports: list[Unary | Session] = [kind(channel, metadata) for channel in self._channels]
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


class Session:
    """A session of EvaluateStream, opened by the first request and again after it ended."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]]) -> None:
        self._open: Any = channel.stream_stream(f"{SERVICE}EvaluateStream")
        self._metadata = metadata
        self._stream: Stream | None = None
        self._reader: asyncio.Task[None] | None = None

    async def ask(self, request: Encoded, timeout_s: float) -> bytes:
        """Return the answer to a request.

        Raises:
            CallError: there is none.
        """
        stream = self._stream
        if stream is None or stream.error is not None:
            stream = self._begin()
        is_there = asyncio.Event()
        ticket = stream.begin(request.short, tuple(map(memoryview, request.apart)), timeout_s, is_there.set)
        try:
            async with asyncio.timeout(timeout_s + _GRACE_S):
                await is_there.wait()
        except TimeoutError:
            raise CallError("DEADLINE_EXCEEDED", "the session did not answer in time") from None
        finally:
            stream.cancel(ticket)
        if isinstance(ticket.answer, Reply):
            return reply_bytes(ticket.answer)
        raise ticket.answer if isinstance(ticket.answer, CallError) else _of_status(ticket.answer.SerializeToString())

    def _begin(self) -> Stream:
        is_ready = asyncio.Event()
        stream = self._stream = Stream(is_ready.set)
        call = self._open(_messages(stream, is_ready), metadata=(*self._metadata, (joined.KEY, str(joined.MOST_COUNT))))
        self._reader = asyncio.get_running_loop().create_task(_read(call, stream))
        return stream

    async def close(self) -> None:
        """End the session."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


async def _messages(stream: Stream, is_ready: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield what is to be written, until the session ends."""
    while stream.error is None:
        is_ready.clear()
        while (message := stream.pull(block=False)) is not None:
            yield message
        await is_ready.wait()


async def _read(call: Any, stream: Stream) -> None:
    """Hand what comes to those who wait, until the session ends."""
    error: Exception = CallError("UNAVAILABLE", "the server ended the session")
    try:
        stream.open(await call.initial_metadata())
        while (message := await call.read()) is not grpc.aio.EOF:
            stream.receive(message)
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            error = CallError(code.name, await call.details() or "")
    except grpc.aio.AioRpcError as failure:
        error = _of_rpc(failure)
    except ValueError as failure:
        error = CallError("INTERNAL", f"an answer that is none: {failure}")
    finally:
        stream.end(error)
        call.cancel()


_GRACE_S = 1.0  # past its deadline, in which the server tells that it passed


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
