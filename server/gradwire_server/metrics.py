"""Counters, gauges and histograms: they are named here and nowhere else.

Without an address for metrics nothing is counted, and prometheus-client is not needed.
"""

from __future__ import annotations

from typing import Any, Protocol


class Metrics(Protocol):
    """What the server tells about itself."""

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

    def set_stored_programs(self, count: int, size: int) -> None:
        """Tell how many programs are stored, in how many bytes."""

    def set_stored_tensors(self, count: int, size: int) -> None:
        """Tell how many tensors are stored, in how many bytes."""


class NoMetrics:
    """Metrics that nobody reads."""

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
        self._seconds = client.Histogram(
            "gradwire_call_seconds", "Seconds from the arrival of a call to its answer.", ["rpc", "code"], registry=registry
        )
        self._queue = client.Gauge("gradwire_queue_length", "Tasks that wait for a worker.", registry=registry)
        self._starts = client.Counter("gradwire_worker_starts", "Worker processes started.", registry=registry)
        self._retries = client.Counter("gradwire_task_retries", "Tasks run again because a worker died.", registry=registry)
        self._programs = client.Gauge("gradwire_stored_programs", "Programs stored.", registry=registry)
        self._program_bytes = client.Gauge("gradwire_stored_program_bytes", "Bytes of the stored programs.", registry=registry)
        self._tensors = client.Gauge("gradwire_stored_tensors", "Tensors stored.", registry=registry)
        self._tensor_bytes = client.Gauge("gradwire_stored_tensor_bytes", "Bytes of the stored tensors.", registry=registry)
        self._children: dict[tuple[str, str], Any] = {}
        self._identities = client.Counter(
            "gradwire_identity_calls", "Calls finished, of each identity.", ["identity", "code"], registry=registry
        )
        self._identity_children: dict[tuple[str, str], Any] = {}

    def observe_call(self, rpc: str, code: str, seconds: float) -> None:
        """Count a finished call."""
        child = self._children.get((rpc, code))
        if child is None:
            child = self._children[rpc, code] = self._seconds.labels(rpc, code)
        child.observe(seconds)

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

    def set_stored_programs(self, count: int, size: int) -> None:
        """Tell how many programs are stored, in how many bytes."""
        self._programs.set(count)
        self._program_bytes.set(size)

    def set_stored_tensors(self, count: int, size: int) -> None:
        """Tell how many tensors are stored, in how many bytes."""
        self._tensors.set(count)
        self._tensor_bytes.set(size)


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
