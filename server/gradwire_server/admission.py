"""What every request passes through, however it came: the gate, the share of its identity, log line, metrics, span. No gRPC.

Whatever a handler raises leaves here as a GradwireError: any other exception is a defect, whose trace goes to the log, and whose
caller gets INTERNAL with the request id to report it by.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from gradwire_core.errors import DrainingError, GradwireError, InternalError
from gradwire_server.calls import ANONYMOUS, Call, Stream
from gradwire_server.metrics import Metrics
from gradwire_server.quotas import Quotas
from gradwire_server.refusals import Refusal, Refusals
from gradwire_server.skeletons import Message
from gradwire_server.tracing import Tracer
from gradwire_server.turn import Turn

if TYPE_CHECKING:
    from opentelemetry.context import Context

PUSHBACK_S = {"OVERLOADED": 0.1, "DRAINING": 0.0, "QUOTA_EXCEEDED": 1.0}
"""Seconds after which a refused caller may come again, by the reason of the refusal, where the error does not tell."""

_EVALUATIONS = frozenset({"Evaluate", "EvaluateStream"})

R = TypeVar("R")

_LOGGER = logging.getLogger(__name__)


class Gate:
    """Counts the requests that run, and refuses new ones once the server drains; `with gate:` is one request.

    It also counts the calls that are not over, since an answer takes time to be sent after its request has run.
    """

    def __init__(self) -> None:
        self._running_count = 0
        self._call_count = 0
        self._is_closed = False
        self._empty = asyncio.Event()
        self._listeners: set[Callable[[], None]] = set()

    def __enter__(self) -> None:
        """Let a request in.

        Raises:
            DrainingError: the server drains.
        """
        self.check()
        self._running_count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let a request out."""
        self._running_count -= 1
        self._tell_if_empty()

    def hold(self) -> bool:
        """Count a call until `let_go`, and tell so; not once the server drains, which those that come then do not keep waiting."""
        if not self._is_closed:
            self._call_count += 1
        return not self._is_closed

    def let_go(self) -> None:
        """Count a call no longer: all of its answer is sent, or it has ended otherwise."""
        self._call_count -= 1
        self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        if self._is_closed and not (self._running_count or self._call_count):
            self._empty.set()

    @property
    def is_closed(self) -> bool:
        """Whether the server drains."""
        return self._is_closed

    def check(self) -> None:
        """Let a request in that is answered before anything else happens, so that nobody need count it; raises as entering."""
        if self._is_closed:
            raise draining()

    @property
    def running_count(self) -> int:
        """The number of requests that run."""
        return self._running_count

    @property
    def listener_count(self) -> int:
        """The number of those who listen: the sessions that are open."""
        return len(self._listeners)

    def close(self) -> None:
        """Refuse new requests from now on, and tell those who listen."""
        self._is_closed = True
        for listener in tuple(self._listeners):
            listener()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have a function called once the gate closes, or at once if it has; return what stops that."""
        self._listeners.add(listener)
        if self._is_closed:
            listener()
        return lambda: self._listeners.discard(listener)

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the requests that run and the calls that are not over, once the gate is closed; tell whether all did."""
        if self._running_count or self._call_count:
            try:
                await asyncio.wait_for(self._empty.wait(), timeout_s)
            except TimeoutError:
                return False
        return True


