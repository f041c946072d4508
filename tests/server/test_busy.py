"""What a server answers while all its workers are busy and its queue is full: whatever is no evaluation, at once."""

from __future__ import annotations

import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gradwire_proto.v1 import differentiation_service_pb2 as pb
from tests.server.processes import occupy, serving
from tests.server.requests import PATIENCE_S, locking, quick, slow


def test_health_capabilities_metrics_and_refusals_wait_for_no_worker(free_address):
    few = ("--workers", "1", "--spare-workers", "0", "--queue-count", "1")
    with serving(*few, "--metrics-listen", free_address) as server:
        busy = occupy(server, locking())
        waiting = server.stub.Evaluate.future(slow(1), timeout=PATIENCE_S)
        refused = 0
        while not refused:  # the one that waits may not have come yet
            with pytest.raises(grpc.RpcError) as caught:
                server.stub.Evaluate(quick(), timeout=2)
            refused = caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]
        health = health_pb2_grpc.HealthStub(server.channel)
        for _ in range(20):
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=2).status == health_pb2.HealthCheckResponse.SERVING
            assert server.stub.GetCapabilities(pb.GetCapabilitiesRequest(), timeout=2).worker_count == 1
            (answer,) = server.stub.EvaluateStream(iter([pb.EvaluateStreamRequest(id=1, evaluate=quick())]), timeout=2)
            assert answer.error.code == grpc.StatusCode.UNAVAILABLE.value[0]
            assert any("RetryInfo" in detail.type_url for detail in answer.error.details)
            with urllib.request.urlopen(f"http://{free_address}/metrics", timeout=2) as page:
                assert b"gradwire_queue_length 1.0" in page.read()
        assert not busy.done()
        assert not waiting.done()
        busy.cancel()
        waiting.cancel()
