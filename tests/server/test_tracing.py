"""Traces: the spans of a request, over gRPC and real workers, in the memory of the tests or at a collector; and none where off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import differentiation_service_pb2_grpc as pb_grpc
from gradwire_server import front as front_module
from gradwire_server import repeated
from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.frames import Frame, join_frames, split_frame
from gradwire_server.front import FrontEnd
from gradwire_server.metrics import NoMetrics
from gradwire_server.stores import local_stores
from gradwire_server.tracing import Tracer, make_tracer
from gradwire_server.worker import Worker
from tests.server.processes import serving
from tests.server.requests import PATIENCE_S, X, product, quick, until
from tests.server.test_inline import naming
from tests.server.test_pool import QUICK, SHORT, with_pool

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
PARENT = ("traceparent", f"00-{TRACE:032x}-{SPAN:016x}-01")
RPC = "gradwire.v1.DifferentiationService/"
WORK = ["decode", "run", "encode"]


class Bench:
    """A pool of a worker in this process, which is given so many tasks together."""

    def __init__(self, config: ServerConfig) -> None:
        self.worker = Worker(config)
        self.count = 1
        self._waiting: list[tuple[Frame, asyncio.Future[Frame]]] = []

    async def run(self, task: Frame, timeout_s: float) -> Frame:
        self._waiting.append((task, asyncio.get_running_loop().create_future()))
        answer = self._waiting[-1][1]
        if len(self._waiting) == self.count:
            tasks, answers = zip(*self._waiting, strict=True)
            self._waiting.clear()
            found = split_frame(self.worker.answer(join_frames(tasks))) if self.count > 1 else [self.worker.answer(task)]
            for future, frame in zip(answers, found, strict=True):
                future.set_result(frame)
        return await answer


class Spans:
    """The spans of a front end, and its pool."""

    def __init__(self, exporter: InMemorySpanExporter, pool: Bench) -> None:
        self.exporter = exporter
        self.pool = pool

    def take(self) -> list[ReadableSpan]:
        """The spans that are over, in the order of their beginnings, and no more."""
        found = sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)
        self.exporter.clear()
        return found


@asynccontextmanager
async def traced(monkeypatch: pytest.MonkeyPatch, **settings) -> AsyncIterator[tuple[Spans, pb_grpc.DifferentiationServiceStub]]:
    """A front end that is traced, with a worker in this process, and a stub of it."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(front_module, "make_tracer", lambda service: Tracer(provider, service))
    config = ServerConfig(listen="127.0.0.1:0", traces=True, **settings)
    pool = Bench(config)
    async with (
        asyncio.timeout(PATIENCE_S),
        FrontEnd(config, pool, local_stores(config, {}, NoMetrics()), NoMetrics(), shares_port=False) as front,
        grpc.aio.insecure_channel(front.address) as channel,
    ):
        yield Spans(exporter, pool), pb_grpc.DifferentiationServiceStub(channel)


def children(spans: list[ReadableSpan], parent: ReadableSpan) -> list[ReadableSpan]:
    return [span for span in spans if span.parent is not None and span.parent.span_id == parent.context.span_id]


