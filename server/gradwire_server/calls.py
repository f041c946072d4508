"""What a handler is given and gives, apart from gRPC. Nothing else may live here."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from gradwire_server.tracing import RpcSpan

ANONYMOUS = "anonymous"
"""The identity of all callers where nobody is asked for one."""

is_request_id = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
"""Tells whether a caller may name a request so."""

_random_bits = random.Random().getrandbits  # noqa: S311  # names, which nobody gains from guessing


@dataclass(frozen=True, slots=True)
class Call:
    """What is known of a call besides its request.

    Attributes:
        request_id: names the call in logs and errors.
        timeout_s: seconds left for the answer.
        identity: who calls: the name of a token or a certificate.
        peer: the connection that the call came over; told of streams alone.
        joined_count: how many messages the caller takes in one; told of streams alone.
        parent: where its spans belong; None where no traces are made.
        span: that of its request; None where no traces are made.
    """

    request_id: str
    timeout_s: float
    identity: str = ANONYMOUS
    peer: str = ""
    joined_count: int = 1
    parent: Context | None = None
    span: RpcSpan | None = None


class Stream(Protocol):
    """Messages both ways. One may be read while another is written, no more."""

    async def read(self) -> bytes | None:
        """Return the next message; None when the caller has ended its side."""

    async def write(self, message: bytes) -> None:
        """Send a message, once there is room for it; not to be cancelled unless the stream ends with it."""


Handler: TypeAlias = Callable[[bytes, Call], Awaitable[bytes]]
"""Answers a serialized request by a serialized response, or raises a GradwireError."""

FindQuick: TypeAlias = Callable[[bytes, str], Callable[[bytes | memoryview], bytes] | None]
"""Returns what answers a serialized request of an identity at once; None where that takes longer, and a Handler must."""

Read: TypeAlias = Callable[[], Awaitable[bytes | None]]
"""Returns the next message of a stream; None when the caller has ended its side."""

UploadHandler: TypeAlias = Callable[[Read, Call], Awaitable[bytes]]
"""Answers a request that comes in several messages, as a Handler does."""


def make_request_id() -> str:
    """Return a name for a request whose caller gives none."""
    return f"{_random_bits(64):016x}"
