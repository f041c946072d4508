"""A server in one process, besides its workers: starts them, serves, drains."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from gradwire_server.addresses import check_free, warn_of_risks
from gradwire_server.config import ServerConfig
from gradwire_server.exposition import make_metrics, serving_metrics
from gradwire_server.front import FrontEnd
from gradwire_server.metrics import PrometheusMetrics
from gradwire_server.pools import make_pool
from gradwire_server.preload import read_preloads
from gradwire_server.sharding import Sharding
from gradwire_server.stores import local_stores


class Server:
    """A server on one event loop: `async with Server(config) as server` serves until the block ends, then drains.

    Args:
        config: all settings.

    Raises:
        ConfigError: a package is missing, or a file that the configuration names cannot be used.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._metrics = metrics = make_metrics(config.metrics_listen)
        preloads = read_preloads(config)
        self._pool = make_pool(config, metrics, [(item.path, item.request) for item in preloads])
        stores = local_stores(config, {item.digest: item.program for item in preloads}, metrics)
        self._front = FrontEnd(config, Sharding(self._pool, config.workers, metrics), stores, metrics, shares_port=False)

    @property
    def address(self) -> str:
        """Where it serves, HOST:PORT, with the port that was taken."""
        return self._front.address

    async def __aenter__(self) -> Self:
        """Start workers and gRPC.

        Raises:
            ConfigError: an address cannot be served on, or workers do not start.
        """
        async with AsyncExitStack() as stack:
            if isinstance(self._metrics, PrometheusMetrics):
                stack.enter_context(serving_metrics(self._config.metrics_listen, self._metrics.registry))
            check_free("listen", self._config.listen)
            if self._config.health_listen:
                check_free("health_listen", self._config.health_listen)
            stack.push_async_callback(self._pool.close)
            await self._pool.start()
            warn_of_risks(self._config)
            await stack.enter_async_context(self._front)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Drain, then stop gRPC and the workers."""
        await self._stack.aclose()
