"""Who is let in and what they see, over TLS and tokens, with real servers and certificates made for the test."""

from __future__ import annotations

import functools
import os
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from gradwire_core import errors
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import differentiation_service_pb2_grpc as pb_grpc
from tests.server.processes import run, serving
from tests.server.requests import FOREVER, PATIENCE_S, X, product, quick, slow, value, wait_until
from tests.server.secure import Authority, credentials

ALICE, BOB, NEW = (name * 8 for name in ("alice", "bobby", "newer"))
NAME = "programs/" + product().digest


def bearing(token):
    return {"metadata": (("authorization", f"Bearer {token}"),), "timeout": PATIENCE_S}


def refusal(call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **{"timeout": PATIENCE_S} | options)
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    return decode_status(status)


def named(**fields):
    return pb.EvaluateRequest(program_name=NAME, inputs=[encode_tensor(X)], outputs=[pb.Output(**fields)])


def check_health(channel, **options):
    request = health_pb2.HealthCheckRequest()
    return health_pb2_grpc.HealthStub(channel).Check(request, **{"timeout": PATIENCE_S} | options).status


def list_services(channel, **options):
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    return list(stub.ServerReflectionInfo(iter([request]), **{"timeout": PATIENCE_S} | options))


@pytest.fixture(scope="module")
def token_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"alice:{ALICE}\nbob:{BOB}\n")
    return path


@pytest.fixture(scope="module")
def guarded(token_file):
    with serving("--workers", "1", "--token-file", str(token_file), "--log-level", "debug") as server:
        yield server


def test_every_call_but_health_needs_a_token(guarded):
    calls = {
        "evaluate": lambda **options: guarded.stub.Evaluate(quick(), **options),
        "capabilities": lambda **options: guarded.stub.GetCapabilities(pb.GetCapabilitiesRequest(), **options),
        "reflection": lambda **options: list_services(guarded.channel, **options),
        "unknown": lambda **options: guarded.channel.unary_unary("/some.Service/Method")(b"", **options),
    }
    for call in calls.values():
        for options in ({}, bearing(ALICE + "x"), {"metadata": (("authorization", f"Bearer {ALICE}"),) * 2}):
            found = refusal(call, **options)
            assert isinstance(found, errors.UnauthenticatedError)
            assert found.message.startswith("authorization: needed a")
            assert found.metadata["request_id"]
            assert ALICE not in repr(found)
    assert check_health(guarded.channel) == health_pb2.HealthCheckResponse.SERVING
    np.testing.assert_allclose(value(calls["evaluate"](**bearing(ALICE))), np.sin(X) * X, rtol=1e-15)
    assert calls["reflection"](**bearing(BOB))
    with pytest.raises(grpc.RpcError) as unknown:
        calls["unknown"](**bearing(BOB))
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_refused_message_is_not_read(guarded):
    """A stranger's stream is ended before a byte of it was asked for: a message larger than allowed is not even complained of."""
    call = guarded.channel.unary_unary("/gradwire.v1.DifferentiationService/Evaluate")
    found = refusal(call, bytes(65 * 2**20))
    assert isinstance(found, errors.UnauthenticatedError)


