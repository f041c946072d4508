"""Calls and sessions against a server that misses programs, fails, and ends sessions."""

import asyncio

import grpc
import pytest

from gradwire import ClientConfig
from gradwire_core.errors import OverloadedError, ProgramMissingError
from gradwire_load.encoding import Encoded
from gradwire_load.transport import CallError, Connections, Route
from gradwire_proto.status import encode_status
from gradwire_proto.v1 import differentiation_service_pb2 as pb

NAMED = pb.EvaluateRequest(program_name="programs/x")
INLINE = pb.EvaluateRequest(program={})
ANSWER = pb.EvaluateResponse(program_name="programs/x")


class Server:
    """Answers each request by the next of a list: `None` for an answer, an error, or `end` for the end of the session."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.seen = []

    def reply(self, request):
        self.seen.append(request.WhichOneof("program_source"))
        return self.replies.pop(0)

    async def evaluate(self, data, context):
        error = self.reply(pb.EvaluateRequest.FromString(data))
        if error is not None:
            status = encode_status(error).SerializeToString()
            await context.abort(getattr(grpc.StatusCode, error.code), error.message, (("grpc-status-details-bin", status),))
        return ANSWER.SerializeToString()

    async def stream(self, messages, _):
        async for data in messages:
            message = pb.EvaluateStreamRequest.FromString(data)
            error = self.reply(message.evaluate)
            if error == "end":
                return
            answer = pb.EvaluateStreamResponse(id=message.id)
            if error is None:
                answer.evaluate.CopyFrom(ANSWER)
            else:
                answer.error.ParseFromString(encode_status(error).SerializeToString())
            yield answer.SerializeToString()


async def asked(mode, server, count=1, timeout_s=10.0):
    """What came of requests that name their program, one after the other."""
    handlers = {
        "Evaluate": grpc.unary_unary_rpc_method_handler(server.evaluate),
        "EvaluateStream": grpc.stream_stream_rpc_method_handler(server.stream),
    }
    service = grpc.aio.server()
    service.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("gradwire.v1.DifferentiationService", handlers),))
    port = service.add_insecure_port("127.0.0.1:0")
    await service.start()
    connections = Connections(Route(f"127.0.0.1:{port}", ClientConfig(), mode))
    request = Encoded.of(NAMED, Encoded.of(INLINE))
    found = []
    for _ in range(count):
        try:
            found.append(pb.EvaluateResponse.FromString(await connections.ask(request, timeout_s)))
        except CallError as error:
            found.append(error)
    await connections.close()
    await service.stop(None)
    return found


@pytest.fixture(params=["unary", "stream"])
def mode(request):
    return request.param


async def test_answers_come_back(mode):
    server = Server(None, None)
    assert await asked(mode, server, 2) == [ANSWER, ANSWER]
    assert server.seen == ["program_name"] * 2


async def test_a_program_that_is_missing_is_sent_along(mode):
    server = Server(ProgramMissingError("program: needed, got none; send it", name="programs/x"), None)
    assert await asked(mode, server) == [ANSWER]
    assert server.seen == ["program_name", "program"]


async def test_a_program_that_stays_missing_is_an_error(mode):
    missing = ProgramMissingError("program: needed, got none; send it", name="programs/x")
    (error,) = await asked(mode, Server(missing, missing))
    assert error.reason == "PROGRAM_MISSING"


async def test_the_reason_of_an_error_is_the_server_s(mode):
    refusal = OverloadedError("queue: needed a free place, got none; retry")
    error, answer = await asked(mode, Server(refusal, None), 2)
    assert (error.reason, error.text) == ("OVERLOADED", "queue: needed a free place, got none; retry")
    assert answer == ANSWER


async def test_a_session_that_ended_is_opened_again():
    error, answer = await asked("stream", Server("end", None), 2)
    assert error.reason == "UNAVAILABLE"
    assert answer == ANSWER


async def test_no_server_is_a_reason():
    connections = Connections(Route("127.0.0.1:1", ClientConfig(), "unary"))
    with pytest.raises(CallError) as raised:
        await connections.ask(Encoded.of(NAMED), 5.0)
    assert raised.value.reason == "UNAVAILABLE"
    await connections.close()


async def test_many_requests_of_a_session_are_under_way_at_once():
    """All are written before one is answered."""

    class Late(Server):
        async def stream(self, messages, _):
            waiting = [pb.EvaluateStreamRequest.FromString(await anext(messages)).id for _ in range(5)]
            for number in reversed(waiting):
                yield pb.EvaluateStreamResponse(id=number, evaluate=ANSWER).SerializeToString()

    server = Late()
    service = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(server.stream)
    service.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("gradwire.v1.DifferentiationService", {"EvaluateStream": handler}),)
    )
    port = service.add_insecure_port("127.0.0.1:0")
    await service.start()
    connections = Connections(Route(f"127.0.0.1:{port}", ClientConfig(), "stream"))
    answers = await asyncio.gather(*[connections.ask(Encoded.of(NAMED), 10.0) for _ in range(5)])
    assert answers == [ANSWER.SerializeToString()] * 5
    await connections.close()
    await service.stop(None)
