"""Where gRPC ends: what a call brings besides its messages is found here, and errors become statuses.

A handler knows no gRPC. Each GradwireError that a call ends with becomes a google.rpc.Status in the trailer
`grpc-status-details-bin`. What metadata a call brings is kept from when its handler is found (`Methods`): gRPC makes them anew
each time that it is asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import grpc

from gradwire_core.errors import GradwireError
from gradwire_proto.joined import KEY, told_count
from gradwire_proto.status import cut_message, encode_status
from gradwire_server.admission import PUSHBACK_S, Admission, StreamHandler
from gradwire_server.calls import Call, FindQuick, Handler, UploadHandler, is_request_id, make_request_id
from gradwire_server.tracing import Tracer

if TYPE_CHECKING:
    from opentelemetry.context import Context as TraceContext

REQUEST_ID = "x-request-id"
"""The metadata that names a call: taken from the caller, or made here; always among the trailers."""

_DETAILS = "grpc-status-details-bin"
_PUSHBACK = "grpc-retry-pushback-ms"
_REFUSED = "refused"
"""What metrics call the rpc of a call that was not let in: its name is whatever a stranger wrote."""

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Metadata: TypeAlias = Sequence[tuple[str, Any]]

_METADATA: ContextVar[Metadata] = ContextVar("metadata", default=())


class Methods(grpc.GenericRpcHandler):
    """Finds the handlers of calls, and keeps what metadata each brings.

    Args:
        service: whose they are.
        handlers: of its rpcs, by their names.
    """

    def __init__(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        self._service = service
        self._handlers = {f"/{service}/{rpc}": handler for rpc, handler in handlers.items()}

    def add_to(self, server: grpc.aio.Server, prompt_rpcs: Collection[str]) -> None:
        """Have a server, not started yet, find the handlers here.

        Args:
            server: it.
            prompt_rpcs: those with one message each way whose calls wait for none of other rpcs to be taken: gRPC has a queue
                for each rpc that it knows by name, and one for all others. Each takes a little time of every call.
        """
        server.add_generic_rpc_handlers((self,))
        known = {rpc: _keeping(self._handlers[f"/{self._service}/{rpc}"]) for rpc in prompt_rpcs}
        server.add_registered_method_handlers(self._service, known)

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a call, which runs in the task that asks for it; None where there is none."""
        _METADATA.set(handler_call_details.invocation_metadata or ())
        return self._handlers.get(handler_call_details.method)


def _keeping(handler: grpc.RpcMethodHandler[bytes, bytes]) -> grpc.RpcMethodHandler[bytes, bytes]:
    """Return the handler of calls that `Methods` is not asked about, which keeps the metadata itself."""
    found: Any = handler.unary_unary
    assert found is not None, "needed an rpc with one message each way"

    async def answer(message: bytes, context: Context) -> bytes:
        _METADATA.set(tuple(context.invocation_metadata() or ()))
        response: bytes = await found(message, context)
        return response

    made: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    return made