def test_programs_are_seen_by_who_made_them_alone(guarded):
    stub, alice, bob = guarded.stub, bearing(ALICE), bearing(BOB)
    assert stub.CreateProgram(pb.CreateProgramRequest(program=quick().program), **alice).name == NAME
    stub.Evaluate(named(), **alice)  # the only worker holds it from here on, decoded and compiled
    requests = {
        stub.Evaluate: (named(), named(seeds=[encode_tensor(X)]), named(transforms=[{"hessian": {}}])),
        stub.Explain: (pb.ExplainRequest(program_name=NAME),),
        stub.Differentiate: (pb.DifferentiateRequest(program_name=NAME, transforms=[{"jvp": {}}]),),
    }
    absent = "programs/" + "0" * 64
    for call, tried in requests.items():
        for request in tried:
            unknown = type(request).FromString(request.SerializeToString())
            unknown.program_name = absent
            found, like = refusal(call, request, **bob), refusal(call, unknown, **bob)
            assert isinstance(found, errors.ProgramMissingError)
            assert found.message == like.message.replace(absent, NAME)
    assert isinstance(refusal(stub.GetProgram, pb.GetProgramRequest(name=NAME), **bob), errors.NotFoundError)
    assert isinstance(refusal(stub.DeleteProgram, pb.DeleteProgramRequest(name=NAME), **bob), errors.NotFoundError)
    assert not stub.ListPrograms(pb.ListProgramsRequest(), **bob).programs
    assert [item.name for item in stub.ListPrograms(pb.ListProgramsRequest(), **alice).programs] == [NAME]
    stub.Evaluate(quick(), **bob)  # who has the program may store it too,
    stub.Evaluate(named(), **bob)
    stub.DeleteProgram(pb.DeleteProgramRequest(name=NAME), **bob)  # and forget it, for itself
    assert isinstance(refusal(stub.Evaluate, named(), **bob), errors.ProgramMissingError)
    stub.Evaluate(named(), **alice)


def test_the_log_names_identities_and_no_token(guarded):
    guarded.stub.Evaluate(quick(), **bearing(BOB))
    refusal(guarded.stub.Evaluate, quick(), **bearing("stranger" * 4))
    wait_until(lambda: "UNAUTHENTICATED" in guarded.complaints.read_text())
    text = guarded.complaints.read_text()
    assert "caller=bob" in text
    assert not [secret for secret in (ALICE, BOB, "stranger") if secret in text]


def test_programs_are_shared_where_told_so(token_file):
    with serving("--workers", "1", "--token-file", str(token_file), "--shared-programs", "--health-needs-token") as server:
        server.stub.Evaluate(quick(), **bearing(ALICE))
        server.stub.Evaluate(named(), **bearing(BOB))
        assert server.stub.GetProgram(pb.GetProgramRequest(name=NAME), **bearing(BOB)).name == NAME
        with pytest.raises(grpc.RpcError) as refused:
            check_health(server.channel)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert check_health(server.channel, **bearing(BOB)) == health_pb2.HealthCheckResponse.SERVING


def test_tokens_change_without_a_restart(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"alice:{ALICE}\n")
    with serving("--workers", "1", "--token-file", str(path)) as server:
        server.stub.Evaluate(quick(), **bearing(ALICE))
        path.write_text(f"alice:{NEW}\n# the old one is gone\n")

        def is_let_in(token):
            call = server.stub.GetCapabilities.future(pb.GetCapabilitiesRequest(), **bearing(token))
            assert call.code() in {grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED}
            return call.code() is grpc.StatusCode.OK

        wait_until(lambda: is_let_in(NEW))
        assert not is_let_in(ALICE)
        server.stub.Evaluate(named(), **bearing(NEW))  # the identity is the same, so are its programs


def test_an_identity_past_its_share_is_told_so_and_others_are_answered(token_file):
    settings = ("--max-identity-call-count", "1", "--max-identity-calls-per-s", "1000", "--max-peak-bytes", str(2**50))
    with serving("--workers", "1", "--token-file", str(token_file), *settings) as server:
        server.stub.Evaluate(quick(), **bearing(BOB))
        running = server.stub.Evaluate.future(slow(FOREVER), **bearing(ALICE))

        def is_refused():
            call = server.stub.GetCapabilities.future(pb.GetCapabilitiesRequest(), **bearing(ALICE))
            if call.code() is grpc.StatusCode.OK:
                return False
            (wait_ms,) = [item for key, item in call.trailing_metadata() if key == "grpc-retry-pushback-ms"]
            found = decode_status(rpc_status.from_call(call))
            assert isinstance(found, errors.OverloadedError)
            assert found.metadata["limit"] == "identity_call_count"
            assert (found.metadata["retry_after_s"], wait_ms) == ("0.1", "100")
            return True

        wait_until(is_refused)
        limits = server.stub.GetCapabilities(pb.GetCapabilitiesRequest(), **bearing(BOB)).limits
        assert (limits["identity_call_count"], limits["identity_calls_per_s"]) == (1, 1000)
        running.cancel()
        wait_until(lambda: not is_refused())


