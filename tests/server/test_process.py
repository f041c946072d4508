"""The command as operators see it: what it prints, how it stops, how it refuses to start."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from gradwire_core import errors
from gradwire_core.program import Program, Var
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.program import encode_program
from gradwire_proto.status import decode_status
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from tests.server.processes import READY, is_alive, occupy, run, serving, start
from tests.server.requests import FOREVER, PATIENCE_S, X, chain, equation, evaluation, quick, slow, value, wait_until

FULL = Path("/dev/full")
ALONE = ("--workers", "1", "--spare-workers", "0", "--max-peak-bytes", str(2**50))


def scrape(address: str) -> str:
    """The metrics that are served at an address."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as response:
        return response.read().decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_stops_it_cleanly_and_leaves_nothing_behind(number):
    with serving("--workers", "1", "--spare-workers", "0") as server:
        pids = server.worker_pids
        server.stub.Evaluate(quick(), timeout=PATIENCE_S)
        assert server.stop(number) == 0
        assert len(pids) == 1
        assert not any(map(is_alive, pids))
        assert "Traceback" not in server.complaints.read_text()


def test_it_drains_under_load():
    with serving(*ALONE) as server:
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        running = occupy(server, slow(200))
        server.popen.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        began_s = time.monotonic()
        with pytest.raises(grpc.RpcError, match="one that is stopping") as refused:
            server.stub.Evaluate(quick(), timeout=PATIENCE_S)
        assert time.monotonic() - began_s < 1.0
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert isinstance(decode_status(rpc_status.from_call(refused.value)), errors.DrainingError)
        assert dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"] == "0"
        assert not running.done()
        assert np.isfinite(value(running.result())).all()
        assert server.popen.wait(PATIENCE_S) == 0


def test_what_waits_for_a_worker_is_answered_before_it_stops(free_address):
    with serving(*ALONE, "--metrics-listen", free_address) as server:
        running = occupy(server, slow(200))
        waiting = [server.stub.Evaluate.future(quick(), timeout=PATIENCE_S) for _ in range(5)]
        wait_until(lambda: "gradwire_queue_length 5.0" in scrape(free_address))
        server.popen.send_signal(signal.SIGTERM)
        for call in (running, *waiting):
            assert np.isfinite(value(call.result())).all()
        assert server.popen.wait(PATIENCE_S) == 0


def test_an_answer_that_is_being_sent_is_sent_to_its_end():
    one, wide = TensorType(Dtype.FLOAT64, (1,)), TensorType(Dtype.FLOAT64, (4_000_000,))
    x = Var(one)
    spread = equation("broadcast_to", (x,), wide, shape=wide.shape)
    request = evaluation(Program((x,), (spread,), spread.results), np.ones(1))
    with serving(*ALONE) as server:
        pausing = threading.Event()
        answers = server.stub.EvaluateStream(iter([pb.EvaluateStreamRequest(id=1, evaluate=request)]))
        size = len(next(answers).chunk) + len(next(answers).chunk)
        server.popen.send_signal(signal.SIGTERM)
        pausing.wait(1.5)  # longer than calls that are over have to be let go of
        assert size + sum(len(answer.chunk) for answer in answers) == wide.nbytes
        assert server.popen.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("niceness", [0, 7])
def test_workers_leave_others_the_processor_first(niceness):
    with serving(*ALONE, "--worker-niceness", str(niceness)) as server:
        (pid,) = server.worker_pids
        own = os.getpriority(os.PRIO_PROCESS, server.popen.pid)
        assert os.getpriority(os.PRIO_PROCESS, pid) == own + niceness


def test_past_the_grace_time_running_calls_are_ended():
    with serving(*ALONE, "--grace-s", "0.1") as server:
        pids = server.worker_pids
        running = occupy(server, slow(FOREVER))
        assert server.stop() == 0
        assert running.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
        assert not any(map(is_alive, pids))


def test_a_deadline_and_a_cancel_stop_the_work():
    with serving(*ALONE) as server:
        for timeout_s, code in ((2.0, grpc.StatusCode.DEADLINE_EXCEEDED), (PATIENCE_S, grpc.StatusCode.CANCELLED)):
            pids = server.worker_pids
            running = occupy(server, slow(FOREVER), timeout_s)
            if code is grpc.StatusCode.CANCELLED:
                running.cancel()
            wait_until(lambda pids=pids: server.worker_pids - pids)
            assert not pids & server.worker_pids
            assert running.code() is code
            server.stub.Evaluate(quick(), timeout=PATIENCE_S)


def test_a_killed_server_takes_its_workers_along():
    with serving(*ALONE) as server:
        pids = server.worker_pids
        running = occupy(server, slow(FOREVER))
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: not any(map(is_alive, pids)))
        assert running.code() is grpc.StatusCode.UNAVAILABLE


