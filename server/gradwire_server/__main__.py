"""`python -m gradwire_server`, the same as `gradwire serve`: read the settings, serve until told to stop, or probe."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gradwire_core.allocator import keep_freed_memory
from gradwire_server.config import ConfigError, ServerConfig, forbid_fork_handlers, parse_arguments
from gradwire_server.lean import staying_lean
from gradwire_server.logs import configure_logging
from gradwire_server.loops import leaving_alone, make_runner
from gradwire_server.memory import allow_descriptors

if TYPE_CHECKING:
    from gradwire_server.keeper import Keeper
    from gradwire_server.server import Server

_LOGGER = logging.getLogger("gradwire_server")
_PROBE_TIMEOUT_S = 5.0
_BAD_CONFIG = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Serve derivatives over gRPC; return 0, 1 for a probe that failed, 2 if the server cannot start as configured."""
    try:
        config, address = parse_arguments(sys.argv[1:] if argv is None else argv)
        if address:
            return probe(address)
        configure_logging(config.log_level, config.log_format)
        keep_freed_memory(in_few_arenas=True)
        with _cache_folder(config) as folder, make_runner() as runner:
            runner.run(serve(dataclasses.replace(config, cache_folder=folder)))
    except ConfigError as error:
        print(f"gradwire serve: {error}", file=sys.stderr)
        return _BAD_CONFIG
    except SystemExit as stop:  # after --help
        return int(stop.code or 0)
    return 0


@contextlib.contextmanager
def _cache_folder(config: ServerConfig) -> Iterator[str]:
    """Yield the folder of code, derived programs and calibration: the configured one, or a temporary one; or none."""
    with contextlib.ExitStack() as stack:
        folder = config.cache_folder
        if not folder:
            with contextlib.suppress(OSError):
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gradwire-", ignore_cleanup_errors=True))
        yield folder


async def serve(config: ServerConfig) -> None:
    """Serve until SIGINT or SIGTERM, then drain.

    Raises:
        ConfigError: the server cannot start as configured.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    _LOGGER.info("starting %s", config)
    allow_descriptors()
    async with _make_server(config) as server, staying_lean():
        with leaving_alone():
            _announce(server.address)
            await stopping.wait()
        _LOGGER.info("stopping grace_s=%s", config.grace_s)


def _announce(address: str) -> None:
    """Tell on stdout where the server listens.

    Raises:
        ConfigError: stdout takes nothing.
    """
    try:
        print(f"listening on {address}", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or what is still to be written fails again at exit
        text = f"output: needed a place to tell the address, got {error.strerror}; make room, or write elsewhere"
        raise ConfigError(text) from error


def probe(address: str) -> int:
    """Ask a server whether it serves; return 0 if so, else 1."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            status = stub.Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_TIMEOUT_S).status
        except grpc.RpcError as error:
            print(f"gradwire serve: probe: needed a server at {address}, got {error.code().name}", file=sys.stderr)
            return 1
    return 0 if status == health_pb2.HealthCheckResponse.SERVING else 1


def _make_server(config: ServerConfig) -> Server | Keeper:
    forbid_fork_handlers()
    try:
        if config.front_ends > 1:
            from gradwire_server.keeper import Keeper

            return Keeper(config)
        from gradwire_server.server import Server
    except ImportError as error:
        raise ConfigError(f'server: needed its own packages, got no {error.name}; pip install "gradwire[server]"') from error
    return Server(config)


if __name__ == "__main__":
    sys.exit(main())
