"""The addresses that a server listens on: checked, reserved, and judged. No gRPC, which does not say why it cannot listen."""

from __future__ import annotations

import contextlib
import logging
import socket

from gradwire_server.config import ConfigError, ServerConfig, is_loopback, split_address

_LOGGER = logging.getLogger(__name__)


def check_free(name: str, listen: str) -> None:
    """Check that an address can be served on.

    Raises:
        ConfigError: it cannot.
    """
    _bind(name, listen).close()


def reserve(name: str, listen: str) -> tuple[socket.socket, str]:
    """Return a socket that holds an address for processes that share it, and the address, with the port that was taken.

    Raises:
        ConfigError: it cannot be served on.
    """
    check_free(name, listen)
    holder = _bind(name, listen, shared=True)
    return holder, join_address(split_address(name, listen)[0], holder.getsockname()[1])


def _bind(name: str, listen: str, *, shared: bool = False) -> socket.socket:
    host, port = split_address(name, listen)
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            probe = stack.enter_context(socket.socket(family, kind, protocol))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
            probe.bind(address)
        except OSError as error:
            raise cannot_listen(name, listen, error) from error
        stack.pop_all()
    return probe


def cannot_listen(name: str, address: str, error: Exception) -> ConfigError:
    """Return the error of an address that cannot be served on."""
    why = getattr(error, "strerror", None) or str(error)
    return ConfigError(f"{name}: needed an address that is free, got {address}: {why}; choose another, or port 0 for any free one")


def join_address(host: str, port: int) -> str:
    """Return `HOST:PORT`, or `[IPV6]:PORT`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def warn_of_risks(config: ServerConfig) -> None:
    """Log what a configuration lets strangers do."""
    if is_loopback(split_address("listen", config.listen)[0]):
        return
    if not (config.token_file or config.tls_client_ca_file):
        _LOGGER.warning("open to all who reach %s: neither tokens nor certificates are asked for", config.listen)
    if not config.tls_cert_file:
        _LOGGER.warning(
            "plaintext on %s: all between here and the callers can read and alter what is sent, tokens too", config.listen
        )
