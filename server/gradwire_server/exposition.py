"""How metrics reach Prometheus: made, sent from process to process, summed, and served on a port. No metric is named here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from gradwire_server.addresses import cannot_listen
from gradwire_server.config import ConfigError, split_address
from gradwire_server.metrics import Metrics, MetricsPage, NoMetrics, PrometheusMetrics


class Collector(Protocol):
    """What metrics are collected from, as prometheus-client has it."""

    def collect(self) -> Iterable[Any]:
        """Yield families of samples."""


def make_metrics(listen: str) -> Metrics:
    """Return metrics that count, or for an empty address such as nobody reads.

    Raises:
        ConfigError: they need a package that is not installed.
    """
    if not listen:
        return NoMetrics()
    try:
        return PrometheusMetrics()
    except ImportError as error:
        text = f'metrics_listen: needed its package, got no {error.name}; pip install "gradwire[server]", or leave it empty'
        raise ConfigError(text) from error


@contextlib.contextmanager
def serving_metrics(listen: str, collector: Collector) -> Iterator[MetricsPage]:
    """Serve metrics on HOST:PORT for the length of a block.

    Raises:
        ConfigError: the address cannot be served on.
    """
    try:
        page = MetricsPage(collector, *split_address("metrics_listen", listen))
    except OSError as error:
        raise cannot_listen("metrics_listen", listen, error) from error
    try:
        yield page
    finally:
        page.close()
