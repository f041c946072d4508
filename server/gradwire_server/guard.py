"""Who is let in: tokens are checked before anything else of a call is read, whatever service it is for."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
from grpc_health.v1 import health  # type: ignore[import-untyped]

from gradwire_core.errors import UnauthenticatedError
from gradwire_server.calls import ANONYMOUS
from gradwire_server.interceptors import CallInterceptor, Context
from gradwire_server.tokens import TokenFile

_HEADER = "authorization"
_OPEN = f"/{health.SERVICE_NAME}/"
_IDENTITY: ContextVar[str] = ContextVar("identity", default=ANONYMOUS)
_is_shown = re.compile(r"[A-Za-z0-9._@:/+-]{1,128}").fullmatch


class Guard(grpc.aio.ServerInterceptor):
    """Lets calls in that bring a valid token.

    Args:
        tokens: the tokens.
        is_health_open: whether the health service asks for none.
        calls: answers the calls that are refused.
    """

    def __init__(self, tokens: TokenFile, calls: CallInterceptor, *, is_health_open: bool) -> None:
        self._tokens = tokens
        self._calls = calls
        self._is_health_open = is_health_open

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Return the handler of a call, or one that refuses it unread."""
        if not (self._is_health_open and details.method.startswith(_OPEN)):
            try:
                _IDENTITY.set(self._tokens.identify(_find(details.invocation_metadata)))
            except Exception as error:  # noqa: BLE001  # UnauthenticatedError, or a defect: whatever it is, nobody gets in
                return self._calls.refuse(error)
        return await continuation(details)


def token_identity(_context: Context) -> str:
    """Return the identity of the token that the guard let in."""
    return _IDENTITY.get()


def certificate_identity(context: Context) -> str:
    """Return the identity of a client's certificate: its first alternative name, else its common name.

    Raises:
        UnauthenticatedError: it has neither, or one that cannot be shown.
    """
    names = context.peer_identities() or ()
    name = bytes(next(iter(names), b"")).decode(errors="replace")
    if not _is_shown(name):
        raise UnauthenticatedError(
            "certificate: needed a first name of at most 128 letters, digits and ._@:/+-, got another; issue it with such a name"
        )
    return name


def no_identity(_context: Context) -> str:
    """Return the identity of everyone where nobody is asked for one."""
    return ANONYMOUS


def _find(metadata: Any) -> str:
    """Return the only authorization of a call; empty where there is none, or more than one."""
    found = [value for key, value in metadata or () if key == _HEADER]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""
