import asyncio
import contextlib
from types import SimpleNamespace

import grpc
import pytest

from gradwire_core.errors import DrainingError
from gradwire_server.admission import Admission, Gate
from gradwire_server.config import ServerConfig
from gradwire_server.interceptors import REQUEST_ID, CallInterceptor, Methods
from gradwire_server.metrics import NoMetrics
from gradwire_server.quotas import Quotas


def test_a_gate_without_calls_drains_at_once_and_refuses_from_then_on():
    async def scenario() -> None:
        gate = Gate()
        gate.close()
        assert await gate.drain(0.0)
        with pytest.raises(DrainingError), gate:
            raise AssertionError

    asyncio.run(scenario())


def test_a_gate_drains_when_the_last_call_is_out():
    async def scenario() -> None:
        gate = Gate()
        with gate:
            with gate:
                gate.close()
                draining = asyncio.create_task(gate.drain(30.0))
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not draining.done()
        assert await draining

    asyncio.run(scenario())


def test_a_gate_gives_up_after_its_time():
    async def scenario() -> None:
        gate = Gate()
        with gate:
            gate.close()
            assert not await gate.drain(0.01)

    asyncio.run(scenario())


def test_a_gate_drains_when_all_of_the_last_call_is_sent():
    async def scenario() -> None:
        gate = Gate()
        assert gate.hold()
        with gate:
            gate.close()
            assert not gate.hold()
        draining = asyncio.create_task(gate.drain(30.0))
        await asyncio.sleep(0)
        assert not draining.done()
        gate.let_go()
        assert await draining

    asyncio.run(scenario())


class Context:
    """What a handler asks of gRPC."""

    def __init__(self) -> None:
        self.callbacks = []
        self.trailers = ()
        self.aborted = None

    def set_trailing_metadata(self, trailers) -> None:
        self.trailers = trailers

    def time_remaining(self) -> None:
        return None

    def add_done_callback(self, callback) -> None:
        self.callbacks.append(callback)

    def peer(self) -> str:
        return "a peer"

    async def abort(self, code, message, trailers) -> None:
        self.aborted = code
        raise AbortedError


class AbortedError(Exception):
    """What gRPC raises to end a call."""


def unary(scenario, **settings) -> None:
    """Run a scenario with what answers `quick` at once and all else later, and with its admission."""

    async def run() -> None:
        admission = Admission(Gate(), Quotas(ServerConfig(**settings)), NoMetrics())

        async def later(message, call):
            return b"later " + message

        interceptor = CallInterceptor(admission, 10.0, lambda context: "anonymous", 1)

        def find(message, identity):
            if message == b"defect":
                raise ZeroDivisionError
            return (lambda message: b"at once " + message) if message == b"quick" else None

        await scenario(interceptor.wrap("Evaluate", later, find).unary_unary, admission)

    asyncio.run(run())


def test_what_can_be_is_answered_at_once_and_all_is_held_until_it_is_sent():
    async def scenario(answer, admission) -> None:
        contexts = [Context(), Context()]
        assert [await answer(message, context) for message, context in zip((b"quick", b"other"), contexts, strict=True)] == [
            b"at once quick",
            b"later other",
        ]
        assert all(context.trailers[0][0] == REQUEST_ID for context in contexts)
        admission.gate.close()
        assert not await admission.gate.drain(0.0)
        for context in contexts:
            (callback,) = context.callbacks
            callback(context)
        assert await admission.gate.drain(0.0)

    unary(scenario)


class Server:
    """What a server of gRPC is told of handlers."""

    def __init__(self) -> None:
        self.generic = self.registered = None

    def add_generic_rpc_handlers(self, handlers) -> None:
        (self.generic,) = handlers

    def add_registered_method_handlers(self, service, handlers) -> None:
        self.registered = {f"/{service}/{rpc}": handler for rpc, handler in handlers.items()}


def test_prompt_rpcs_are_registered_by_name_and_keep_their_metadata_themselves():
    async def scenario(answer, _admission) -> None:
        handler = grpc.unary_unary_rpc_method_handler(answer)
        server = Server()
        Methods("a.Service", {"Evaluate": handler, "Ask": handler}).add_to(server, ["Ask"])
        metadata = ((REQUEST_ID, "mine"),)
        assert list(server.registered) == ["/a.Service/Ask"]
        for rpc in ("Evaluate", "Ask"):
            assert server.generic.service(SimpleNamespace(method=f"/a.Service/{rpc}", invocation_metadata=())) is handler
        context = Context()
        context.invocation_metadata = lambda: metadata
        assert await server.registered["/a.Service/Ask"].unary_unary(b"quick", context) == b"at once quick"
        assert context.trailers == metadata

    unary(scenario)


@pytest.mark.parametrize("error", [grpc.aio.AbortError("ended"), grpc.aio.UsageError("nobody is there")])
def test_what_grpc_raises_is_no_defect(error):
    async def scenario(answer, _admission) -> None:
        context = Context()
        with pytest.raises(AbortedError):
            await answer(b"defect", context)
        assert context.aborted is grpc.StatusCode.INTERNAL
        context = Context()
        context.set_trailing_metadata = lambda trailers: None
        context.add_done_callback = raising(error)
        with pytest.raises(type(error)):
            await answer(b"quick", context)
        assert context.aborted is None

    unary(scenario)


def raising(error):
    def fail(*_arguments):
        raise error

    return fail


def test_what_is_answered_at_once_waits_for_a_turn_that_is_over_and_what_is_not_does_not():
    async def scenario(answer, admission) -> None:
        order = []

        async def ask(message) -> None:
            if not order:
                admission.turn.spend(1.0)
            order.append(await answer(message, Context()))

        await asyncio.gather(ask(b"quick"), ask(b"other"))
        assert order == [b"later other", b"at once quick"]
        assert not admission.turn.is_over

    unary(scenario)


@pytest.mark.parametrize("is_over", [True, False])
def test_a_gate_that_is_closed_and_quotas_are_for_what_is_answered_at_once_too(is_over):
    async def scenario(answer, admission) -> None:
        codes = []
        for number in range(3):
            if is_over:
                admission.turn.spend(1.0)
            if number == 2:
                admission.gate.close()
            context = Context()
            with contextlib.suppress(AbortedError):
                await answer(b"quick", context)
            codes.append(context.aborted)
        assert codes == [None, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE]

    unary(scenario, max_identity_calls_per_s=1)