def names(spans: list[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]


def the(spans: list[ReadableSpan], name: str) -> ReadableSpan:
    (found,) = (span for span in spans if span.name == name)
    return found


def assert_nested(spans: list[ReadableSpan]) -> None:
    """Every span is of one trace, within its parent, and behind those of its siblings that began before it."""
    assert len({span.context.trace_id for span in spans}) == 1
    for span in spans:
        end = span.start_time
        for child in children(spans, span):
            assert end <= child.start_time <= child.end_time <= span.end_time
            end = child.end_time


async def test_a_call_has_spans_of_what_it_waited_for_and_what_was_done(monkeypatch):
    async with traced(monkeypatch, inline_budget_s=0.0) as (spans, stub):
        await stub.Evaluate(quick(), metadata=[PARENT, ("x-request-id", "mine")])
        found = spans.take()
        await stub.Evaluate(quick())
        again = spans.take()
    root = the(found, RPC + "Evaluate")
    assert root.kind is SpanKind.SERVER
    assert (root.context.trace_id, root.parent.span_id) == (TRACE, SPAN)
    assert dict(root.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "gradwire.v1.DifferentiationService",
        "rpc.method": "Evaluate",
        "rpc.grpc.status_code": 0,
        "gradwire.request_id": "mine",
    }
    assert root.status.status_code is StatusCode.UNSET
    assert names(children(found, root)) == ["queue", "worker"]
    worker = the(found, "worker")
    assert dict(worker.attributes) == {"gradwire.answer": "RESULT", "gradwire.batch_size": 1}
    assert names(children(found, worker)) == ["decode", "compile", "run", "encode"]
    assert len(found) == 7
    assert_nested(found)
    assert names(children(again, the(again, "worker"))) == WORK  # it is compiled already
    assert the(again, RPC + "Evaluate").parent is None
    assert_nested(again)


async def test_other_calls_have_spans_too(monkeypatch):
    async with traced(monkeypatch) as (spans, stub):
        await stub.GetCapabilities(pb.GetCapabilitiesRequest(), metadata=[("traceparent", "nonsense"), ("x-bin", b"\xff")])
        (span,) = spans.take()
        assert span.name == RPC + "GetCapabilities"
        assert span.parent is None
        await stub.Explain(pb.ExplainRequest(program=quick().program))
        assert names(children(found := spans.take(), the(found, "worker")))[-1] == "encode"
        assert the(found, "run").end_time > the(found, "run").start_time


async def test_an_error_is_told_with_its_reason(monkeypatch):
    wrong = quick()
    wrong.inputs[0].data = b"short"
    async with traced(monkeypatch) as (spans, stub):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Evaluate(wrong)
        found = spans.take()
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Evaluate(naming(product(), X))
        (refused,) = spans.take()
    root = the(found, RPC + "Evaluate")
    assert root.attributes["rpc.grpc.status_code"] == caught.value.code().value[0] == 3
    assert root.attributes["error.type"] == "INVALID_ARGUMENT"
    assert root.status.status_code is StatusCode.UNSET  # it is the caller's doing
    assert the(found, "worker").attributes["gradwire.answer"] == "ERROR"
    assert names(children(found, the(found, "worker"))) == ["decode"]
    assert refused.attributes["error.type"] == "PROGRAM_MISSING"
    assert_nested(found)


async def test_a_defect_is_the_servers_doing(monkeypatch):
    async with traced(monkeypatch) as (spans, stub):
        monkeypatch.setattr(spans.pool, "run", None)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Evaluate(quick())
        (span,) = spans.take()
    assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.INTERNAL.value[0]
    assert span.status.status_code is StatusCode.ERROR


async def test_each_request_of_a_session_has_its_own_below_the_stream_s(monkeypatch):
    wrong = quick()
    wrong.inputs[0].data = b"short"
    async with traced(monkeypatch, inline_budget_s=0.0) as (spans, stub):
        stream = stub.EvaluateStream(metadata=[PARENT])
        await stream.write(pb.EvaluateStreamRequest(id=1, evaluate=quick(), request_id="first"))
        await stream.read()
        await stream.write(pb.EvaluateStreamRequest(id=2, evaluate=wrong))
        await stream.read()
        await stream.write(pb.EvaluateStreamRequest(id=3))  # which no caller may send
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
        found = spans.take()
    roots = [span for span in found if span.name == RPC + "EvaluateStream"]
    assert [(span.context.trace_id, span.parent.span_id) for span in roots] == [(TRACE, SPAN)] * 3
    assert [span.attributes["rpc.grpc.status_code"] for span in roots] == [0, 3, 3]
    assert roots[0].attributes["gradwire.request_id"] == "first"
    assert [names(children(found, span)) for span in roots] == [["queue", "worker"]] * 2 + [[]]
    assert_nested(found)


@pytest.mark.parametrize("is_session", [False, True])
async def test_what_the_front_end_evaluates_itself_runs_there(monkeypatch, is_session):
    async with traced(monkeypatch, inline_budget_s=1.0) as (spans, stub):
        await stub.Evaluate(quick())
        stream = stub.EvaluateStream(metadata=[PARENT])

        async def ask() -> list[ReadableSpan]:
            if not is_session:
                await stub.Evaluate(naming(product(), X), metadata=[PARENT])
            else:
                await stream.write(pb.EvaluateStreamRequest(id=1, evaluate=naming(product(), X)))
                await stream.read()
            return spans.take()

        spans.take()
        found = await ask()
        assert "queue" in names(found)
        while "queue" in names(found):
            found = await ask()
        stream.cancel()
    root, run = found
    assert root.name == RPC + ("EvaluateStream" if is_session else "Evaluate")
    assert root.parent.span_id == SPAN
    assert (run.name, dict(run.attributes)) == ("run", {"gradwire.inline": True})
    assert_nested(found)


async def test_requests_that_run_as_one_tell_so(monkeypatch):
    monkeypatch.setattr(repeated.Repeated, "is_worth", lambda self, count, share=1.0: True)
    async with traced(monkeypatch, inline_budget_s=0.0) as (spans, stub):
        await stub.Evaluate(quick())
        await stub.Evaluate(naming(product(), X))
        spans.take()
        spans.pool.count = 5
        await asyncio.gather(*(stub.Evaluate(naming(product(), number * X)) for number in range(5)))
        await until(lambda: len(spans.exporter.get_finished_spans()) == 5 * 7)
        found = spans.take()
    workers = [span for span in found if span.name == "worker"]
    assert [span.attributes["gradwire.batch_size"] for span in workers] == [5] * 5
    assert [names(children(found, span)) for span in workers] == [["decode", "compile", "run", "encode"]] * 5
    assert len({span.context.trace_id for span in found}) == 5


@with_pool(workers=1, spare_workers=0, traces=True)
async def test_the_pool_tells_how_long_a_task_waited(pool):
    short, later = await asyncio.gather(pool.run(SHORT, PATIENCE_S), pool.run(QUICK, PATIENCE_S))
    assert short.timings.wait_s < short.timings.run_s / 2 < later.timings.wait_s


@with_pool(workers=1, spare_workers=0)
async def test_the_pool_tells_nothing_where_nobody_asks(pool):
    short, later = await asyncio.gather(pool.run(SHORT, PATIENCE_S), pool.run(QUICK, PATIENCE_S))
    assert later.timings.wait_s < short.timings.run_s / 2


class Collector(ThreadingHTTPServer):
    """Takes what is exported."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exports)
        self.taken: list[ExportTraceServiceRequest] = []


class Exports(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.taken.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *given: object) -> None:
        pass


@contextmanager
def collecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


def test_every_front_end_exports_its_own(monkeypatch):
    count, processes, own = 24, set(), [("grpc.use_local_subchannel_pool", 1)]
    with collecting(monkeypatch) as collector:
        with serving("--traces", "--front-ends", "2", "--workers", "1", "--spare-workers", "0") as server:
            for _ in range(count):
                with grpc.insecure_channel(server.address, options=own) as channel:
                    pb_grpc.DifferentiationServiceStub(channel).Evaluate(quick(), metadata=[PARENT], timeout=PATIENCE_S)
            assert server.stop() == 0
        found = []
        for export in collector.taken:
            for resource in export.resource_spans:
                attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
                assert attributes["service.name"] == "gradwire"
                assert attributes["deployment.environment.name"] == "tests"
                processes.add(attributes["service.instance.id"])
                found += [span for scope in resource.scope_spans for span in scope.spans]
    assert sorted(span.name for span in found).count(RPC + "Evaluate") == count
    assert [span.name for span in found].count("worker") == count
    assert {span.trace_id for span in found} == {TRACE.to_bytes(16, "big")}
    assert len(processes) == 2


def test_a_collector_that_is_gone_keeps_no_server_from_ending(monkeypatch, free_address):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{free_address}")
    with serving("--traces", "--front-ends", "1", "--workers", "1", "--spare-workers", "0") as server:
        server.stub.Evaluate(quick(), timeout=PATIENCE_S)
        assert server.stop() == 0
        assert "opentelemetry" in server.complaints.read_text()


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("OTEL_TRACES_EXPORTER", "nowhere", "got nowhere; pip install"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke", "got smoke; pip install"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "max_queue_size"),
    ],
)
def test_what_cannot_be_exported_so_is_refused(monkeypatch, name, value, complaint):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=complaint):
        make_tracer("service")


def test_traces_need_their_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"gradwire\[otel\]"):
        make_tracer("service")


PROGRAM = """
import asyncio, sys
import gradwire_server.keeper, gradwire_server.server
from gradwire_server.config import ServerConfig

async def serve():
    async with gradwire_server.server.Server(ServerConfig(listen="127.0.0.1:0", workers=1, spare_workers=0)):
        pass

asyncio.run(serve())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_nothing_is_imported_where_it_is_off():
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "[]\n"
