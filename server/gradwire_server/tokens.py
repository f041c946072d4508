"""Bearer tokens from a file, read again when it changes. No token leaves this module, in a log line or an error either.

    file  ::= an entry a line; empty lines and lines that begin with # are skipped
    entry ::= identity ":" token | identity ":sha256:" the SHA-256 of a token, in hexadecimal

An identity may have several entries, so that a new token can be handed out before the old one is taken away.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from gradwire_core.errors import UnauthenticatedError
from gradwire_server.config import ConfigError

LEAST_LENGTH = 16
"""Characters of the shortest token that is taken: 64 bits in hexadecimal."""

LOOK_INTERVAL_S = 1.0
"""Seconds after which a changed file is noticed, at the next call."""

_LOGGER = logging.getLogger(__name__)
_SCHEME = "bearer "
_HASHED = "sha256:"
_is_identity = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,63}").fullmatch
_is_token = re.compile(rf"[!-~]{{{LEAST_LENGTH},4096}}").fullmatch
_is_digest = re.compile(r"[0-9a-fA-F]{64}").fullmatch

Stamp: TypeAlias = "tuple[tuple[int, int, int], ...]"
"""What changes whenever one of several files does."""


class TokenFile:
    """The identities of a file of tokens.

    Tokens are found by a hash under a key that is drawn at start and never shown: how long that takes tells nothing about
    the tokens of the file, and does not grow with their number.

    Args:
        path: the file.
        clock: seconds that only grow.

    Raises:
        ConfigError: the file cannot be read, or breaks its form.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._stamp = read_stamp("token_file", path)
        self._entries = self._read()
        self._looked_s = clock()

    def identify(self, authorization: str) -> str:
        """Return the identity of the token in an `authorization: Bearer TOKEN` header.

        Raises:
            UnauthenticatedError: it is no such header, or the token is nobody's.
        """
        if self._clock() - self._looked_s >= LOOK_INTERVAL_S:
            self._look()
        if not authorization:
            raise UnauthenticatedError(
                "authorization: needed a bearer token, got none; send the metadata `authorization: Bearer TOKEN`"
            )
        token = authorization[len(_SCHEME) :] if authorization[: len(_SCHEME)].lower() == _SCHEME else ""
        given = hashlib.sha256(token.encode()).digest()
        digest, identity = self._entries.get(self._place(given), (bytes(len(given)), ""))
        if not hmac.compare_digest(digest, given):
            raise UnauthenticatedError("authorization: needed a valid bearer token, got one that is none; ask the operator for one")
        return identity

    def _place(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._key, digest_size=32).digest()

    def _look(self) -> None:
        """Read the file again if it changed; one that cannot be used leaves everything as it was, until it changes again."""
        self._looked_s = self._clock()
        try:
            stamp = read_stamp("token_file", self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._entries = self._read()
        except ConfigError as error:
            _LOGGER.error("tokens kept as they were: %s", error)  # noqa: TRY400  # a trace says no more
        else:
            _LOGGER.info("tokens read again count=%d", len(self._entries))

    def _read(self) -> dict[bytes, tuple[bytes, str]]:
        entries: dict[bytes, tuple[bytes, str]] = {}
        for number, line in enumerate(_read_text(self._path).splitlines(), 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            identity, digest = _parse_entry(f"token_file: line {number}", text)
            _, holder = entries.setdefault(self._place(digest), (digest, identity))
            if holder != identity:
                raise ConfigError(f"token_file: line {number}: needed a token of its own, got that of {holder}; make another")
        if not entries:
            raise ConfigError(f"token_file: needed at least one line IDENTITY:TOKEN in {self._path}, got none; add one")
        return entries


def read_stamp(name: str, *paths: str) -> Stamp:
    """Return what changes whenever one of the files of a setting does.

    Raises:
        ConfigError: one cannot be found.
    """
    try:
        found = [os.stat(path) for path in paths]  # noqa: PTH116  # takes a third of the time
    except OSError as error:
        raise ConfigError(f"{name}: needed a file that can be read, got {error.filename}: {error.strerror}; correct it") from None
    return tuple((item.st_mtime_ns, item.st_size, item.st_ino) for item in found)


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"token_file: needed a file that can be read, got {path}: {error.strerror}; correct it") from None
    except UnicodeDecodeError:
        raise ConfigError(f"token_file: needed ASCII text, got something else in {path}; write it so") from None


def _parse_entry(where: str, text: str) -> tuple[str, bytes]:
    """Return the identity of an entry and the SHA-256 of its token. No error shows any of it: it may be a token."""
    identity, colon, token = text.partition(":")
    if not colon or not _is_identity(identity):
        raise ConfigError(
            f"{where}: needed IDENTITY:TOKEN, the identity of letters, digits and ._@/-, got something else; correct it"
        )
    if token.startswith(_HASHED):
        digest = token.removeprefix(_HASHED)
        if not _is_digest(digest):
            raise ConfigError(
                f"{where}: needed 64 hexadecimal digits after {_HASHED}, got something else; take them from sha256sum"
            )
        return identity, bytes.fromhex(digest)
    if not _is_token(token):
        raise ConfigError(
            f"{where}: needed a token of {LEAST_LENGTH} characters or more, no spaces, got another; make one: openssl rand -hex 32"
        )
    return identity, hashlib.sha256(token.encode()).digest()
