"""Counters, gauges and histograms: they are named here and nowhere else.

Without an address for metrics nothing is counted, and prometheus-client is not needed.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

_WAITS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_RATIOS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


WATCHED = {
    "gradwire_calls_running": ("gauge", "Requests that are being answered, those of sessions included."),
    "gradwire_sessions": ("gauge", "Sessions that are open: streams of EvaluateStream."),
    "gradwire_inline_evaluations": ("counter", "Evaluations done by a front end itself, so small that no worker was asked."),
    "gradwire_idle_segment_bytes": ("gauge", "Bytes of shared memory kept for tensors in chunks to come."),
}
"""Counts that are not told but read, each with its type and meaning."""


class Metrics(Protocol):
    """What the server tells about itself."""

    def watch(self, counts: Mapping[str, Callable[[], int]]) -> None:
        """Have counts that others keep be read whenever metrics are: by name, each one of `WATCHED`."""

    def observe_call(self, rpc: str, code: str, seconds: float) -> None:
        """Count a finished call: its rpc, the name of its status code, and how long it took."""

    def count_identity_call(self, identity: str, code: str) -> None:
        """Count a finished call of an identity, by the name of its status code."""

    def set_queue_length(self, count: int) -> None:
        """Tell how many tasks wait for a worker."""

    def count_worker_start(self) -> None:
        """Count a started worker process."""

    def count_task_retry(self) -> None:
        """Count a task that is run again because its worker died."""

    def count_shards(self, count: int) -> None:
        """Count an evaluation that is done in so many shards."""

    def observe_wait(self, seconds: float) -> None:
        """Count a task that was given to a worker, after so many seconds in the queue."""

    def observe_batch(self, count: int) -> None:
        """Count tasks that were given to a worker together."""

    def observe_evaluation(self, predicted_s: float, taken_s: float, *, was_cached: bool) -> None:
        """Count an evaluation: what it was predicted to take, what it took, and whether its executable was there already."""

    def set_stored_programs(self, count: int, size: int) -> None:
        """Tell how many programs are stored, in how many bytes."""

    def set_stored_tensors(self, count: int, size: int) -> None:
        """Tell how many tensors are stored, in how many bytes."""


class NoMetrics:
    """Metrics that nobody reads."""

    def watch(self, counts: Mapping[str, Callable[[], int]]) -> None:
        """Do nothing."""

    def observe_call(self, rpc: str, code: str, seconds: float) -> None:
        """Do nothing."""

    def count_identity_call(self, identity: str, code: str) -> None:
        """Do nothing."""

    def set_queue_length(self, count: int) -> None:
        """Do nothing."""

    def count_worker_start(self) -> None:
        """Do nothing."""

    def count_task_retry(self) -> None:
        """Do nothing."""

    def count_shards(self, count: int) -> None:
        """Do nothing."""

    def observe_wait(self, seconds: float) -> None:
        """Do nothing."""

    def observe_batch(self, count: int) -> None:
        """Do nothing."""

    def observe_evaluation(self, predicted_s: float, taken_s: float, *, was_cached: bool) -> None:
        """Do nothing."""

    def set_stored_programs(self, count: int, size: int) -> None:
        """Do nothing."""

    def set_stored_tensors(self, count: int, size: int) -> None:
        """Do nothing."""


class PrometheusMetrics:
    """Metrics as Prometheus reads them.

    Raises:
        ImportError: prometheus-client is not installed.

    Attributes:
        registry: where they are collected from.
    """

    def __init__(self) -> None:
        import prometheus_client as client

        self.registry = registry = client.CollectorRegistry()
        self._calls = _Calls()
        registry.register(self._calls)
        self._queue = client.Gauge("gradwire_queue_length", "Tasks that wait for a worker.", registry=registry)
        self._starts = client.Counter("gradwire_worker_starts", "Worker processes started.", registry=registry)
        self._retries = client.Counter("gradwire_task_retries", "Tasks run again because a worker died.", registry=registry)
        self._sharded = client.Counter("gradwire_sharded_evaluations", "Evaluations done in shards.", registry=registry)
        self._shards = client.Counter("gradwire_shards", "Shards of evaluations.", registry=registry)
        self._programs = client.Gauge("gradwire_stored_programs", "Programs stored.", registry=registry)
        self._program_bytes = client.Gauge("gradwire_stored_program_bytes", "Bytes of the stored programs.", registry=registry)
        self._tensors = client.Gauge("gradwire_stored_tensors", "Tensors stored.", registry=registry)
        self._tensor_bytes = client.Gauge("gradwire_stored_tensor_bytes", "Bytes of the stored tensors.", registry=registry)
        self._waits = client.Histogram(
            "gradwire_queue_seconds", "Seconds that tasks waited for a worker.", buckets=_WAITS_S, registry=registry
        )
        self._batches = client.Histogram(
            "gradwire_batch_size", "Tasks given to a worker together.", buckets=_BATCH_SIZES, registry=registry
        )
        self._predicted = client.Counter("gradwire_predicted_seconds", "Seconds that evaluations should take.", registry=registry)
        self._taken = client.Counter("gradwire_evaluation_seconds", "Seconds that evaluations took.", registry=registry)
        self._ratios = client.Histogram(
            "gradwire_prediction_ratio",
            "Seconds that evaluations took, divided by those that they should take.",
            buckets=_RATIOS,
            registry=registry,
        )
        executables = client.Counter(
            "gradwire_executables", "Executables that were asked for, and had to be compiled or not.", ["cache"], registry=registry
        )
        self._executables = {True: executables.labels("hit"), False: executables.labels("miss")}
        self._identities = client.Counter(
            "gradwire_identity_calls", "Calls finished, of each identity.", ["identity", "code"], registry=registry
        )
        self._identity_children: dict[tuple[str, str], Any] = {}

    def observe_call(self, rpc: str, code: str, seconds: float) -> None:
        """Count a finished call."""
        self._calls.observe((rpc, code), seconds)

    def count_identity_call(self, identity: str, code: str) -> None:
        """Count a finished call of an identity."""
        child = self._identity_children.get((identity, code))
        if child is None:
            child = self._identity_children[identity, code] = self._identities.labels(identity, code)
        child.inc()

    def set_queue_length(self, count: int) -> None:
        """Tell how many tasks wait for a worker."""
        self._queue.set(count)

    def count_worker_start(self) -> None:
        """Count a started worker process."""
        self._starts.inc()

    def count_task_retry(self) -> None:
        """Count a task that is run again because its worker died."""
        self._retries.inc()

    def count_shards(self, count: int) -> None:
        """Count an evaluation that is done in so many shards."""
        self._sharded.inc()
        self._shards.inc(count)

    def observe_wait(self, seconds: float) -> None:
        """Count a task that was given to a worker."""
        self._waits.observe(seconds)

    def observe_batch(self, count: int) -> None:
        """Count tasks that were given to a worker together."""
        self._batches.observe(count)

    def observe_evaluation(self, predicted_s: float, taken_s: float, *, was_cached: bool) -> None:
        """Count an evaluation."""
        self._predicted.inc(predicted_s)
        self._taken.inc(taken_s)
        if predicted_s:
            self._ratios.observe(taken_s / predicted_s)
        self._executables[was_cached].inc()

    def set_stored_programs(self, count: int, size: int) -> None:
        """Tell how many programs are stored, in how many bytes."""
        self._programs.set(count)
        self._program_bytes.set(size)

    def set_stored_tensors(self, count: int, size: int) -> None:
        """Tell how many tensors are stored, in how many bytes."""
        self._tensors.set(count)
        self._tensor_bytes.set(size)

    def watch(self, counts: Mapping[str, Callable[[], int]]) -> None:
        """Have counts that others keep be read whenever metrics are."""
        self.registry.register(_Watch(counts))


class _Calls:
    """How long calls took, by rpc and code. To count in prometheus-client's own histograms takes three times as long."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._sums: dict[tuple[str, str], float] = {}

    def observe(self, labels: tuple[str, str], seconds: float) -> None:
        """Count a call."""
        counts = self._counts.get(labels)
        if counts is None:
            self._sums[labels] = 0.0
            counts = self._counts[labels] = [0] * (len(_WAITS_S) + 1)
        counts[bisect_left(_WAITS_S, seconds)] += 1
        self._sums[labels] += seconds

    def describe(self) -> Iterator[Any]:
        """Yield the family of them, without samples."""
        from prometheus_client.core import HistogramMetricFamily

        name, documentation = "gradwire_call_seconds", "Seconds from the arrival of a call to its answer."
        yield HistogramMetricFamily(name, documentation, labels=["rpc", "code"])

    def collect(self) -> Iterator[Any]:
        """Yield the family of them."""
        (family,) = self.describe()
        bounds = [*map(str, _WAITS_S), "+Inf"]
        for labels, counts in list(self._counts.items()):
            family.add_metric(labels, list(zip(bounds, itertools.accumulate(counts), strict=True)), self._sums[labels])
        yield family


class _Watch:
    """Collects counts that others keep."""

    def __init__(self, counts: Mapping[str, Callable[[], int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Any]:
        """Yield a family for each count."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, count in self._counts.items():
            type, documentation = WATCHED[name]
            family = GaugeMetricFamily if type == "gauge" else CounterMetricFamily
            yield family(name, documentation, value=count())


class MetricsPage:
    """Serves metrics over HTTP, in a thread, on a port of its own.

    Args:
        registry: what is served: a registry of prometheus-client, or what collects as one.
        host: address to serve on.
        port: port to serve on; 0 takes a free one, which `port` then tells.

    Raises:
        OSError: the address cannot be served on.
    """

    def __init__(self, registry: Any, host: str, port: int) -> None:
        import prometheus_client as client

        self._server, self._thread = client.start_http_server(port, host, registry)
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