class CallInterceptor:
    """Makes gRPC handlers of plain ones.

    Args:
        admission: lets requests in and accounts for them.
        default_timeout_s: seconds a call may take that brings no deadline.
        identify: tells who calls, or raises UnauthenticatedError.
        joined_count: how many messages of a stream are taken in one.
        tracer: finds out where the spans of a call belong; None for no traces.
    """

    def __init__(
        self,
        admission: Admission,
        default_timeout_s: float,
        identify: Callable[[Context], str],
        joined_count: int,
        tracer: Tracer | None = None,
    ) -> None:
        self._admission = admission
        self._tracer = tracer
        self._identify = identify
        self._default_timeout_s = default_timeout_s
        self._joined_count = joined_count

    def wrap(self, rpc: str, handler: Handler, find_quick: FindQuick | None = None) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the gRPC handler of an rpc: bytes in, bytes out.

        Args:
            rpc: its name.
            handler: answers requests.
            find_quick: finds what answers some requests at once, which is all that is done for them.
        """
        admission = self._admission

        async def answer(message: bytes, context: Context) -> bytes:
            request_id = self._greet(context)
            try:  # as `_ending`, without what a context manager takes of a call that is answered in microseconds
                identity = self._let_in(rpc, context, request_id)
                quick = None if find_quick is None else find_quick(message, identity)
                if quick is not None and not admission.turn.is_over:
                    return admission.answer_at_once(rpc, quick, message, request_id, identity, self._find_parent())
                refusal = admission.refuse_again(rpc, message, request_id, identity)
                if refusal is not None:
                    await _send_status(context, refusal.error, refusal.status(request_id), request_id)
                work = handler if quick is None else functools.partial(admission.answer_in_turn, quick)
                return await admission.answer(rpc, work, message, self._call(context, request_id, identity))
            except GradwireError as error:
                await _abort(context, error, request_id)
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a status
                await self._fail(rpc, context, error, request_id)

        made: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
        return made

    def wrap_upload(self, rpc: str, handler: UploadHandler) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the gRPC handler of an rpc whose request is a stream of messages."""

        async def answer(_requests: Any, context: Context) -> None:
            async with self._ending(rpc, context) as request_id:
                call, stream = self._open(rpc, context, request_id), _Stream(context)
                response = await self._admission.answer(rpc, lambda _message, call: handler(stream.read, call), b"", call)
                await stream.write(response)

        made: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(answer)
        return made

    def wrap_stream(self, rpc: str, handler: StreamHandler) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the gRPC handler of an rpc whose messages are a stream in at least one direction."""

        async def answer(_requests: Any, context: Context) -> None:
            async with self._ending(rpc, context) as request_id:
                count = told_count(_METADATA.get())
                call = dataclasses.replace(self._open(rpc, context, request_id), peer=context.peer(), joined_count=count)
                if count > 1:
                    await context.send_initial_metadata(((KEY, str(self._joined_count)),))
                try:
                    await handler(_Stream(context), call, self._admission)
                except GradwireError as error:
                    self._admission.refuse(rpc, error, request_id, call.identity, call.parent)
                    raise

        made: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(answer)
        return made

    def refuse(self, error: Exception) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the handler of a call, of any kind, that ends it with an error and reads nothing of it."""

        async def answer(_requests: Any, context: Context) -> None:
            request_id = _find_request_id(context.invocation_metadata())
            failure = self._admission.refuse(_REFUSED, error, request_id, context.peer())
            await _abort(context, failure, request_id)

        made: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(answer)
        return made

    @contextlib.asynccontextmanager
    async def _ending(self, rpc: str, context: Context) -> AsyncIterator[str]:
        """Give a call its name for a block, and end it with what the block raises: a GradwireError is accounted for."""
        request_id = self._greet(context)
        try:
            yield request_id
        except GradwireError as error:
            await _abort(context, error, request_id)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a status
            await self._fail(rpc, context, error, request_id)

    async def _fail(self, rpc: str, context: Context, error: Exception, request_id: str) -> NoReturn:
        """End a call with what a defect is to its caller; an error of gRPC's own is that the call has ended, or nobody is there."""
        if isinstance(error, grpc.aio.BaseError):
            raise error
        failure = self._admission.refuse(rpc, error, request_id, context.peer())
        await _abort(context, failure, request_id)

    def _open(self, rpc: str, context: Context, request_id: str) -> Call:
        """Return what is known of a call besides its messages.

        Raises:
            GradwireError: it is not known who calls; the refusal is accounted for.
        """
        return self._call(context, request_id, self._let_in(rpc, context, request_id))

    def _greet(self, context: Context) -> str:
        """Return the name of a call, which is among the trailers however it ends."""
        request_id = _find_request_id(_METADATA.get())
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        return request_id

    def _let_in(self, rpc: str, context: Context, request_id: str) -> str:
        """Return who calls; a server that drains waits for the call until all of its answer is sent.

        Raises:
            GradwireError: that is not known; the refusal is accounted for.
        """
        try:
            identity = self._identify(context)
        except GradwireError as error:
            self._admission.refuse(rpc, error, request_id, context.peer())
            raise
        if self._admission.gate.hold():
            context.add_done_callback(self._let_go)  # type: ignore[arg-type]  # it is given the context alone
        return identity

    def _let_go(self, _context: object) -> None:
        self._admission.gate.let_go()

    def _call(self, context: Context, request_id: str, identity: str) -> Call:
        left_s: float | None = context.time_remaining()
        timeout_s = self._default_timeout_s if left_s is None else left_s
        return Call(request_id, timeout_s, identity, parent=self._find_parent())

    def _find_parent(self) -> TraceContext | None:
        """Return where the spans of a call belong; None where no traces are made."""
        return None if self._tracer is None else self._tracer.find_parent(_METADATA.get())


class _Stream:
    """The messages of a call of gRPC."""

    def __init__(self, context: Context) -> None:
        self._read = context.read
        self.write: Callable[[bytes], Any] = context.write

    async def read(self) -> bytes | None:
        """Return the next message; None when the caller has ended its side."""
        message: Any = await self._read()
        return None if message is grpc.aio.EOF else message


def _find_request_id(metadata: Iterable[Any] | None) -> str:
    for key, value in metadata or ():
        if key == REQUEST_ID and is_request_id(str(value)):
            return str(value)
    return make_request_id()


async def _abort(context: Context, error: GradwireError, request_id: str) -> NoReturn:
    await _send_status(context, error, encode_status(error, request_id).SerializeToString(), request_id)


async def _send_status(context: Context, error: GradwireError, status: bytes, request_id: str) -> NoReturn:
    """End a call with an error, of which this is the serialized status."""
    trailers: list[tuple[str, Any]] = [(_DETAILS, status), (REQUEST_ID, request_id)]
    if error.reason in PUSHBACK_S:
        wait_s = float(error.metadata.get("retry_after_s", PUSHBACK_S[error.reason]))
        trailers.append((_PUSHBACK, str(math.ceil(wait_s * 1000))))
    await context.abort(grpc.StatusCode[error.code], cut_message(error.message), tuple(trailers))
    raise AssertionError
