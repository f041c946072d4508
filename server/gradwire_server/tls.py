"""TLS of the port: certificate, key and the authorities of clients, from files that are read again when they change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.tokens import read_stamp

_LOGGER = logging.getLogger(__name__)


class Certificates:
    """What the server shows to clients, and by what it knows theirs.

    The files are looked at whenever a client connects. New ones hold from then on; connections that are open stay as they are.

    Args:
        config: the settings `tls_...`.

    Raises:
        ConfigError: a file cannot be read, or certificate and key are not a pair.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._paths = [path for path in (config.tls_cert_file, config.tls_key_file, config.tls_client_ca_file) if path]
        self._stamp = read_stamp("tls", *self._paths)
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a port; with an authority of clients, those without a certificate of it are not let in."""
        must_show = bool(self._config.tls_client_ca_file)
        return grpc.dynamic_ssl_server_credentials(self._first, self._look, must_show)  # type: ignore[arg-type]  # None: as before

    def _look(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificates if they changed, else None; called by threads of gRPC."""
        try:
            stamp = read_stamp("tls", *self._paths)
            if stamp == self._stamp:
                return None
            self._stamp = stamp
            found = self._read()
        except ConfigError as error:
            _LOGGER.error("certificates kept as they were: %s", error)  # noqa: TRY400  # a trace says no more
            return None
        _LOGGER.info("certificates read again")
        return found

    def _read(self) -> grpc.ServerCertificateConfiguration:
        config = self._config
        _check_pair(config.tls_cert_file, config.tls_key_file)
        pair = _read_file("tls_key_file", config.tls_key_file), _read_file("tls_cert_file", config.tls_cert_file)
        authority = None
        if config.tls_client_ca_file:
            authority = _read_file("tls_client_ca_file", config.tls_client_ca_file)
            _check_authority(config.tls_client_ca_file, authority)
        return grpc.ssl_server_certificate_configuration([pair], authority)


def _check_pair(cert_file: str, key_file: str) -> None:
    """Check that a certificate and a key are a pair, which gRPC would only tell by refusing every client."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file, password="")  # so that nobody is asked for one
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        text = "a certificate and its key, unencrypted, as PEM"
        raise ConfigError(f"tls_cert_file: needed {text}, got {cert_file} and {key_file}: {why}; correct them") from None


def _check_authority(path: str, text: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"tls_client_ca_file: needed certificates as PEM, got others in {path}; correct it") from None


def _read_file(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: needed a file that can be read, got {path}: {error.strerror}; correct it") from None