def test_a_quota_a_second_says_when_to_come_back(token_file):
    with serving("--workers", "1", "--token-file", str(token_file), "--max-identity-calls-per-s", "1") as server:
        ask = server.stub.GetCapabilities
        ask(pb.GetCapabilitiesRequest(), **bearing(ALICE))
        found = refusal(ask, pb.GetCapabilitiesRequest(), **bearing(ALICE))
        assert isinstance(found, errors.QuotaError)
        assert 0 < float(found.metadata["retry_after_s"]) <= 1
        ask(pb.GetCapabilitiesRequest(), **bearing(BOB))


# -- TLS -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def secure_stub(server, *files):
    port = server.address.rpartition(":")[2]
    with grpc.secure_channel(f"localhost:{port}", credentials(*files)) as channel:
        yield pb_grpc.DifferentiationServiceStub(channel)


def is_let_in(server, *files, **options):
    """Whether a new connection with these files is answered."""
    with secure_stub(server, *files) as stub:
        call = stub.GetCapabilities.future(pb.GetCapabilitiesRequest(), **{"timeout": PATIENCE_S} | options)
        assert call.code() in {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        return call.code() is grpc.StatusCode.OK


def test_certificates_change_without_a_restart_and_open_connections_stay(tmp_path):
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    cert_file, key_file = old.issue("localhost")
    before = Path(cert_file).read_bytes()
    alone = ("--front-ends", "1")  # each front end looks when somebody connects to it: of several, one may miss a change
    with serving("--workers", "1", *alone, "--tls-cert-file", cert_file, "--tls-key-file", key_file) as server:
        with secure_stub(server, old.ca_file) as open_stub:
            open_stub.Evaluate(quick(), timeout=PATIENCE_S)
            assert not is_let_in(server, new.ca_file)
            new.issue("localhost", as_files=(cert_file, key_file))
            assert is_let_in(server, new.ca_file)
            assert not is_let_in(server, old.ca_file)
            Path(cert_file).write_bytes(before)  # no pair with the key, as in the middle of a change
            assert is_let_in(server, new.ca_file)
            open_stub.Evaluate(named(), timeout=PATIENCE_S)
        text = server.complaints.read_text()
        assert "certificates read again" in text
        assert "certificates kept as they were: tls_cert_file: needed a certificate and its key" in text
        with pytest.raises(grpc.RpcError) as plain:
            server.stub.GetCapabilities(pb.GetCapabilitiesRequest(), timeout=PATIENCE_S)
        assert plain.value.code() is grpc.StatusCode.UNAVAILABLE


def test_certificates_of_clients_are_identities(tmp_path):
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    cert_file, key_file = ours.issue("localhost")
    alice, bob = ours.issue("alice.example.org"), ours.issue("bob.example.org")
    nameless, stranger = ours.issue("*.example.org"), theirs.issue("alice.example.org")
    files = ("--tls-cert-file", cert_file, "--tls-key-file", key_file, "--tls-client-ca-file", ours.ca_file)
    with serving("--workers", "1", *files, "--log-level", "debug") as server:
        assert not is_let_in(server, ours.ca_file)
        assert not is_let_in(server, ours.ca_file, *stranger)
        with secure_stub(server, ours.ca_file, *alice) as as_alice, secure_stub(server, ours.ca_file, *bob) as as_bob:
            as_alice.Evaluate(quick(), timeout=PATIENCE_S)
            as_alice.Evaluate(named(), timeout=PATIENCE_S)
            assert isinstance(refusal(as_bob.Evaluate, named()), errors.ProgramMissingError)
        with secure_stub(server, ours.ca_file, *nameless) as stub:
            assert isinstance(refusal(stub.Evaluate, quick()), errors.UnauthenticatedError)
        wait_until(lambda: "caller=alice.example.org" in server.complaints.read_text())


def test_with_tokens_and_certificates_both_are_needed(tmp_path, token_file):
    ours = Authority(tmp_path / "ours")
    (cert_file, key_file), client = ours.issue("localhost"), ours.issue("client.example.org")
    files = ("--tls-cert-file", cert_file, "--tls-key-file", key_file, "--tls-client-ca-file", ours.ca_file)
    with serving("--workers", "1", *files, "--token-file", str(token_file)) as server:
        assert not is_let_in(server, ours.ca_file, **bearing(ALICE))
        with secure_stub(server, ours.ca_file, *client) as stub:
            assert isinstance(refusal(stub.Evaluate, quick()), errors.UnauthenticatedError)
            stub.Evaluate(quick(), **bearing(ALICE))
            assert isinstance(refusal(stub.Evaluate, named(), **bearing(BOB)), errors.ProgramMissingError)


def test_health_has_an_address_of_its_own_for_probes(tmp_path, free_address):
    ours = Authority(tmp_path / "ours")
    cert_file, key_file = ours.issue("localhost")
    files = ("--tls-cert-file", cert_file, "--tls-key-file", key_file)
    with serving("--workers", "1", *files, "--health-listen", free_address) as server:
        assert run("--probe", free_address) == (0, "", "")
        assert run("--probe", server.address)[0] == 1
        with grpc.insecure_channel(free_address) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                pb_grpc.DifferentiationServiceStub(channel).GetCapabilities(pb.GetCapabilitiesRequest(), timeout=PATIENCE_S)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("--tls-cert-file", "{cert}"), "tls_cert_file: needed tls_key_file beside it"),
        (("--tls-key-file", "{key}"), "tls_key_file: needed tls_cert_file beside it"),
        (("--tls-client-ca-file", "{ca}"), "tls_client_ca_file: needed tls_cert_file beside it"),
        (("--tls-cert-file", "{cert}", "--tls-key-file", "{other}"), "KEY_VALUES_MISMATCH"),
        (("--tls-cert-file", "{folder}/absent", "--tls-key-file", "{key}"), "absent: No such file"),
        (("--tls-cert-file", "{cert}", "--tls-key-file", "{key}", "--tls-client-ca-file", "{key}"), "needed certificates as PEM"),
        (("--token-file", "{folder}/absent"), "token_file: needed a file that can be read"),
        (("--token-file", "{cert}"), "token_file: line 1: needed IDENTITY:TOKEN"),
    ],
)
def test_it_does_not_start_with_files_that_cannot_be_used(given, text, tmp_path):
    ours = Authority(tmp_path / "ours")
    (cert, key), (_, other) = ours.issue("localhost"), ours.issue("other")
    places = {"cert": cert, "key": key, "other": other, "ca": ours.ca_file, "folder": tmp_path}
    code, out, complaint = run("--listen", "127.0.0.1:0", "--log-level", "error", *(item.format(**places) for item in given))
    assert (code, out) == (2, "")
    assert text in complaint
    assert complaint.startswith("gradwire serve: ")
    assert complaint.count("\n") == 1


