"""The pool that a configuration asks for. Ray is imported only where it is chosen; nothing else may live here."""

from __future__ import annotations

from collections.abc import Sequence

from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.metrics import Metrics
from gradwire_server.pool import WorkerPool
from gradwire_server.tasks import TaskPool


def make_pool(config: ServerConfig, metrics: Metrics, preloads: Sequence[tuple[str, bytes]]) -> TaskPool:
    """Return a pool that is not started; its arguments are those of `WorkerPool`.

    Raises:
        ConfigError: a package is missing.
    """
    if config.pool == "local":
        return WorkerPool(config, metrics, preloads)
    try:
        from gradwire_server.ray_pool import RayPool
    except ImportError as error:
        raise ConfigError(f'pool: needed Ray, got no {error.name}; pip install "gradwire[ray]"') from error
    return RayPool(config, metrics, preloads)
