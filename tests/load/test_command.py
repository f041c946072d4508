"""`gradwire load` from its arguments to its exit code, against a real server, and against one that answers wrongly."""

import json
import socket
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest

from gradwire.__main__ import main as gradwire
from gradwire_load import command, runner
from gradwire_load.command import run
from gradwire_load.programs import NAMED
from gradwire_load.result import MEANINGS, ExitCode
from gradwire_load.scenario import WANTED, shipped
from gradwire_proto.evaluation import encode_result
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from tests.load.results import plain_result
from tests.server.processes import serving

TINY = """
title = "Tiny"
warmup_s = 0.2
duration_s = 1
check = 1.0
late_ms = {late_ms}
slo = "errors=0"
[arrivals]
{arrivals}
[[mix]]
program = "rosenbrock"
sizes = {{ n = 5 }}
want = ["value", "grad"]
[[mix]]
program = "diffusion"
sizes = {{ n = 20 }}
want = ["jacobian"]
layout = "sparse"
{more}
"""


@pytest.fixture(scope="module")
def address():
    with serving("--workers", "1", "--spare-workers", "0") as process:
        yield process.address


@pytest.fixture
def tiny(tmp_path):
    def write(arrivals='kind = "uniform"\nrate = 50', more="", late_ms="10_000"):  # this machine may be busy
        path = tmp_path / "tiny.toml"
        path.write_text(TINY.format(arrivals=arrivals, more=more, late_ms=late_ms))
        return str(path)

    return write


@pytest.fixture
def result(tmp_path):
    """Runs the command and returns its code and result."""

    def load(scenario, address, *arguments):
        path = tmp_path / "result.json"
        code = run(["run", scenario, "--target", address, "--quiet", "--json", str(path), *arguments])
        return code, json.loads(path.read_text()) if path.exists() else None

    return load


@pytest.mark.parametrize("mode", ["unary", "stream"])
def test_a_run_passes(mode, address, tiny, result, tmp_path, capsys):
    large = '[[mix]]\nprogram = "elementwise"\nsizes = { n = 140_000 }\nvariants = 1\nweight = 0.1'  # more than a chunk
    page = tmp_path / "report.html"
    code, found = result(tiny(more=large), address, "--mode", mode, "--report", str(page))
    assert code == ExitCode.PASSED, capsys.readouterr()
    assert found["verdict"]["name"] == "passed"
    assert found["requests"]["answered"] == found["requests"]["ended"] == 50
    assert found["requests"]["checked"] >= 50
    assert all(item["answered"] and item["checked"] for item in found["operations"])
    assert found["server"]["workers"] == 1
    assert found["latency_ms"]["p50"] >= found["service_ms"]["p50"] * 0.99
    assert "Every objective was met." in capsys.readouterr().out
    assert page.read_text().startswith("<!doctype html>")


def test_several_processes_share_a_closed_loop(address, tiny, result):
    scenario = tiny('kind = "closed"\nin_flight = 3')
    code, found = result(scenario, address, "--processes", "2", "--connections", "2")
    assert code == ExitCode.PASSED
    assert found["requests"]["answered"] > 3
    assert found["requests"]["offered_per_s"] is None


def test_a_missed_objective(address, tiny, result):
    code, found = result(tiny(), address, "--slo", "p50=1us", "--duration", "0.5")
    assert code == ExitCode.MISSED
    assert found["verdict"]["text"] == "Missed p50 <= 0.001 ms."


def test_a_late_generator_makes_the_run_invalid(address, tiny, result):
    code, found = result(tiny(late_ms="0.0001"), address, "--duration", "0.5")
    assert code == ExitCode.INVALID
    assert found["generator"]["late_share"] > 0.01


def test_the_saturation_point(address, tiny, result, monkeypatch):
    """With an objective that no rate meets the search ends below, having tried a few."""
    monkeypatch.setattr(runner, "SETTLE_S", 0.0)
    monkeypatch.setattr(runner, "TRIAL_WARMUP_S", 0.0)
    code, found = result(tiny(), address, "--find-max", "--trial", "0.1", "--slo", "p50=1us", "--duration", "0.3")
    assert code == ExitCode.MISSED
    assert found["search"]["rate"] == 0.0
    rates = [item["rate"] for item in found["search"]["trials"]]
    assert rates == sorted(rates, reverse=True)


