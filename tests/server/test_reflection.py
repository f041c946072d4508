"""The service from any language: everything a caller needs comes from the server, nothing from our packages."""

from __future__ import annotations

import struct

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.server.processes import serving
from tests.server.requests import PATIENCE_S

SERVICE = "gradwire.v1.DifferentiationService"


@pytest.fixture
def database(channel):
    return ProtoReflectionDescriptorDatabase(channel)


def test_reflection_lists_the_services(database):
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())


def test_evaluate_works_from_reflected_messages_alone(database, channel):
    service = DescriptorPool(database).FindServiceByName(SERVICE)
    method = service.FindMethodByName("Evaluate")
    request_class, response_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    call = channel.unary_unary(f"/{service.full_name}/{method.name}", request_class.SerializeToString, response_class.FromString)

    request = request_class()
    float64 = method.input_type.fields_by_name["inputs"].message_type.fields_by_name["dtype"].enum_type
    dtype = float64.values_by_name["DTYPE_FLOAT64"].number
    request.program.inputs.add(dtype=dtype)
    equation = request.program.equations.add(primitive="sin")
    equation.operands.add(number=0)
    equation.results.add(dtype=dtype)
    request.program.outputs.add(number=1)
    request.inputs.add(dtype=dtype, data=struct.pack("<d", 0.0))
    request.outputs.add()
    request.outputs.add().transforms.add().grad.SetInParent()

    response = call(request)
    found = [struct.unpack("<d", output.results[0].dense.data)[0] for output in response.results]
    assert found == [0.0, 1.0]
    assert response.program_name.startswith("programs/")


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_is_told_for_the_server_and_the_service(service, channel):
    response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_channelz_is_served_if_asked_for(channel):
    call = "/grpc.channelz.v1.Channelz/GetServers"
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(call)(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with serving("--workers", "1", "--spare-workers", "0", "--channelz") as server:
        assert server.channel.unary_unary(call)(b"", timeout=PATIENCE_S)
