"""What this server is and can do, read from the registries of the core. Nothing else may live here."""

from __future__ import annotations

import importlib.metadata

from gradwire_core import engine, transforms
from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Primitive
from gradwire_core.types import Dtype
from gradwire_proto import API_VERSION
from gradwire_proto.evaluation import encode_layout
from gradwire_proto.tensor import encode_dtype
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.config import ServerConfig
from gradwire_server.limits import Limits

CANONICAL_VERSION = 1


def describe_capabilities(config: ServerConfig) -> pb.GetCapabilitiesResponse:
    """Return the response of GetCapabilities."""
    return pb.GetCapabilitiesResponse(
        server_version=package_version(),
        api_version=API_VERSION,
        canonical_version=CANONICAL_VERSION,
        primitives=[_describe(PRIMITIVES[name]) for name in sorted(PRIMITIVES)],
        transforms=sorted(transforms.NAMES),
        dtypes=map(encode_dtype, Dtype),
        limits=Limits.from_config(config).as_dict() | _quotas(config),
        worker_count=config.workers,
        layouts=map(encode_layout, engine.LAYOUTS),
    )


def _quotas(config: ServerConfig) -> dict[str, int]:
    """Return the limits of an identity by name; those that are not set are left out."""
    found = {
        name: getattr(config, f"max_{name}") for name in ("identity_call_count", "identity_calls_per_s", "identity_tensor_bytes")
    }
    return {name: value for name, value in found.items() if value}


def _describe(primitive: Primitive) -> pb.PrimitiveInfo:
    return pb.PrimitiveInfo(name=primitive.name, params=primitive.params, operand_count=primitive.arity, doc=primitive.doc)


def package_version() -> str:
    """Return the version of what is installed; 0 where it is run from its sources."""
    try:
        return importlib.metadata.version("gradwire")
    except importlib.metadata.PackageNotFoundError:
        return "0"
