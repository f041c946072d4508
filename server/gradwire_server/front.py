"""The side of a server that speaks gRPC: assembles, serves, drains.

    gRPC (one event loop) --> Guard --> CallInterceptor --> DifferentiationService --> a pool of workers

Workers are started before any gRPC object exists, since a process that uses gRPC must not be forked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from gradwire_server.addresses import cannot_listen, join_address
from gradwire_server.admission import Admission, Gate
from gradwire_server.capabilities import describe_capabilities
from gradwire_server.config import ConfigError, ServerConfig, split_address
from gradwire_server.guard import Guard, certificate_identity, no_identity, token_identity
from gradwire_server.interceptors import CallInterceptor, Context, Methods
from gradwire_server.metrics import Metrics
from gradwire_server.quotas import Quotas
from gradwire_server.service import SERVICE, DifferentiationService
from gradwire_server.stores import Stores
from gradwire_server.tasks import Pool
from gradwire_server.tensors import TensorService
from gradwire_server.tls import Certificates
from gradwire_server.tokens import TokenFile
from gradwire_server.tracing import make_tracer

_LOGGER = logging.getLogger(__name__)
_LAST_WORDS_S = 1.0
_LEAST_PING_INTERVAL_MS = 10_000
_READ_AHEAD_BYTES = 2 * 2**20
"""So much of a call gRPC reads before it is asked for; more takes memory and no less time."""


class FrontEnd:
    """Serves gRPC on one event loop: `async with FrontEnd(...)` serves until the block ends, then drains.

    Args:
        config: all settings.
        pool: where tasks run.
        stores: what callers store.
        metrics: told of every request.
        shares_port: whether other processes serve on the same addresses.

    Raises:
        ConfigError: a package is missing, or a file that the configuration names cannot be used.
    """

    def __init__(self, config: ServerConfig, pool: Pool, stores: Stores, metrics: Metrics, *, shares_port: bool) -> None:
        self._config = config
        self._pool = pool
        self._stores = stores
        self._metrics = metrics
        self._shares_port = shares_port
        self._host, self._port = split_address("listen", config.listen)
        self._gate = Gate()
        self._health = health.aio.HealthServicer()
        self._stack = AsyncExitStack()
        self._certificates = Certificates(config) if config.tls_cert_file else None
        self._tokens = TokenFile(config.token_file) if config.token_file else None
        self._tracer = make_tracer(SERVICE) if config.traces else None

    @property
    def address(self) -> str:
        """Where it serves, HOST:PORT, with the port that was taken."""
        return join_address(self._host, self._port)

    async def __aenter__(self) -> Self:
        """Start gRPC.

        Raises:
            ConfigError: an address cannot be served on.
        """
        async with AsyncExitStack() as stack:
            if self._tracer is not None:
                stack.push_async_callback(self._tracer.close)
            if self._config.health_listen:
                stack.push_async_callback((await self._start_health()).stop, None)
            stack.push_async_callback(self._stop, await self._start())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Drain, then stop gRPC."""
        await self._stack.aclose()

    async def _start(self) -> grpc.aio.Server:
        admission = Admission(self._gate, Quotas(self._config), self._metrics, self._tracer)
        interceptor = CallInterceptor(
            admission, self._config.default_timeout_s, self._identify(), self._config.max_stream_joined_count, self._tracer
        )
        guards = [] if self._tokens is None else [self._guard(self._tokens, interceptor)]
        server = grpc.aio.server(interceptors=guards, options=self._options())
        capabilities = describe_capabilities(self._config).SerializeToString()
        service = DifferentiationService(self._config, self._pool, self._stores, capabilities)
        self._metrics.watch(
            {
                "gradwire_calls_running": lambda: self._gate.running_count,
                "gradwire_sessions": lambda: self._gate.listener_count,
                "gradwire_inline_evaluations": lambda: service.inline_count,
                "gradwire_idle_segment_bytes": lambda: service.idle.nbytes,
            }
        )
        tensors = TensorService(self._config, self._stores.tensors)
        quick = service.quick_handlers()
        plain = service.handlers() | tensors.handlers()
        methods = {rpc: interceptor.wrap(rpc, handler, quick.get(rpc)) for rpc, handler in plain.items()}
        methods |= {rpc: interceptor.wrap_upload(rpc, handler) for rpc, handler in tensors.upload_handlers().items()}
        methods |= {rpc: interceptor.wrap_stream(rpc, handler) for rpc, handler in service.stream_handlers().items()}
        Methods(SERVICE, methods).add_to(server, service.prompt_rpcs)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        if self._config.reflection:
            reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        if self._config.channelz:
            _add_channelz(server)
        try:
            if self._certificates is None:
                self._port = server.add_insecure_port(self.address)
            else:
                self._port = server.add_secure_port(self.address, self._certificates.credentials())
        except RuntimeError as error:
            raise cannot_listen("listen", self._config.listen, error) from error
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
        server = grpc.aio.server(options=self._options())
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            server.add_insecure_port(listen)
        except RuntimeError as error:
            raise cannot_listen("health_listen", listen, error) from error
        await server.start()
        return server

    async def _stop(self, server: grpc.aio.Server) -> None:
        """Refuse new calls, give those that run the grace time, then a moment to send what they have."""
        self._gate.close()
        await self._health.enter_graceful_shutdown()
        all_finished = await self._gate.drain(self._config.grace_s)
        _LOGGER.info("drained all_finished=%s", all_finished)
        await server.stop(_LAST_WORDS_S if all_finished else None)

    def _options(self) -> Sequence[tuple[str, int]]:
        config = self._config
        return (
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            ("grpc.max_concurrent_streams", config.max_connection_call_count),
            ("grpc.so_reuseport", int(self._shares_port)),  # else a port in use is an error
            ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_INTERVAL_MS),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", _LEAST_PING_INTERVAL_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.lookahead_bytes", _READ_AHEAD_BYTES),
            ("grpc.http2.bdp_probe", 0),  # else it grows to what the network takes, which on loopback has no end
        )


def _add_channelz(server: grpc.aio.Server) -> None:
    """Serve channelz: what gRPC knows of its servers, connections and sockets.

    Raises:
        ConfigError: its package is not installed.
    """
    try:
        from grpc_channelz.v1 import channelz  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(f'channelz: needed its package, got no {error.name}; pip install "gradwire[channelz]"') from error
    channelz.add_channelz_servicer(server)
