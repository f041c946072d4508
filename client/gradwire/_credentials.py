"""How a client knows its server and shows who it is: TLS, certificates, tokens. Nothing else may live here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from gradwire._config import ClientConfig
from gradwire_core.errors import ArgumentError

Metadata = tuple[tuple[str, str], ...]


def open_channel(kind: Any, target: str, config: ClientConfig, options: Sequence[tuple[str, Any]]) -> Any:
    """Return a channel to a server, over TLS if the settings say so.

    Args:
        kind: the module that makes channels, `grpc` or `grpc.aio`.
        target: the address of the server.
        config: whether to use TLS, and the files.
        options: of the channel.

    Raises:
        ArgumentError: a file cannot be read.
    """
    if not config.uses_tls:
        return kind.insecure_channel(target, options)
    parts = [_read(name, getattr(config, name)) for name in ("ca_file", "key_file", "cert_file")]
    return kind.secure_channel(target, grpc.ssl_channel_credentials(*parts), options)


def call_metadata(target: str, config: ClientConfig) -> Metadata:
    """Return what is sent along with every call: the token, if there is one.

    Raises:
        ArgumentError: it would cross a network in plaintext, and nobody said that it may.
    """
    if not config.token:
        return ()
    if not (config.uses_tls or config.insecure_token or all(map(_is_local, _hosts(target)))):
        raise ArgumentError(
            f"{target}: needed TLS for the token, which all on the way can read in plaintext, got none; "
            "pass tls=True or ca_file, or insecure_token=True if the network is trusted",
            target=target,
        )
    return (("authorization", f"Bearer {config.token}"),)


def _hosts(target: str) -> Iterator[str]:
    """Yield the hosts of a target as gRPC reads it, such as `host:1`, `dns:///host:1`, `ipv4:127.0.0.1:1,127.0.0.2:1`."""
    scheme, colon, rest = target.partition(":")
    if not (colon and scheme in _SCHEMES):
        scheme, rest = "", target
    if scheme in _UNIX:
        return
    if scheme and rest.startswith("//"):  # a name server may stand between the slashes
        rest = rest.removeprefix("//").partition("/")[2]
    for address in rest.split(","):
        bracketed, _, _ = address.removeprefix("[").partition("]")
        yield bracketed if address.startswith("[") else address.rpartition(":")[0] or address


_UNIX = ("unix", "unix-abstract")
_SCHEMES = (*_UNIX, "dns", "ipv4", "ipv6")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(name: str, path: Any) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        text = f"ClientConfig.{name}: needed a file that can be read, got {path}: {error.strerror}; correct the setting"
        raise ArgumentError(text, field=name, given=path) from None