def test_the_probe_tells_whether_a_server_serves(server):
    assert run("--probe", server.address) == (0, "", "")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code, _, complaint = run("--probe", address)
    assert code == 1
    assert complaint == f"gradwire serve: probe: needed a server at {address}, got UNAVAILABLE\n"


def test_a_port_in_use_is_refused(server):
    code, out, complaint = run("--listen", server.address, "--log-level", "error")
    assert (code, out) == (2, "")
    assert complaint.count("\n") == 1
    assert f"got {server.address}: Address already in use" in complaint


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--listen", "0.0.0.0:0"], "--insecure-listen-anywhere"),
        (["--workers", "none"], "invalid int value"),
        (["--listen", "192.0.2.1:0", "--insecure-listen-anywhere"], "Cannot assign requested address"),
    ],
)
def test_a_bad_configuration_is_one_clear_line(arguments, text):
    code, out, complaint = run(*arguments, "--log-level", "error")
    assert (code, out) == (2, "")
    assert text in complaint
    assert complaint.startswith("gradwire serve: ")
    assert complaint.count("\n") == 1


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_one_clear_line():
    with FULL.open("w") as full, start("--listen", "127.0.0.1:0", "--log-level", "error", stdout=full) as popen:
        _, complaint = popen.communicate(timeout=PATIENCE_S)
        assert popen.returncode == 2
    assert complaint.startswith("gradwire serve: output: needed a place to tell the address, got No space left on device; ")
    assert complaint.count("\n") == 1


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_a_log_without_room_stops_nobody():
    with (
        FULL.open("w") as full,
        start("--listen", "127.0.0.1:0", "--workers", "1", "--log-level", "debug", stderr=full) as popen,
    ):
        address = popen.stdout.readline().removeprefix(READY).strip()
        assert run("--probe", address) == (0, "", "")
        popen.terminate()
        popen.communicate(timeout=PATIENCE_S)
        assert popen.returncode == 0


def test_the_environment_configures_it_and_the_settings_are_logged():
    with start(GRADWIRE_LISTEN="127.0.0.1:0", GRADWIRE_WORKERS="1") as popen:
        assert popen.stdout.readline().startswith(READY + "127.0.0.1:")
        popen.terminate()
        _, complaint = popen.communicate(timeout=PATIENCE_S)
        assert popen.returncode == 0
        assert "workers=1 " in complaint


def test_metrics_are_served_on_their_own_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with serving("--workers", "1", "--spare-workers", "0", "--metrics-listen", address) as server:
        server.stub.Evaluate(quick(), timeout=PATIENCE_S)
        text = scrape(address)
    assert 'gradwire_call_seconds_count{code="OK",rpc="Evaluate"} 1.0' in text
    assert "gradwire_worker_starts_total 1.0" in text
    assert "gradwire_stored_programs 1.0" in text
    assert "gradwire_calls_running 0.0" in text
    assert "gradwire_sessions 0.0" in text
    assert "gradwire_inline_evaluations_total 0.0" in text


def test_what_is_too_large_is_refused_and_the_next_request_answered():
    with serving("--workers", "1", "--max-message-bytes", "10000", "--max-equation-count", "100") as server:
        for request, text in ((slow(1), "max"), (evaluation(chain(101), X), "needed at most 100 equations, got 101")):
            with pytest.raises(grpc.RpcError) as refused:
                server.stub.Evaluate(request, timeout=PATIENCE_S)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert text in refused.value.details()
        server.stub.Evaluate(quick(), timeout=PATIENCE_S)


def test_a_program_that_the_store_cannot_hold_is_refused_but_evaluated():
    with serving("--workers", "1", "--program-store-bytes", "3000") as server:
        program = chain(100)
        with pytest.raises(grpc.RpcError, match="needed at most 3000 bytes in the store, got"):
            server.stub.CreateProgram(pb.CreateProgramRequest(program=encode_program(program)), timeout=PATIENCE_S)
        assert np.isfinite(value(server.stub.Evaluate(evaluation(program, X), timeout=PATIENCE_S))).all()
        server.stub.CreateProgram(pb.CreateProgramRequest(program=quick().program), timeout=PATIENCE_S)


def test_calls_past_those_of_a_connection_wait_with_their_caller():
    with serving(*ALONE, "--max-connection-call-count", "1") as server:
        running = occupy(server, slow(FOREVER))
        ask = health_pb2.HealthCheckRequest()
        with pytest.raises(grpc.RpcError) as waited:
            health_pb2_grpc.HealthStub(server.channel).Check(ask, timeout=0.5)
        assert waited.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as another:
            health_pb2_grpc.HealthStub(another).Check(ask, timeout=PATIENCE_S)
        running.cancel()


def test_health_answers_while_every_worker_is_busy():
    with serving(*ALONE) as server:
        running = occupy(server, slow(FOREVER))
        health = health_pb2_grpc.HealthStub(server.channel)
        done = threading.Event()
        health.Check.future(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S).add_done_callback(lambda _: done.set())
        assert done.wait(PATIENCE_S)
        assert not running.done()
        running.cancel()