class Admission:
    """Lets requests in, and accounts for them.

    Args:
        gate: lets them in and counts them.
        quotas: what each identity may use.
        metrics: told of every finished request.
        tracer: makes a span of every request; None for no traces.
        refusals: what was refused a moment ago.

    Attributes:
        gate: as given.
        turn: of the event loop, which what is answered at once spends.
    """

    def __init__(
        self, gate: Gate, quotas: Quotas, metrics: Metrics, tracer: Tracer | None = None, refusals: Refusals | None = None
    ) -> None:
        self.gate = gate
        self.turn = Turn()
        self._quotas = quotas
        self._metrics = metrics
        self._tracer = tracer
        self._refusals = refusals or Refusals()

    async def answer(self, rpc: str, handler: Callable[[bytes, Call], Awaitable[R]], message: bytes, call: Call) -> R:
        """Return what a handler answers to a request.

        Raises:
            GradwireError: the request is refused or fails.
        """
        started = time.perf_counter()
        code, reason = "CANCELLED", ""
        if self._tracer is not None:
            call = self._tracer.begin_call(rpc, call)
        try:
            with self.gate, self._quotas.using(call.identity):
                response = await handler(message, call)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a status
            failure = _as_gradwire_error(error, rpc, call.request_id, call.identity)
            code, reason = failure.code, failure.reason
            if rpc in _EVALUATIONS:
                self._refusals.note(call.identity, message, failure)
            raise failure from None
        else:
            code = "OK"
            return response
        finally:
            self._count(rpc, code, call.request_id, call.identity, time.perf_counter() - started)
            if call.span is not None:
                call.span.end(code, reason)

    def answer_at_once(
        self,
        rpc: str,
        handler: Callable[[Message], R],
        message: Message,
        request_id: str,
        identity: str,
        parent: Context | None = None,
    ) -> R:
        """Return what a handler answers to a request that waits for nothing; that is spent of the turn of the event loop.

        Raises:
            GradwireError: the request is refused or fails.
        """
        started = time.perf_counter()
        code, reason = "OK", ""
        span = None if self._tracer is None else self._tracer.begin(rpc, parent, request_id)
        try:
            self.gate.check()
            with self._quotas.using(identity):
                return handler(message) if span is None else span.run_inline(handler, message)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a status
            failure = _as_gradwire_error(error, rpc, request_id, identity)
            code, reason = failure.code, failure.reason
            raise failure from None
        finally:
            seconds = time.perf_counter() - started
            self.turn.spend(seconds)
            self._count(rpc, code, request_id, identity, seconds)
            if span is not None:
                span.end(code, reason)

    async def answer_in_turn(self, handler: Callable[[Message], R], message: Message, call: Call) -> R:
        """Return what a handler answers to a request that waits for nothing, once the turn of the event loop is not over."""
        await self.turn.come()
        started = time.perf_counter()
        try:
            return handler(message) if call.span is None else call.span.run_inline(handler, message)
        finally:
            self.turn.spend(time.perf_counter() - started)

    def refuse_again(self, rpc: str, message: Message, request_id: str, identity: str) -> Refusal | None:
        """Return the answer to a serialized EvaluateRequest whose like was refused a moment ago, and account for it; else None."""
        if self.gate.is_closed or self._tracer is not None or self._quotas.is_limited:
            return None  # which has more to be said, or counted
        found = self._refusals.find(identity, message)
        if found is not None:
            self._count(rpc, found.error.code, request_id, identity, 0.0)
        return found

    def refuse(self, rpc: str, error: Exception, request_id: str, caller: str, parent: Context | None = None) -> GradwireError:
        """Account for a request that ends unread, and return what its caller is told: the error, or INTERNAL for a defect.

        One of a caller who is not known, and has no parent, leaves no span.
        """
        failure = _as_gradwire_error(error, rpc, request_id, caller)
        self._metrics.observe_call(rpc, failure.code, 0.0)
        if self._tracer is not None and parent is not None:
            self._tracer.begin(rpc, parent, request_id).end(failure.code, failure.reason)
        return failure

    def _count(self, rpc: str, code: str, request_id: str, identity: str, seconds: float) -> None:
        self._metrics.observe_call(rpc, code, seconds)
        if identity != ANONYMOUS:
            self._metrics.count_identity_call(identity, code)
        _LOGGER.debug("call rpc=%s code=%s request_id=%s caller=%s seconds=%.6f", rpc, code, request_id, identity, seconds)


StreamHandler: TypeAlias = Callable[[Stream, Call, Admission], Awaitable[None]]
"""Answers the messages of a stream, each request in it admitted by itself; a GradwireError that it raises ends the stream."""


def draining() -> DrainingError:
    """Return the error of a request that comes too late."""
    return DrainingError("server: needed one that takes requests, got one that is stopping; retry on a new connection")


def _as_gradwire_error(error: Exception, rpc: str, request_id: str, identity: str) -> GradwireError:
    if isinstance(error, GradwireError):
        _log_refusal(error, rpc, request_id, identity)
        return error
    _LOGGER.error("failed rpc=%s request_id=%s caller=%s", rpc, request_id, identity, exc_info=error)
    return InternalError("server: needed to work, got a defect of its own; report the request id")


def _log_refusal(error: GradwireError, rpc: str, request_id: str, caller: str) -> None:
    level = logging.DEBUG if error.reason in PUSHBACK_S else logging.INFO  # many at a time, and counted
    text = "refused rpc=%s code=%s reason=%s request_id=%s caller=%s message=%r"
    _LOGGER.log(level, text, rpc, error.code, error.reason, request_id, caller, error.message)
