"""Programs of files: what a file may hold, that everyone may name them, that each worker has compiled them before it serves."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import json_format
from grpc_status import rpc_status

from gradwire_core import errors
from gradwire_core.program import Program, Var
from gradwire_proto.program import encode_program
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2, transform_pb2
from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.preload import read_preloads
from gradwire_server.store import OwnedStore
from tests.server.processes import run, serving
from tests.server.requests import PATIENCE_S, VECTOR, X, evaluation, product, quick

VJP = pb.Output(transforms=[transform_pb2.Transform(vjp=transform_pb2.Vjp())], seeds=[encode_tensor(X)])
IDENTITY = Program((x := Var(VECTOR),), (), (x,))


def of(kind):
    """A program as a message of a kind."""
    message = encode_program(product())
    return message if kind is program_pb2.Program else kind(program=message)


@pytest.mark.parametrize("kind", [program_pb2.Program, pb.CreateProgramRequest, pb.EvaluateRequest])
@pytest.mark.parametrize("name", ["a.binpb", "a.json"])
def test_a_file_holds_one_of_three_messages(kind, name, tmp_path):
    path = tmp_path / name
    message = of(kind)
    path.write_bytes(json_format.MessageToJson(message).encode() if name.endswith("json") else message.SerializeToString())
    (found,) = read_preloads(ServerConfig(preload=(str(path),)))
    assert found.digest == product().digest
    request = pb.EvaluateRequest.FromString(found.request)
    assert request.program == encode_program(product())
    assert list(request.outputs) == [pb.Output()]
    assert pb.GetProgramResponse.FromString(found.program.response).program == request.program


def test_outputs_are_kept_and_tensors_are_not(tmp_path):
    request = evaluation(product(), X)
    request.outputs.append(VJP)
    request.reproducible = True
    path = tmp_path / "a"
    path.write_bytes(request.SerializeToString())
    (found,) = read_preloads(ServerConfig(preload=(str(path),)))
    kept = pb.EvaluateRequest.FromString(found.request)
    assert (len(kept.inputs), len(kept.outputs), kept.reproducible) == (0, 2, True)
    assert kept.outputs[1] == pb.Output(transforms=VJP.transforms)


@pytest.mark.parametrize("program", [IDENTITY, Program((), (), ())], ids=["identity", "empty"])
def test_the_least_programs_are_told_apart(program, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(pb.CreateProgramRequest(program=encode_program(program)).SerializeToString())
    assert read_preloads(ServerConfig(preload=(str(path),)))[0].digest == program.digest


def test_a_file_that_holds_none_is_named(tmp_path):
    path = tmp_path / "a"
    ill = quick()
    ill.program.equations[0].primitive = "sinn"
    for content, text in (
        (b"", "got something else"),
        (b"\xff\xff", "got something else"),
        (pb.EvaluateRequest(program_name="programs/" + "0" * 64).SerializeToString(), "got something else"),
        (ill.SerializeToString(), "sinn"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError) as refused:
            read_preloads(ServerConfig(preload=(str(path),)))
        assert str(path) in str(refused.value)
        assert text in str(refused.value)
    with pytest.raises(ConfigError, match="No such file"):
        read_preloads(ServerConfig(preload=(str(tmp_path / "b"),)))


def test_what_is_common_is_seen_by_all_and_stays():
    store = OwnedStore(10, is_shared=False, common={"x": 1})
    store.put("alice", "y", 2, 10)
    assert [store.get(who, "x") for who in ("alice", "bob")] == [1, 1]
    assert store.items("alice") == {"x": 1, "y": 2}
    assert not store.discard("alice", "x")
    store.put("alice", "x", 3, 10)
    assert (store.get("alice", "x"), store.get("bob", "x"), len(store)) == (3, 1, 1)


def test_every_worker_has_compiled_what_everyone_may_name(tmp_path):
    path = tmp_path / "a.binpb"
    request = quick()
    request.outputs.append(VJP)
    path.write_bytes(request.SerializeToString())
    name = "programs/" + product().digest
    with serving("--workers", "2", "--spare-workers", "0", "--preload", str(path)) as server:
        asked = pb.EvaluateRequest(program_name=name, inputs=[encode_tensor(X)], outputs=request.outputs)
        assert len(server.stub.Evaluate(asked, timeout=PATIENCE_S).results) == 2
        assert server.stub.ListPrograms(pb.ListProgramsRequest()).programs[0].name == name
        with pytest.raises(grpc.RpcError) as refused:
            server.stub.DeleteProgram(pb.DeleteProgramRequest(name=name), timeout=PATIENCE_S)
        assert isinstance(decode_status(rpc_status.from_call(refused.value)), errors.PermissionDeniedError)


def test_a_program_that_does_not_compile_is_one_clear_line(tmp_path):
    path = tmp_path / "a.binpb"
    request = quick()
    request.outputs[0].transforms.add(grad=transform_pb2.Grad())
    path.write_bytes(request.SerializeToString())
    code, out, complaint = run("--listen", "127.0.0.1:0", "--preload", str(path), "--log-level", "error")
    assert (code, out) == (2, "")
    assert complaint.startswith(f"gradwire serve: preload: needed a program that compiles in {path}, got ")
    assert "grad" in complaint
    assert complaint.count("\n") == 1
