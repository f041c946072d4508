"""All that callers store, by name: programs and tensors. Nothing else may live here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradwire_server.config import ServerConfig
from gradwire_server.metrics import Metrics
from gradwire_server.programs import StoredProgram
from gradwire_server.store import LocalStore, OwnedStore, Store
from gradwire_server.tensors import StoredTensor, TensorStore


@dataclass(frozen=True, slots=True)
class Stores:
    """What is stored.

    Attributes:
        programs: by their digest.
        tensors: by their name.
    """

    programs: Store[StoredProgram]
    tensors: TensorStore


def make_programs(config: ServerConfig, common: Mapping[str, StoredProgram]) -> OwnedStore[StoredProgram]:
    """Return what keeps programs, within the bounds of a configuration, besides those that all callers see."""
    return OwnedStore(config.program_store_bytes, is_shared=config.shared_programs, common=common)


def make_tensors(config: ServerConfig) -> OwnedStore[StoredTensor]:
    """Return what keeps tensors, within the bounds of a configuration."""
    owner_bytes = config.identity_tensor_limit_bytes
    return OwnedStore(config.tensor_store_bytes, is_shared=config.shared_tensors, max_owner_bytes=owner_bytes)


def local_stores(config: ServerConfig, common: Mapping[str, StoredProgram], metrics: Metrics) -> Stores:
    """Return stores in the memory of this process.

    Args:
        config: their bounds.
        common: the programs that all callers see, by their digest.
        metrics: told of what they hold.
    """
    programs = LocalStore(make_programs(config, common), metrics.set_stored_programs)
    tensors = LocalStore(make_tensors(config), metrics.set_stored_tensors)
    return Stores(programs, TensorStore(config, tensors))
