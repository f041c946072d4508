"""The backend at a server: the two channels, blocking and asyncio, over which conversations are driven."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from gradwire._config import ClientConfig
from gradwire._credentials import call_metadata, open_channel
from gradwire._session import METHODS, Conversation, Method, Pause, Session
from gradwire_core.errors import ArgumentError

SERVICE = "/gradwire.v1.DifferentiationService/"


def channel_options(config: ClientConfig) -> list[tuple[str, Any]]:
    """Return the options of a channel: message limits, and attempts to connect that fail soon and come again soon."""
    attempt_ms = max(int(config.unreachable_s * 1000), 100)
    return [
        ("grpc.max_send_message_length", config.message_max_bytes),
        ("grpc.max_receive_message_length", config.message_max_bytes),
        ("grpc.min_reconnect_backoff_ms", attempt_ms),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", max(attempt_ms, 1000)),
        ("grpc.enable_retries", 0),
    ]


def check_open(session: Session, *, is_closed: bool) -> None:
    """Check that a client can still be used.

    Raises:
        ArgumentError: it is closed.
    """
    if is_closed:
        text = f"{session.target}: needed an open client, got a closed one; connect again"
        raise ArgumentError(text, target=session.target)


def _calls(channel: Any) -> dict[Method, Any]:
    return {
        method: channel.unary_unary(
            SERVICE + method.name,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=method.response.FromString,
        )
        for method in METHODS
    }


class SyncBackend:
    """Drives conversations over a blocking channel. Safe to use from threads."""

    def __init__(self, target: str, config: ClientConfig) -> None:
        self.session = Session(target, config)
        self._metadata = call_metadata(target, config)
        self._channel = open_channel(grpc, target, config, channel_options(config))
        self._calls = _calls(self._channel)
        self._is_closed = False

    def drive(self, conversation: Conversation) -> Any:
        """Return the answer of a conversation.

        Raises:
            ArgumentError: the client is closed.
        """
        check_open(self.session, is_closed=self._is_closed)
        answer: Any = None
        while True:
            try:
                step = conversation.send(answer)
            except StopIteration as stop:
                return stop.value
            answer = None
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                continue
            try:
                answer = self._calls[step.method](step.request, timeout=step.timeout_s, metadata=self._metadata)
            except grpc.RpcError as error:
                answer = error

    def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self._is_closed = True
        self._channel.close()


class AsyncBackend:
    """Drives conversations over a channel of the running event loop, opened at the first call."""

    def __init__(self, target: str, config: ClientConfig) -> None:
        self.session = Session(target, config)
        self._metadata = call_metadata(target, config)
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[Method, Any] = {}
        self._is_closed = False

    async def drive(self, conversation: Conversation) -> Any:
        """Return the answer of a conversation.

        Raises:
            ArgumentError: the client is closed.
        """
        check_open(self.session, is_closed=self._is_closed)
        if self._channel is None:
            config = self.session.config
            self._channel = open_channel(grpc.aio, self.session.target, config, channel_options(config))
            self._calls = _calls(self._channel)
        answer: Any = None
        while True:
            try:
                step = conversation.send(answer)
            except StopIteration as stop:
                return stop.value
            answer = None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                continue
            try:
                answer = await self._calls[step.method](step.request, timeout=step.timeout_s, metadata=self._metadata)
            except grpc.RpcError as error:
                answer = error

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close()
