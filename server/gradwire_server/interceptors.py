"""What every call passes through: identity, admission, request id, errors to status, log line, metrics.

A handler knows no gRPC. Here each GradwireError it raises becomes a google.rpc.Status in the trailer
`grpc-status-details-bin`. Any other exception is a defect: its trace goes to the log, and the caller gets INTERNAL with the
request id to report it by.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeAlias

import grpc

from gradwire_core.errors import DrainingError, GradwireError, InternalError
from gradwire_proto.status import encode_status
from gradwire_server.calls import ANONYMOUS, Call, Handler
from gradwire_server.metrics import Metrics
from gradwire_server.quotas import Quotas

REQUEST_ID = "x-request-id"
"""The metadata that names a call: taken from the caller, or made here; always among the trailers."""

_DETAILS = "grpc-status-details-bin"
_PUSHBACK = "grpc-retry-pushback-ms"
_PUSHBACK_S = {"OVERLOADED": 0.1, "DRAINING": 0.0, "QUOTA_EXCEEDED": 1.0}  # where the error does not tell
_REFUSED = "refused"
"""What metrics call the rpc of a call that was not let in: its name is whatever a stranger wrote."""

_LOGGER = logging.getLogger(__name__)
_is_request_id = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Gate:
    """Counts the calls that run, and refuses new ones once the server drains; `with gate:` is one call."""

    def __init__(self) -> None:
        self._running_count = 0
        self._is_draining = False
        self._empty = asyncio.Event()

    def __enter__(self) -> None:
        """Let a call in.

        Raises:
            DrainingError: the server drains.
        """
        if self._is_draining:
            raise DrainingError("server: needed one that takes requests, got one that is stopping; retry on a new connection")
        self._running_count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let a call out."""
        self._running_count -= 1
        if self._is_draining and not self._running_count:
            self._empty.set()

    def close(self) -> None:
        """Refuse new calls from now on."""
        self._is_draining = True

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the calls that run, once the gate is closed; tell whether all of them finished in time."""
        if self._running_count:
            try:
                await asyncio.wait_for(self._empty.wait(), timeout_s)
            except TimeoutError:
                return False
        return True


class CallInterceptor:
    """Makes gRPC handlers of plain ones.

    Args:
        gate: lets calls in and counts them.
        metrics: told of every finished call.
        default_timeout_s: seconds a call may take that brings no deadline.
        quotas: what each identity may use.
        identify: tells who calls, or raises UnauthenticatedError.
    """

    def __init__(
        self, gate: Gate, metrics: Metrics, default_timeout_s: float, quotas: Quotas, identify: Callable[[Context], str]
    ) -> None:
        self._gate = gate
        self._metrics = metrics
        self._quotas = quotas
        self._identify = identify
        self._default_timeout_s = default_timeout_s

    def wrap(self, rpc: str, handler: Handler) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the gRPC handler of an rpc: bytes in, bytes out."""

        async def answer(message: bytes, context: Context) -> bytes:
            return await self._answer(rpc, handler, message, context)

        made: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
        return made

    def refuse(self, error: GradwireError) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the handler of a call, of any kind, that ends it with an error and reads nothing of it."""

        async def answer(_requests: Any, context: Context) -> None:
            request_id = _find_request_id(context)
            _log_refusal(error, _REFUSED, request_id, context.peer())
            self._metrics.observe_call(_REFUSED, error.code, 0.0)
            await _abort(context, error, request_id)

        made: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(answer)
        return made

    async def _answer(self, rpc: str, handler: Handler, message: bytes, context: Context) -> bytes:
        started = time.perf_counter()
        request_id = _find_request_id(context)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        code, identity = "CANCELLED", ""
        try:
            identity = self._identify(context)
            with self._gate, self._quotas.using(identity):
                response = await handler(message, Call(request_id, self._timeout_s(context), identity))
        except Exception as error:  # whatever it is, the caller gets a status
            failure = _as_gradwire_error(error, rpc, request_id, identity)
            code = failure.code
            await _abort(context, failure, request_id)
            raise
        else:
            code = "OK"
            return response
        finally:
            seconds = time.perf_counter() - started
            self._metrics.observe_call(rpc, code, seconds)
            if identity and identity != ANONYMOUS:
                self._metrics.count_identity_call(identity, code)
            _LOGGER.debug("call rpc=%s code=%s request_id=%s caller=%s seconds=%.6f", rpc, code, request_id, identity, seconds)

    def _timeout_s(self, context: Context) -> float:
        left_s: float | None = context.time_remaining()
        return self._default_timeout_s if left_s is None else left_s


def _find_request_id(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID and _is_request_id(str(value)):
            return str(value)
    return secrets.token_hex(8)


def _as_gradwire_error(error: Exception, rpc: str, request_id: str, identity: str) -> GradwireError:
    if isinstance(error, GradwireError):
        _log_refusal(error, rpc, request_id, identity)
        return error
    _LOGGER.error("failed rpc=%s request_id=%s caller=%s", rpc, request_id, identity, exc_info=error)
    return InternalError("server: needed to work, got a defect of its own; report the request id")


def _log_refusal(error: GradwireError, rpc: str, request_id: str, caller: str) -> None:
    level = logging.DEBUG if error.reason in _PUSHBACK_S else logging.INFO  # many at a time, and counted
    text = "refused rpc=%s code=%s reason=%s request_id=%s caller=%s message=%r"
    _LOGGER.log(level, text, rpc, error.code, error.reason, request_id, caller, error.message)


async def _abort(context: Context, error: GradwireError, request_id: str) -> None:
    status = encode_status(error, request_id)
    trailers: list[tuple[str, Any]] = [(_DETAILS, status.SerializeToString()), (REQUEST_ID, request_id)]
    if error.reason in _PUSHBACK_S:
        wait_s = float(error.metadata.get("retry_after_s", _PUSHBACK_S[error.reason]))
        trailers.append((_PUSHBACK, str(math.ceil(wait_s * 1000))))
    await context.abort(grpc.StatusCode[error.code], status.message, tuple(trailers))
