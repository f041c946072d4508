"""Channels: how each is opened to one address, and what it is told. Nothing else may live here."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from gradwire._config import ClientConfig
from gradwire._credentials import open_channel
from gradwire._replicas import Name
from gradwire._session import METHODS, Method, Session
from gradwire_proto import joined

SERVICE = "/gradwire.v1.DifferentiationService/"
STREAM = SERVICE + "EvaluateStream"
JOINED = (joined.KEY, str(joined.MOST_COUNT))
"""The metadata of a stream that say how many of its messages are read as one here."""
KEEPALIVE_TIMEOUT_S = 10.0


def connect_to(kind: Any, address: str, session: Session) -> Any:
    """Return a channel to an address.

    Args:
        kind: the module that makes channels, `grpc` or `grpc.aio`.
        address: as gRPC reads it.
        session: whose it is.
    """
    return open_channel(kind, address, session.config, channel_options(session.config, session.replicas.name))


def channel_options(config: ClientConfig, name: Name | None = None) -> list[tuple[str, Any]]:
    """Return the options of a channel: message limits, and attempts to connect that fail soon and come again soon.

    Args:
        config: how the client behaves.
        name: what the address was looked up for, which the server's certificate must be for.
    """
    attempt_ms = max(int(config.unreachable_s * 1000), 100)
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", config.message_max_bytes),
        ("grpc.max_receive_message_length", config.message_max_bytes),
        ("grpc.min_reconnect_backoff_ms", attempt_ms),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", max(attempt_ms, 1000)),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    ]
    if config.keepalive_s:
        options += [
            ("grpc.keepalive_time_ms", int(config.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    if name is not None:
        options += [("grpc.default_authority", f"{name.host}:{name.port}"), ("grpc.ssl_target_name_override", name.host)]
    return options


def calls_of(channel: Any) -> dict[Method, Any]:
    """Return what makes each call over a channel."""
    return {
        method: (channel.stream_unary if method.has_stream else channel.unary_unary)(
            SERVICE + method.name,
            request_serializer=lambda request: request if isinstance(request, bytes) else request.SerializeToString(),
            response_deserializer=method.response.FromString,
        )
        for method in METHODS
    }


def addresses_of(found: Sequence[Any]) -> list[str]:
    """Return what a look-up in the DNS found as addresses that gRPC reads."""
    schemes = {socket.AF_INET: "ipv4:{}:{}", socket.AF_INET6: "ipv6:[{}]:{}"}
    return [schemes[family].format(*address[:2]) for family, _, _, _, address in found if family in schemes]
