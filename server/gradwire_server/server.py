"""Assembles the parts, serves, drains.

    gRPC (one event loop) --> Guard --> CallInterceptor --> DifferentiationService --> WorkerPool --> worker processes

Workers are started before any gRPC object exists, since a process that uses gRPC must not be forked.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from gradwire_server.admission import Admission, Gate
from gradwire_server.capabilities import describe_capabilities
from gradwire_server.config import ConfigError, ServerConfig, is_loopback, split_address
from gradwire_server.guard import Guard, certificate_identity, no_identity, token_identity
from gradwire_server.interceptors import CallInterceptor, Context
from gradwire_server.metrics import Metrics, NoMetrics, PrometheusMetrics
from gradwire_server.pool import WorkerPool
from gradwire_server.quotas import Quotas
from gradwire_server.service import SERVICE, DifferentiationService
from gradwire_server.stores import local_stores
from gradwire_server.tensors import TensorService
from gradwire_server.tls import Certificates
from gradwire_server.tokens import TokenFile

_LOGGER = logging.getLogger(__name__)
_LAST_WORDS_S = 1.0
_LEAST_PING_INTERVAL_MS = 10_000


class Server:
    """A server on one event loop: `async with Server(config) as server` serves until the block ends, then drains.

    Args:
        config: all settings.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._host, self._port = split_address("listen", config.listen)
        self._gate = Gate()
        self._health = health.aio.HealthServicer()
        self._stack = AsyncExitStack()
        self._certificates = Certificates(config) if config.tls_cert_file else None
        self._tokens = TokenFile(config.token_file) if config.token_file else None
        self.metrics = make_metrics(config.metrics_listen)
        self.pool = WorkerPool(config, self.metrics)

    @property
    def address(self) -> str:
        """Where it serves, HOST:PORT, with the port that was taken."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    async def __aenter__(self) -> Self:
        """Start workers and gRPC.

        Raises:
            ConfigError: the address cannot be served on, or workers do not start.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self.metrics.close)
            _check_free("listen", self._config.listen)
            stack.push_async_callback(self.pool.close)
            await self.pool.start()
            if self._config.health_listen:
                stack.push_async_callback((await self._start_health()).stop, None)
            stack.push_async_callback(self._stop, await self._start())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Drain, then stop gRPC and the workers."""
        await self._stack.aclose()

    async def _start(self) -> grpc.aio.Server:
        _warn_of_risks(self._config)
        admission = Admission(self._gate, Quotas(self._config), self.metrics)
        interceptor = CallInterceptor(admission, self._config.default_timeout_s, self._identify())
        guards = [] if self._tokens is None else [self._guard(self._tokens, interceptor)]
        server = grpc.aio.server(interceptors=guards, options=_options(self._config))
        capabilities = describe_capabilities(self._config).SerializeToString()
        stores = local_stores(self._config, self.metrics)
        service, tensors = (
            DifferentiationService(self._config, self.pool, stores, capabilities),
            TensorService(self._config, stores.tensors),
        )
        methods = {rpc: interceptor.wrap(rpc, handler) for rpc, handler in (service.handlers() | tensors.handlers()).items()}
        methods |= {rpc: interceptor.wrap_upload(rpc, handler) for rpc, handler in tensors.upload_handlers().items()}
        methods |= {rpc: interceptor.wrap_stream(rpc, handler) for rpc, handler in service.stream_handlers().items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        if self._config.reflection:
            reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            if self._certificates is None:
                self._port = server.add_insecure_port(self.address)
            else:
                self._port = server.add_secure_port(self.address, self._certificates.credentials())
        except RuntimeError as error:
            raise _cannot_listen("listen", self._config.listen, error) from error
        await server.start()
        return server

    def _identify(self) -> Callable[[Context], str]:
        """Return what tells who calls. With tokens and certificates, clients need both, and the token tells."""
        if self._tokens is not None:
            return token_identity
        return certificate_identity if self._config.tls_client_ca_file else no_identity

    def _guard(self, tokens: TokenFile, interceptor: CallInterceptor) -> Guard:
        return Guard(tokens, interceptor, is_health_open=not self._config.health_needs_token)

    async def _start_health(self) -> grpc.aio.Server:
        """Serve health alone, in plaintext, on an address of its own."""
        listen = self._config.health_listen
        _check_free("health_listen", listen)
        server = grpc.aio.server(options=_options(self._config))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            server.add_insecure_port(listen)
        except RuntimeError as error:
            raise _cannot_listen("health_listen", listen, error) from error
        await server.start()
        return server

    async def _stop(self, server: grpc.aio.Server) -> None:
        """Refuse new calls, give those that run the grace time, then a moment to send what they have."""
        self._gate.close()
        await self._health.enter_graceful_shutdown()
        all_finished = await self._gate.drain(self._config.grace_s)
        _LOGGER.info("drained all_finished=%s", all_finished)
        await server.stop(_LAST_WORDS_S if all_finished else None)


def make_metrics(listen: str) -> Metrics:
    """Return the metrics served on HOST:PORT, or none for an empty text.

    Raises:
        ConfigError: they cannot be served.
    """
    if not listen:
        return NoMetrics()
    try:
        return PrometheusMetrics(*split_address("metrics_listen", listen))
    except ImportError as error:
        text = f'metrics_listen: needed its package, got no {error.name}; pip install "gradwire[server]", or leave it empty'
        raise ConfigError(text) from error
    except OSError as error:
        raise _cannot_listen("metrics_listen", listen, error) from error


def _options(config: ServerConfig) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_concurrent_streams", config.max_connection_call_count),
        ("grpc.so_reuseport", 0),  # a port in use is an error
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_INTERVAL_MS),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _LEAST_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    )


def _warn_of_risks(config: ServerConfig) -> None:
    """Log what a configuration lets strangers do."""
    if is_loopback(split_address("listen", config.listen)[0]):
        return
    if not (config.token_file or config.tls_client_ca_file):
        _LOGGER.warning("open to all who reach %s: neither tokens nor certificates are asked for", config.listen)
    if not config.tls_cert_file:
        _LOGGER.warning(
            "plaintext on %s: all between here and the callers can read and alter what is sent, tokens too", config.listen
        )


def _check_free(name: str, listen: str) -> None:
    """Check that an address can be served on, for gRPC does not say why it cannot."""
    host, port = split_address(name, listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise _cannot_listen(name, listen, error) from error


def _cannot_listen(name: str, address: str, error: Exception) -> ConfigError:
    why = getattr(error, "strerror", None) or str(error)
    return ConfigError(f"{name}: needed an address that is free, got {address}: {why}; choose another, or port 0 for any free one")
