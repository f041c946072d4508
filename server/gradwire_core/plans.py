"""A folder of what was derived: another process finds there what took this one long, by a key of all that decides it.

Only this user may write to the folder, and what it holds is data, never code: a program is planned and compiled as one that was
just derived. A file that is damaged, or that another version wrote, counts as absent. Where the files take too many bytes, those
that were used longest ago leave. Several processes may use a folder at once: files appear whole, and never change.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import stat
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from gradwire_core.folders import SHARE_LEFT, make_room, note_use

MAGIC = b"gradwire-plan-1\n"
SUFFIX = ".plan"
DIGEST_BYTES = 32
_OTHERS_CAN_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LOGGER = logging.getLogger(__name__)


@functools.cache
def open_plans(folder: str, most_bytes: int) -> Plans | None:
    """Return the plans of a folder; None for an empty text or no bytes, and where it cannot be used, which is told in the log."""
    if not folder or most_bytes <= 0:
        return None
    try:
        return Plans(Path(folder) / "plans", most_bytes)
    except OSError as error:
        _LOGGER.warning("plans are not kept: %s", error)
        return None


class Plans:
    """What is kept in a folder, by key. Threads and processes may share it.

    Args:
        folder: the folder, made where there is none.
        most_bytes: how many bytes its files may take.

    Raises:
        OSError: it cannot be made or written to.
        PermissionError: others may write to it.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.getuid() or found.st_mode & _OTHERS_CAN_WRITE:
            raise PermissionError(f"{folder}: needed a folder that this user alone may write to, got one that others may")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder}: needed a folder that can be written to, got one that cannot")
        self._folder = folder
        self._most_bytes = most_bytes
        self._is_told = False

    def read(self, key: Sequence[str]) -> bytes | None:
        """Return what is kept under a key; None where nothing is, or not what was written."""
        path = self._path(key)
        try:
            whole = path.read_bytes()
            start = len(MAGIC) + DIGEST_BYTES
            content = whole[start:]
            if whole[: len(MAGIC)] != MAGIC or hashlib.sha256(content).digest() != whole[len(MAGIC) : start]:
                _LOGGER.warning("a plan was damaged, and is made anew: %s", path.name)
                self.drop(key)
                return None
            note_use(path)
        except OSError:
            return None
        return content

    def write(self, key: Sequence[str], content: bytes) -> None:
        """Keep something under a key, unless it is too large; where that fails it is told in the log, once."""
        if len(content) > self._most_bytes * SHARE_LEFT:
            return
        path = self._path(key)
        draft = path.with_suffix(f".{os.getpid()}-{id(content)}")
        try:
            draft.write_bytes(b"".join([MAGIC, hashlib.sha256(content).digest(), content]))
            draft.replace(path)
            make_room(self._folder, self._most_bytes)
        except OSError as error:
            draft.unlink(missing_ok=True)
            if not self._is_told:
                self._is_told = True
                _LOGGER.warning("a plan was not kept: %s", error)

    def drop(self, key: Sequence[str]) -> None:
        """Keep nothing under a key."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: Sequence[str]) -> Path:
        digest = hashlib.sha256(_versions())
        for part in key:
            digest.update(b"\0" + part.encode())
        return self._folder / f"{digest.hexdigest()}{SUFFIX}"


@functools.cache
def _versions() -> bytes:
    """Return what decides, besides a key, what is derived: this code, and the libraries that compute constants and orders."""
    root = Path(__file__).parent
    files = sorted(root.rglob("*.py"))
    code = [f"{path.relative_to(root)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    libraries = [np.__version__, version("scipy"), version("opt_einsum"), sys.version, platform.machine()]
    return "\n".join([*libraries, *code]).encode()
