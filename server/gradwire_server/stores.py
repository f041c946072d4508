"""All that callers store, by name: programs and tensors. Nothing else may live here."""

from __future__ import annotations

from dataclasses import dataclass

from gradwire_server.config import ServerConfig
from gradwire_server.metrics import Metrics
from gradwire_server.store import LocalStore, OwnedStore, Store
from gradwire_server.tensors import StoredTensor, TensorStore


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """A program as it is kept: the serialized GetProgramResponse, and the serialized ProgramSummary."""

    response: bytes
    summary: bytes


@dataclass(frozen=True, slots=True)
class Stores:
    """What is stored.

    Attributes:
        programs: by their digest.
        tensors: by their name.
    """

    programs: Store[StoredProgram]
    tensors: TensorStore


def make_programs(config: ServerConfig) -> OwnedStore[StoredProgram]:
    """Return what keeps programs, within the bounds of a configuration."""
    return OwnedStore(config.program_store_bytes, is_shared=config.shared_programs)


def make_tensors(config: ServerConfig) -> OwnedStore[StoredTensor]:
    """Return what keeps tensors, within the bounds of a configuration."""
    owner_bytes = config.identity_tensor_limit_bytes
    return OwnedStore(config.tensor_store_bytes, is_shared=config.shared_tensors, max_owner_bytes=owner_bytes)


def local_stores(config: ServerConfig, metrics: Metrics) -> Stores:
    """Return stores in the memory of this process."""
    programs = LocalStore(make_programs(config), metrics.set_stored_programs)
    tensors = LocalStore(make_tensors(config), metrics.set_stored_tensors)
    return Stores(programs, TensorStore(config, tensors))
