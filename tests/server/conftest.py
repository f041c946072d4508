"""One server for all tests that leave it as they found it."""

from __future__ import annotations

import grpc
import pytest

from gradwire_proto.v1 import differentiation_service_pb2_grpc as pb_grpc
from tests.server.processes import serving


@pytest.fixture(scope="session")
def server():
    with serving("--workers", "2") as process:
        yield process


@pytest.fixture(scope="session")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="session")
def stub(channel):
    return pb_grpc.DifferentiationServiceStub(channel)
