"""Traces, as OpenTelemetry has them: what a request waited for and what was done for it, as spans. Workers know nothing of it.

    rpc                       from the arrival of a request to its answer; its parent is the caller's span
        queue                 until a worker was at it
        worker                until its answer was there
            decode, compile, run, encode
        run                   where the front end evaluated it itself

A worker tells how long each part took beside its answer (`frames.Timings`), and the front end makes spans of that. Nothing of
OpenTelemetry is imported before a Tracer is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.metadata
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from google.rpc.code_pb2 import Code  # type: ignore[import-untyped]

from gradwire_server.calls import Call
from gradwire_server.config import ConfigError, trace_exporter
from gradwire_server.frames import Frame

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from gradwire_server.skeletons import Message

R = TypeVar("R")

_NAME = "gradwire"
_EXPORTERS = "opentelemetry_traces_exporter"
_PARTS = ("decode", "compile", "run", "encode")
_LAST_WORDS_S = 2.0  # for the spans that are not exported yet when the server stops
_FAILURES = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that are the server's doing, by the conventions of OpenTelemetry."""


class Tracer:
    """Makes the spans of requests.

    Args:
        provider: what samples and exports them.
        service: the name of the service that the rpcs are of.
    """

    def __init__(self, provider: TracerProvider, service: str) -> None:
        from opentelemetry.propagate import get_global_textmap

        self._provider = provider
        self._service = service
        self._make_span = provider.get_tracer(_NAME).start_span
        self._read_parent = get_global_textmap().extract

    def find_parent(self, metadata: Iterable[tuple[str, str | bytes]]) -> Context:
        """Return where the spans of a call belong, as its metadata tell; malformed ones are as none."""
        return self._read_parent({key: value for key, value in metadata if isinstance(value, str)})

    def begin(self, rpc: str, parent: Context | None, request_id: str) -> RpcSpan:
        """Return the span of a request, which begins now."""
        from opentelemetry.trace import SpanKind

        attributes = {
            "rpc.system": "grpc",
            "rpc.service": self._service,
            "rpc.method": rpc,
            "gradwire.request_id": request_id,
        }
        name = f"{self._service}/{rpc}"
        return RpcSpan(self._make_span(name, parent, SpanKind.SERVER, attributes), self._make_span)

    def begin_call(self, rpc: str, call: Call) -> Call:
        """Return a call with the span of its request, which begins now."""
        return dataclasses.replace(call, span=self.begin(rpc, call.parent, call.request_id))

    async def close(self) -> None:
        """Export what is not exported yet; what cannot be in a moment is lost."""
        done, loop = asyncio.Event(), asyncio.get_running_loop()

        def flush() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=flush, name="traces", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await done.wait()


class RpcSpan:
    """The span of a request.

    Args:
        span: the span.
        make_span: makes others.
    """

    def __init__(self, span: Span, make_span: Callable[..., Span]) -> None:
        from opentelemetry.trace import set_span_in_context

        self._span = span
        self._make_span = make_span
        self._context = set_span_in_context(span)

    def end(self, code: str, reason: str) -> None:
        """End it by the name of a status code, and the reason of the error, or "" for none."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("rpc.grpc.status_code", Code.Value(code))
        if reason:
            self._span.set_attribute("error.type", reason)
        if code in _FAILURES:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def run_inline(self, answer: Callable[[Message], R], message: Message) -> R:
        """Return what a function of the front end answers to a request."""
        if not self._span.is_recording():
            return answer(message)
        began_ns = time.time_ns()
        try:
            return answer(message)
        finally:
            self._add("run", self._context, began_ns, time.time_ns(), {"gradwire.inline": True})

    def add_task(self, began_ns: int, answer: Frame) -> None:
        """Add the spans of a task that a worker has just answered.

        Args:
            began_ns: when it was given to the pool, in nanoseconds since 1970.
            answer: the answer.
        """
        if not self._span.is_recording():
            return
        from opentelemetry.trace import set_span_in_context

        ended_ns, timings = time.time_ns(), answer.timings
        place_ns = min(began_ns + _nanoseconds(timings.wait_s), ended_ns)
        self._add("queue", self._context, began_ns, place_ns, {})
        attributes: dict[str, AttributeValue] = {"gradwire.answer": answer.kind.name, "gradwire.batch_size": timings.batch_count}
        worker = self._add("worker", self._context, place_ns, ended_ns, attributes)
        context = set_span_in_context(worker)
        for name, seconds in zip(_PARTS, timings[1:5], strict=True):
            if seconds:
                next_ns = min(place_ns + _nanoseconds(seconds), ended_ns)
                self._add(name, context, place_ns, next_ns, {})
                place_ns = next_ns

    def _add(self, name: str, context: Context, began_ns: int, ended_ns: int, attributes: Mapping[str, AttributeValue]) -> Span:
        """Return a span that is over."""
        span = self._make_span(name, context, attributes=attributes, start_time=began_ns)
        span.end(ended_ns)
        return span


def make_tracer(service: str) -> Tracer:
    """Return a tracer that is set up by the variables OTEL_... that are standard.

    Args:
        service: the name of the service that the rpcs are of.

    Raises:
        ConfigError: a package is missing, or a variable has a value that it may not have.
    """
    try:
        return Tracer(make_provider(), service)
    except ImportError as error:
        raise ConfigError(f'traces: needed their packages, got no {error.name}; pip install "gradwire[otel]"') from error
    except ValueError as error:
        raise ConfigError(f"traces: needed variables OTEL_... with values that they may have, got others: {error}") from error


def make_provider() -> TracerProvider:
    """Return what samples and exports spans, by the variables OTEL_... that are standard.

    Raises:
        ImportError: the SDK is not installed.
        ConfigError: there is no such exporter.
        ValueError: a variable has a value that it may not have.
    """
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = logging.getLogger("gradwire_server")
    theirs = logging.getLogger("opentelemetry")
    theirs.handlers[:], theirs.propagate = ours.handlers, ours.propagate
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: _NAME}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    name = trace_exporter()
    if name != "none":
        provider.add_span_processor(BatchSpanProcessor(_make_exporter(name)))
    return provider


def _make_exporter(name: str) -> Any:
    """Return the exporter that an installed package has by a name."""
    found = next(iter(importlib.metadata.entry_points(group=_EXPORTERS, name=name)), None)
    if found is None:
        text = (
            f'traces: needed an exporter that is installed, got {name}; pip install "gradwire[otel]", or set OTEL_TRACES_EXPORTER'
        )
        raise ConfigError(text)
    return found.load()()


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
