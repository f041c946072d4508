"""How metrics reach Prometheus: made, sent from process to process, summed, and served on a port. No metric is named here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeAlias

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


def encode_samples(collector: Collector) -> bytes:
    """Return what is collected as JSON: families of name, documentation and type, each with samples of name, labels and value."""
    families = [
        [
            family.name,
            family.documentation,
            family.type,
            [[item.name, sorted(item.labels.items()), item.value] for item in family.samples],
        ]
        for family in collector.collect()
    ]
    return json.dumps(families).encode()


class Sum:
    """The sum of the samples of several processes, which is what a server tells of itself.

    Args:
        parts: returns what `encode_samples` made in each of them.
    """

    def __init__(self, parts: Callable[[], Iterable[bytes]]) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Any]:
        """Yield families of samples."""
        from prometheus_client.core import Metric

        for (name, documentation, type), samples in add_samples(self._parts()).items():
            family = Metric(name, documentation, type)
            for (item, labels), value in samples.items():
                family.add_sample(item, dict(labels), value)
            yield family


Families: TypeAlias = dict[tuple[str, str, str], dict[tuple[str, tuple[tuple[str, str], ...]], float]]
"""Samples by name and labels, by the name, documentation and type of their family."""


def add_samples(parts: Iterable[bytes]) -> Families:
    """Return the sums of samples that are alike; of times of creation, the first one."""
    found: Families = {}
    for part in parts:
        for name, documentation, type, samples in json.loads(part):
            family = found.setdefault((name, documentation, type), {})
            for item, labels, value in samples:
                key = (item, tuple((label, text) for label, text in labels))
                before = family.get(key)
                if before is None:
                    family[key] = value
                else:
                    family[key] = min(before, value) if item.endswith("_created") else before + value
    return found


def keep_totals(families: Families) -> bytes:
    """Return what stays of the samples of a process that has ended, as `encode_samples` has them: all but gauges."""
    return json.dumps(
        [
            [*family, [[item, labels, value] for (item, labels), value in samples.items()]]
            for family, samples in families.items()
            if family[2] != "gauge"
        ]
    ).encode()