def test_metrics_count_identities_by_name_and_strangers_under_one(token_file, free_address):
    with serving("--workers", "1", "--token-file", str(token_file), "--metrics-listen", free_address) as server:
        for method in ("/a/b", "/c/d"):
            refusal(server.channel.unary_unary(method), b"", **bearing("stranger" * 4))
        server.stub.Evaluate(quick(), **bearing(ALICE))
        refusal(server.stub.Evaluate, named(), **bearing(BOB))
        with urllib.request.urlopen(f"http://{free_address}/metrics", timeout=PATIENCE_S) as response:
            text = response.read().decode()
    assert 'gradwire_call_seconds_count{code="UNAUTHENTICATED",rpc="refused"} 2.0' in text
    assert 'gradwire_identity_calls_total{code="OK",identity="alice"} 1.0' in text
    assert 'gradwire_identity_calls_total{code="FAILED_PRECONDITION",identity="bob"} 1.0' in text
    assert not [secret for secret in (ALICE, BOB, "stranger") if secret in text]


# -- leaks ---------------------------------------------------------------------------------------------------------------------

INJECTED = """
import os, sys
if "gradwire_server" in " ".join(sys.orig_argv):
    import gradwire_core.engine as engine
    import gradwire_server.guard as guard
    import gradwire_server.inline as inline
    import gradwire_server.tokens as tokens
    def fail(*args, **kwargs):
        secret = "topsecret"
        raise KIND("in " + __file__ + " at " + os.getcwd() + " with " + secret)
    PLACES
"""
IN_A_WORKER = "engine.ExecutableCache.find = engine.derive = fail"
BEFORE_A_REQUEST_IS_LET_IN = {
    "inline.Inline.find = fail": ("Evaluate", "EvaluateStream"),
    "guard.no_identity = fail": ("Evaluate", "EvaluateStream", "CreateTensor", "GetCapabilities"),
}


