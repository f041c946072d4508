"""What a worker answers, without a process around it."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
from google.rpc.status_pb2 import Status

from gradwire_core import engine, errors
from gradwire_core.structure.cost import Cost
from gradwire_proto.program import encode_program
from gradwire_proto.sparse import decode_sparse
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server import worker as worker_module
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind
from gradwire_server.worker import Worker
from tests.server.requests import X, product, quick, value


@pytest.fixture
def worker():
    return Worker(ServerConfig())


def ask(worker: Worker, request, *stored: bytes, kind: Kind = Kind.EVALUATE) -> Frame:
    return worker.answer(Frame(kind, (b"id", request.SerializeToString(), *stored)))


def failure(answer: Frame) -> errors.GradwireError:
    assert answer.kind is Kind.ERROR
    return decode_status(Status.FromString(answer.parts[0]))


def named(**fields) -> pb.EvaluateRequest:
    name = "programs/" + product().digest
    return pb.EvaluateRequest(program_name=name, inputs=[encode_tensor(X)], outputs=[pb.Output()], **fields)


def explanation(**fields) -> pb.ExplainRequest:
    return pb.ExplainRequest(program=encode_program(product()), **fields)


def test_importing_it_imports_no_grpc():
    code = "import sys, gradwire_server.worker; print([m for m in sys.modules if m.startswith('grpc')])"
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("[]\n", "")


def test_importing_it_imports_nothing_that_explains():
    code = "import sys, gradwire_server.worker; print([m for m in sys.modules if 'explain' in m or 'explanation' in m])"
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("[]\n", "")


def test_an_inline_program_comes_back_to_be_stored(worker):
    name, response, stored, summary = ask(worker, quick()).parts
    assert name.decode() == "programs/" + product().digest
    np.testing.assert_allclose(value(pb.EvaluateResponse.FromString(response)), np.sin(X) * X, rtol=1e-15)
    assert pb.GetProgramResponse.FromString(stored).program == encode_program(product())
    assert pb.ProgramSummary.FromString(summary).equation_count == 2


def test_a_missing_program_is_asked_for_once():
    keeper, worker = Worker(ServerConfig()), Worker(ServerConfig())
    stored = ask(keeper, quick()).parts[2]
    missing = ask(worker, named())
    assert missing == Frame(Kind.MISSING, (("programs/" + product().digest).encode(),))
    first = ask(worker, named(), stored)
    assert first.kind is Kind.RESULT
    assert len(first.parts) == 2
    assert ask(worker, named()) == first


def test_an_executable_answers_without_its_program():
    worker = Worker(ServerConfig(program_cache_bytes=0))
    first = ask(worker, quick())
    assert ask(worker, named()).parts == first.parts[:2]
    assert ask(worker, named(reproducible=True)).kind is Kind.MISSING


def test_a_sparse_result_is_sent_with_its_shapes(worker):
    request = quick()
    request.outputs[0].CopyFrom(pb.Output(transforms=[{"jacobian": {}}], layout=pb.LAYOUT_SPARSE))
    answer = ask(worker, request)
    assert answer.kind is Kind.RESULT, failure(answer)
    found = pb.EvaluateResponse.FromString(answer.parts[1]).results[0].results[0].sparse
    assert (list(found.shape_out), list(found.shape_in)) == ([3], [3])
    np.testing.assert_allclose(decode_sparse(found).toarray(), np.diag(np.sin(X) + X * np.cos(X)), rtol=1e-14)


def test_the_places_of_a_sparse_result_count_before_anything_runs(monkeypatch):
    request = quick()
    request.outputs[0].CopyFrom(pb.Output(transforms=[{"jacobian": {}}], layout=pb.LAYOUT_SPARSE))
    monkeypatch.setattr(engine.Executable, "run", None)
    found = failure(ask(Worker(ServerConfig(max_message_bytes=3 * 8)), request))  # its entries alone
    assert isinstance(found, errors.LimitError)
    assert found.metadata["limit"] == "message_bytes"


def test_a_defect_is_internal_and_leaves_no_trace(worker, monkeypatch, caplog):
    def run(self, inputs, seeds, room):
        raise ZeroDivisionError("in /secret/path.py")

    monkeypatch.setattr(engine.Executable, "run", run)
    found = failure(ask(worker, quick()))
    assert isinstance(found, errors.InternalError)
    assert "secret" not in str(found) + str(found.metadata)
    monkeypatch.undo()
    assert ask(worker, quick()).kind is Kind.RESULT


def test_a_lack_of_memory_is_the_request_s_limit(worker, monkeypatch):
    def run(self, inputs, seeds, room):
        raise MemoryError

    monkeypatch.setattr(engine.Executable, "run", run)
    assert isinstance(failure(ask(worker, quick())), errors.LimitError)


@pytest.mark.parametrize(
    ("setting", "limit"),
    [
        ("max_peak_bytes", "peak_bytes"),
        ("max_flop_count", "flop_count"),
        ("max_message_bytes", "message_bytes"),
        ("max_equation_count", "equation_count"),
    ],
)
def test_predicted_cost_and_size_of_the_answer_are_limited(setting, limit):
    found = failure(ask(Worker(ServerConfig(**{setting: 1})), quick()))
    assert isinstance(found, errors.LimitError)
    assert found.metadata["limit"] == limit


def test_predicted_seconds_are_limited(monkeypatch):
    monkeypatch.setattr(worker_module, "predict", lambda program: Cost(work=1e6))
    monkeypatch.setattr(engine.Executable, "run", None)
    found = failure(ask(Worker(ServerConfig()), quick()))
    assert isinstance(found, errors.LimitError)
    assert (found.metadata["limit"], found.metadata["allowed"], found.metadata["given"]) == ("predicted_s", "3600", "1e+06")


def test_what_was_predicted_once_is_not_predicted_again(worker, monkeypatch):
    assert ask(worker, quick()).kind is Kind.RESULT
    monkeypatch.setattr(worker_module, "predict", None)
    assert ask(worker, quick()).kind is Kind.RESULT


def test_a_derivative_has_a_limit_of_equations_too():
    request = pb.DifferentiateRequest(program=encode_program(product()), transforms=[{"jvp": {}}] * 6)
    found = failure(ask(Worker(ServerConfig(max_equation_count=49)), request, kind=Kind.DIFFERENTIATE))
    assert isinstance(found, errors.LimitError)
    assert found.metadata["limit"] == "equation_count"
    assert ask(Worker(ServerConfig()), request, kind=Kind.DIFFERENTIATE).kind is Kind.RESULT


@pytest.mark.parametrize("kind", [Kind.EVALUATE, Kind.EXPLAIN])
def test_mutated_requests_are_answered_or_refused_but_never_a_defect(worker, kind):
    rng = random.Random(0)
    request = quick() if kind is Kind.EVALUATE else explanation(format=1)
    request.outputs.add(layout=pb.LAYOUT_STRUCTURED).transforms.add().jacobian.argnums.append(0)
    valid = request.SerializeToString()
    assert worker.answer(Frame(kind, (b"id", valid))).kind is Kind.RESULT
    for _ in range(2000):
        mutated = bytearray(valid)
        for _ in range(rng.randint(1, 3)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        answer = worker.answer(Frame(kind, (b"id", bytes(mutated))))
        if answer.kind is Kind.ERROR:
            assert not isinstance(failure(answer), errors.InternalError), bytes(mutated)
    assert ask(worker, quick()).kind is Kind.RESULT


def explained(worker: Worker, request: pb.ExplainRequest) -> pb.ExplainResponse:
    answer = ask(worker, request, kind=Kind.EXPLAIN)
    assert answer.kind is Kind.RESULT, failure(answer)
    return pb.ExplainResponse.FromString(answer.parts[1])


def test_the_value_is_explained_unless_more_is_asked_for(worker):
    found = explained(worker, explanation())
    assert found.program_name == "programs/" + product().digest
    assert found == explained(worker, explanation(outputs=[pb.Output()]))
    assert "sin" in found.derivation
    assert "speed[i]: float64[3]" in explained(worker, explanation(input_names=["speed"])).derivation
    assert found.plan.step_count == 2
    jacobian = explanation(outputs=[{"transforms": [{"jacobian": {}}]}])
    assert explained(worker, jacobian).plan.output_bytes == 9 * 8
    jacobian.outputs[0].layout = pb.LAYOUT_STRUCTURED
    structured = explained(worker, jacobian).plan
    assert structured.output_bytes == 3 * 8
    jacobian.outputs[0].layout = pb.LAYOUT_SPARSE
    assert explained(worker, jacobian).plan.output_bytes == 3 * 8


def test_nothing_is_explained_before_the_program_is_there(worker):
    request = pb.ExplainRequest(program_name="programs/" + product().digest)
    assert ask(worker, request, kind=Kind.EXPLAIN).kind is Kind.MISSING
    inline = ask(worker, explanation(), kind=Kind.EXPLAIN)
    assert len(inline.parts) == 4
    assert ask(worker, request, kind=Kind.EXPLAIN).parts == inline.parts[:2]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (explanation(outputs=[{"seeds": [{"dtype": 1, "data": bytes(8)}]}]), "needed outputs without seeds"),
        (explanation(format=9), "got the unknown number 9"),
        (explanation(input_names=["a b"]), "needed names of inputs such as x or x_1"),
        (explanation(outputs=[{"transforms": [{}]}]), "output, transform 0"),
        (explanation(outputs=[{"layout": "LAYOUT_SPARSE"}]), "for LAYOUT_SPARSE, got no transform"),
        (explanation(outputs=[{"transforms": [{"grad": {}}]}]), "grad: needed one scalar output"),
    ],
)
def test_what_cannot_be_explained_is_told(worker, request_, text):
    found = failure(ask(worker, request_, kind=Kind.EXPLAIN))
    assert not isinstance(found, errors.InternalError)
    assert text in found.message


@pytest.mark.parametrize(
    ("setting", "limit"),
    [("max_output_count", "output_count"), ("max_equation_count", "equation_count"), ("max_message_bytes", "message_bytes")],
)
def test_explanations_have_limits(setting, limit):
    request = explanation(outputs=[pb.Output()] * 2)
    found = failure(ask(Worker(ServerConfig(**{setting: 1})), request, kind=Kind.EXPLAIN))
    assert isinstance(found, errors.LimitError)
    assert found.metadata["limit"] == limit


def test_what_is_too_costly_to_run_is_explained():
    worker = Worker(ServerConfig(max_peak_bytes=1, max_flop_count=1))
    assert explained(worker, explanation()).plan.flops > 1


@pytest.mark.parametrize("kind", [Kind.CREATE_PROGRAM, Kind.EVALUATE, Kind.DIFFERENTIATE, Kind.EXPLAIN])
def test_an_empty_request_is_refused(worker, kind):
    found = failure(worker.answer(Frame(kind, (b"id", b""))))
    assert isinstance(found, errors.ArgumentError)
    assert "needed a program" in found.message


def test_another_worker_finds_what_took_long_to_derive(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "LONG_SECONDS", 0.0)
    config = ServerConfig(cache_folder=str(tmp_path), plan_folder_bytes=2**20)
    first = ask(Worker(config), quick()).parts[1]
    assert len([*tmp_path.glob("plans/*.plan")]) == 1
    monkeypatch.setattr(engine, "_derive_outputs", None)
    assert ask(Worker(config), quick()).parts[1] == first
