"""What a handler is given and gives, apart from gRPC. Nothing else may live here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

ANONYMOUS = "anonymous"
"""The identity of all callers where nobody is asked for one."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is known of a call besides its request.

    Attributes:
        request_id: names the call in logs and errors.
        timeout_s: seconds left for the answer.
        identity: who calls: the name of a token or a certificate.
    """

    request_id: str
    timeout_s: float
    identity: str = ANONYMOUS


Handler: TypeAlias = Callable[[bytes, Call], Awaitable[bytes]]
"""Answers a serialized request by a serialized response, or raises a GradwireError."""
