"""Folders that keep what is found again, within a bound of bytes. Nothing else may live here.

Several processes may use a folder at once: any file may be gone a moment later.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SHARE_LEFT = 0.8
"""When files have to leave, so many of the bytes allowed are left."""


def note_use(path: Path) -> None:
    """Have a file count as used now."""
    with contextlib.suppress(OSError):  # it is gone, or another user's
        os.utime(path)


def make_room(folder: Path, most_bytes: int, prefixes: tuple[str, ...] = ("",)) -> None:
    """Let those files leave that were used longest ago, where all take too many bytes; drafts that were left behind among them.

    Args:
        folder: where they are.
        most_bytes: how many bytes they may take.
        prefixes: how the names of those begin that may leave.
    """
    files: list[tuple[int, int, Path]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(prefixes) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):  # another process let it leave
                    found = entry.stat()
                    files.append((found.st_mtime_ns, found.st_size, Path(entry.path)))
    total = sum(size for _, size, _ in files)
    if total <= most_bytes:
        return
    for _, size, path in sorted(files, key=lambda file: file[0]):
        path.unlink(missing_ok=True)
        total -= size
        if total <= SHARE_LEFT * most_bytes:
            return
