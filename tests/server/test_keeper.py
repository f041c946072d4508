"""Several front ends on one address: as one, whatever happens to each of them."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np
import pytest
from grpc_status import rpc_status

from gradwire_core import errors
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import encode_name, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import differentiation_service_pb2_grpc as pb_grpc
from tests.server.processes import occupy, serving
from tests.server.requests import FOREVER, PATIENCE_S, X, quick, slow, value, wait_until
from tests.server.test_process import scrape

CONNECTIONS = 12  # which the kernel gives to one and the same front end once in two thousand times


@contextmanager
def stubs(server, count=CONNECTIONS):
    """Stubs of connections of their own."""
    with ExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [stack.enter_context(grpc.insecure_channel(server.address, options)) for _ in range(count)]
        yield [pb_grpc.DifferentiationServiceStub(channel) for channel in channels]


def refusal(call, request) -> errors.GradwireError:
    with pytest.raises(grpc.RpcError) as refused:
        call(request, timeout=PATIENCE_S)
    return decode_status(rpc_status.from_call(refused.value))


@pytest.fixture(scope="module")
def server():
    with serving("--workers", "1", "--spare-workers", "0", "--front-ends", "2", "--inline-budget-s", "0") as process:
        yield process


def test_what_one_front_end_stores_all_have_and_what_one_forgets_all_forget(server):
    array = np.array([0.5, -1.0, 3.0])
    with stubs(server) as found:
        name = found[0].Evaluate(quick(), timeout=PATIENCE_S).program_name
        tensor = found[0].CreateTensor(iter([pb.CreateTensorRequest(tensor=encode_tensor(array))]), timeout=PATIENCE_S).name
        request = pb.EvaluateRequest(program_name=name, inputs=[encode_name(array)], outputs=[pb.Output()])
        for stub in found:
            np.testing.assert_array_equal(value(stub.Evaluate(request, timeout=PATIENCE_S)), np.sin(array) * array)
            assert stub.GetProgram(pb.GetProgramRequest(name=name), timeout=PATIENCE_S).name == name
        found[1].DeleteTensor(pb.DeleteTensorRequest(name=tensor), timeout=PATIENCE_S)
        for stub in found:
            assert isinstance(refusal(stub.Evaluate, request), errors.TensorMissingError)
        found[2].DeleteProgram(pb.DeleteProgramRequest(name=name), timeout=PATIENCE_S)
        for stub in found:
            assert isinstance(refusal(stub.GetProgram, pb.GetProgramRequest(name=name)), errors.NotFoundError)
        assert isinstance(refusal(found[3].DeleteProgram, pb.DeleteProgramRequest(name=name)), errors.NotFoundError)


def test_a_front_end_that_is_killed_is_replaced_by_one_that_has_what_is_stored(server):
    with stubs(server, 1) as (stub,):
        name = stub.Evaluate(quick(), timeout=PATIENCE_S).program_name
    pids = server.front_pids
    assert len(pids) == 2
    for pid, number in zip(sorted(pids), (signal.SIGKILL, signal.SIGSTOP), strict=True):
        os.kill(pid, number)
    wait_until(lambda: len(server.front_pids - pids) == 2)
    with stubs(server) as found:
        request = pb.EvaluateRequest(program_name=name, inputs=[encode_tensor(X)], outputs=[pb.Output()])
        for stub in found:
            response = stub.Evaluate(request, timeout=PATIENCE_S, wait_for_ready=True)
            np.testing.assert_allclose(value(response), np.sin(X) * X, rtol=1e-15)


def test_the_work_of_a_front_end_that_is_killed_ends_with_it(server):
    running = occupy(server, slow(FOREVER))
    workers = server.worker_pids
    for pid in server.front_pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.worker_pids - workers)
    assert running.code() is grpc.StatusCode.UNAVAILABLE
    server.stub.Evaluate(quick(), timeout=PATIENCE_S, wait_for_ready=True)


def test_metrics_of_all_front_ends_are_one_page_and_survive_them(free_address):
    count = 2 * CONNECTIONS
    with serving("--workers", "1", "--spare-workers", "0", "--front-ends", "2", "--metrics-listen", free_address) as server:
        with stubs(server, count) as found:
            for stub in found:
                stub.Evaluate(quick(), timeout=PATIENCE_S)
        line = f'gradwire_call_seconds_count{{code="OK",rpc="Evaluate"}} {count}.0'
        text = scrape(free_address)
        assert line in text
        assert "gradwire_stored_programs 1.0" in text
        pids = server.front_pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(server.front_pids - pids) == 2)
        assert line in scrape(free_address)
