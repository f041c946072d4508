"""What a call that failed means here: the error that the server raised, or a failure of the transport in gradwire's words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import grpc
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from gradwire._config import ClientConfig
from gradwire_core import errors
from gradwire_core.errors import GradwireError
from gradwire_proto.status import decode_status
from gradwire_proto.v1 import differentiation_service_pb2 as pb

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"


class Ended(grpc.RpcError):
    """A call that ended here, not at the server: told as gRPC tells of others."""

    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        """Return the code."""
        return self._code

    def details(self) -> str:
        """Return the text."""
        return self._details

    def trailing_metadata(self) -> tuple[Any, ...]:
        """Return nothing: no server spoke."""
        return ()


LATE = Ended(grpc.StatusCode.DEADLINE_EXCEEDED)
"""No answer was there in time."""


def closed() -> Ended:
    """Return the failure of a call whose client was closed."""
    return Ended(grpc.StatusCode.CANCELLED)


def lost(details: str) -> Ended:
    """Return the failure of a call that nobody answered."""
    return Ended(grpc.StatusCode.UNAVAILABLE, details)


def is_lost(error: Any) -> bool:
    """Whether a failure of which no server of gradwire told is one of the way there, so that the request may be sent again.

    Where a replica dies behind a proxy, the connection to the proxy stands: it cuts the call off, or answers in its own words. A
    server that ends cancels what arrives at its last moment; what was cancelled here is an `Ended`.
    """
    code = error.code()
    if code is grpc.StatusCode.CANCELLED:
        return not isinstance(error, Ended)
    is_cut_off = code is grpc.StatusCode.INTERNAL and "RST_STREAM" in (error.details() or "")
    return is_cut_off or code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)


class Failures:
    """Tells what failures mean, to the clients of a target."""

    def __init__(self, target: str, config: ClientConfig) -> None:
        self.target = target
        self.config = config

    def decode(self, error: Any, attempts: int = 1, elapsed_s: float = 0.0) -> GradwireError:
        """Return the error that the server raised, or what a failure of the transport means.

        Args:
            error: a status within a stream, or a failed call.
            attempts: how often it was tried.
            elapsed_s: for how long.
        """
        if isinstance(error, pb.Status):
            return decode_status(error)
        if isinstance(error, GradwireError):
            return error
        trailers = dict(error.trailing_metadata() or ())
        if DETAILS_KEY in trailers:
            found = decode_status(Status.FromString(trailers[DETAILS_KEY]))
            if PUSHBACK_KEY in trailers:
                found.metadata["retry_after_s"] = _pushback_s(trailers[PUSHBACK_KEY])
            return found
        code, details = error.code(), error.details() or ""
        if is_lost(error):
            return self.unreachable(details, attempts, elapsed_s)
        if code in _TRANSPORT:
            return _TRANSPORT[code](self, details, attempts, elapsed_s)
        text = f"{self.target}: needed an answer of gradwire, got {code.name} ({details}); look into the server's log"
        return errors.InternalError(text, target=self.target, code=code.name)

    def late(self, *_: Any) -> GradwireError:
        limit_s = self.config.timeout_s
        text = f"{self.target}: needed an answer within {limit_s:g} s, got none; raise timeout_s or ask for less"
        return errors.DeadlineError(text, target=self.target, timeout_s=limit_s)

    def unreachable(self, details: str, attempts: int, elapsed_s: float) -> GradwireError:
        if _is_distrust(details):
            text = (
                f"{self.target}: needed a server with a certificate for that name from a trusted authority, got one without "
                f"({_brief(details)}); check the name, and ca_file"
            )
            return errors.UnreachableError(text, target=self.target, attempts=attempts)
        tries = f"{attempts} {'try' if attempts == 1 else 'tries'} over {elapsed_s:.1f} s"
        text = (
            f"{self.target}: needed a gradwire server, got no connection in {tries} ({_brief(details)}); "
            f"check the address, and that the server runs: gradwire serve --listen {self.target}"
        )
        return errors.UnreachableError(text, target=self.target, attempts=attempts)

    def not_gradwire(self, details: str, *_: Any) -> GradwireError:
        text = f"{self.target}: needed a gradwire server, got an answer of something else ({_brief(details)}); check the address"
        return errors.UnreachableError(text, target=self.target, attempts=1)

    def too_large(self, details: str, *_: Any) -> GradwireError:
        sizes = re.search(r"\((\d+) vs\. (\d+)\)", details)  # what gRPC says on either side
        given, limit = sizes.groups() if sizes else ("a larger one", self.config.message_max_bytes)
        text = f"{self.target}: needed messages of at most {limit} bytes, got {given}; send or ask for less at once"
        return errors.LimitError(text, target=self.target, limit=limit, given=given)

    def cancelled(self, *_: Any) -> GradwireError:
        return errors.CancelledError(f"{self.target}: the call was cancelled before its answer; call again", target=self.target)

    def unauthenticated(self, details: str, *_: Any) -> GradwireError:
        text = f"{self.target}: needed valid credentials, got none that are ({_brief(details)}); bring a valid token"
        return errors.UnauthenticatedError(text, target=self.target)


_TRANSPORT: dict[grpc.StatusCode, Callable[[Failures, str, int, float], GradwireError]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: Failures.late,
    grpc.StatusCode.CANCELLED: Failures.cancelled,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Failures.too_large,
    grpc.StatusCode.UNIMPLEMENTED: Failures.not_gradwire,
    grpc.StatusCode.UNAUTHENTICATED: Failures.unauthenticated,
}


_is_distrust = re.compile("CERTIFICATE_VERIFY_FAILED|Hostname Verification|Peer name .* is not in peer certificate").search


def _pushback_s(text: Any) -> str:
    """Return the seconds that a server asks to wait; endless where it asks not to come again, as by a negative number."""
    try:
        milliseconds = int(text)
    except ValueError:
        milliseconds = -1
    return str(milliseconds / 1000) if milliseconds >= 0 else "inf"


def _brief(details: str) -> str:
    """Return the cause at the end of gRPC's account of a failure."""
    return details.rpartition("last error: ")[2].strip()[:200] or "no reason given"