def test_no_server(free_address, tiny, capsys):
    assert run(["run", tiny(), "--target", free_address, "--quiet"]) == ExitCode.UNREACHABLE
    assert "needed a gradwire server, got no connection" in capsys.readouterr().err


@pytest.fixture
def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


class Wrong:
    """A server that gives the value 1 to everything."""

    def evaluate(self, data, _):
        request = pb.EvaluateRequest.FromString(data)
        response = pb.EvaluateResponse()
        for _ in request.outputs:
            response.results.add(results=[encode_result(np.array(1.0))])
        return response.SerializeToString()

    def create(self, _data, _):
        return pb.CreateProgramResponse(name="programs/x").SerializeToString()

    def capabilities(self, _data, _):
        return pb.GetCapabilitiesResponse(server_version="0", worker_count=1).SerializeToString()


@pytest.fixture
def wrong_address():
    server = grpc.server(futures.ThreadPoolExecutor(4))
    wrong = Wrong()
    handlers = {"Evaluate": wrong.evaluate, "CreateProgram": wrong.create, "GetCapabilities": wrong.capabilities}
    methods = {name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in handlers.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("gradwire.v1.DifferentiationService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_wrong_answer_is_an_error_of_its_own(wrong_address, tiny, result):
    code, found = result(tiny(), wrong_address, "--duration", "0.5")
    assert code == ExitCode.WRONG
    assert [item["reason"] for item in found["errors"]] == ["WRONG_ANSWER"]
    assert "needed" in found["errors"][0]["texts"][0]
    assert found["requests"]["answered"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "SCENARIO"),
        (["run", "smoke", "--dration", "3"], "the nearest option is --duration"),
        (["run", "smoke", "--duration", "0"], "needed a number above 0, got '0'"),
        (["run", "smoke", "--slo", "p99"], "needed objectives such as"),
        (["run", "smok"], "the nearest is smoke"),
        (["run", "smoke", "--rate", "5"], "--rate, got closed"),
        (["run", "smoke", "--find-max"], "needed an open loop with objectives, got a closed loop"),
        (["run", "calibration", "--find-max", "--slo", ""], "got none"),
        (["run", "smoke", "--metrics-url", "ftp://x"], "--metrics-url: needed"),
        (["show", "smok"], "the nearest is smoke"),
        (["report", "nothing.json", "x.html"], "report: needed a result"),
        (["jump"], "invalid choice"),
    ],
)
def test_bad_use(arguments, said, capsys):
    assert run(arguments) == ExitCode.BAD_USE
    assert said in capsys.readouterr().err


def test_a_second_interrupt_ends_at_once(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "Runner", interrupted)
    assert run(["run", "smoke", "--quiet"]) == ExitCode.STOPPED


def test_help_tells_the_exit_codes(capsys):
    assert run(["run", "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{code:3d}  {text}" in printed for code, text in MEANINGS.items())


def test_the_shipped_scenarios_are_listed_and_shown(capsys):
    assert run(["list"]) == 0
    listed = capsys.readouterr().out
    for name, text in shipped().items():
        assert f"\n{name} " in f"\n{listed}"
        assert run(["show", name]) == 0
        assert capsys.readouterr().out == text


def test_a_report_is_drawn_again(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(plain_result()))
    assert run(["report", str(tmp_path / "result.json"), str(tmp_path / "page.html")]) == 0
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_it_is_a_command_of_gradwire(capsys):
    assert gradwire(["load", "list"]) == 0
    assert "smoke" in capsys.readouterr().out


def test_the_page_of_the_docs_tells_all():
    page = (Path(__file__).parents[2] / "docs" / "load.md").read_text("utf-8")
    assert all(f"| `{name}` |" in page for name in shipped())
    assert all(f"| {code:d} | {text} |" in page for code, text in MEANINGS.items())
    assert all(name in page for name in (*NAMED, *WANTED))