@pytest.mark.parametrize("kind", ["RuntimeError", "OSError", "KeyError", "__import__('gradwire_core.errors').errors.TracingError"])
def test_a_defect_leaks_no_path_no_trace_and_no_source(kind, tmp_path, monkeypatch):
    with failing(IN_A_WORKER, kind, tmp_path, monkeypatch) as server:
        program = quick().program
        for call in (
            functools.partial(server.stub.Evaluate, quick()),
            functools.partial(server.stub.Explain, pb.ExplainRequest(program=program)),
            functools.partial(server.stub.Differentiate, pb.DifferentiateRequest(program=program, transforms=[{"jvp": {}}])),
        ):
            assert_internal(call, server, tmp_path)


@pytest.mark.parametrize("places", BEFORE_A_REQUEST_IS_LET_IN)
def test_a_defect_before_a_request_is_let_in_leaks_as_little_and_is_told_as_much(places, tmp_path, monkeypatch):
    with failing(places, "RuntimeError", tmp_path, monkeypatch) as server:
        calls = {
            "Evaluate": functools.partial(server.stub.Evaluate, quick()),
            "EvaluateStream": lambda **settings: list(server.stub.EvaluateStream(iter([session_request()]), **settings)),
            "CreateTensor": lambda **settings: server.stub.CreateTensor(iter([pb.CreateTensorRequest()]), **settings),
            "GetCapabilities": functools.partial(server.stub.GetCapabilities, pb.GetCapabilitiesRequest()),
        }
        for rpc in BEFORE_A_REQUEST_IS_LET_IN[places]:
            assert_internal(calls[rpc], server, tmp_path)


def test_a_defect_where_tokens_are_checked_lets_nobody_in(token_file, tmp_path, monkeypatch):
    flags = ("--token-file", str(token_file))
    with failing("tokens.TokenFile.identify = fail", "RuntimeError", tmp_path, monkeypatch, *flags) as server:
        settings = bearing(ALICE)
        assert_internal(lambda **_settings: server.stub.Evaluate(quick(), **settings), server, tmp_path)


def session_request():
    return pb.EvaluateStreamRequest(id=1, evaluate=quick())


@contextmanager
def failing(places, kind, tmp_path, monkeypatch, *flags):
    """Run a server that raises where a statement of this file puts it."""
    (tmp_path / "sitecustomize.py").write_text(INJECTED.replace("KIND", kind).replace("PLACES", places))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    with serving("--workers", "1", *flags) as server:
        yield server
        assert "topsecret" in server.complaints.read_text()  # where the operator looks for it


def assert_internal(call, server, tmp_path):
    """Assert that a call ends with INTERNAL, which says nothing of how the server is made, and that the log tells of its name."""
    with pytest.raises(grpc.RpcError) as caught:
        call(timeout=PATIENCE_S)
    error = caught.value
    assert error.code() is grpc.StatusCode.INTERNAL
    sent = repr((error.details(), error.trailing_metadata(), error.initial_metadata(), error.debug_error_string()))
    for leak in ("topsecret", "sitecustomize", str(tmp_path), "Traceback", "Error(", ".py", "gradwire_core"):
        assert leak not in sent.replace("InternalError(", ""), leak
    assert decode_status(rpc_status.from_call(error)).metadata["request_id"] in server.complaints.read_text()
