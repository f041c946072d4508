"""Folders that keep what is found again, within a bound of bytes. Nothing else may live here.

Several processes may use a folder at once: any file may be gone a moment later.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

SHARE_LEFT = 0.8
"""When files have to leave, so many of the bytes allowed are left."""


def note_use(path: Path) -> None:
    """Have a file count as used now."""
    with contextlib.suppress(OSError):  # it is gone, or another user's
        os.utime(path)


def make_room(folders: Sequence[Path], most_bytes: int, prefixes: tuple[str, ...] = ("",)) -> None:
    """Let those files leave that were used longest ago, where all take too many bytes.

    Files whose names are the same up to the first dot are one, used when the last of them was.

    Args:
        folders: where they are.
        most_bytes: how many bytes they may take.
        prefixes: how the names of those begin that may leave.
    """
    groups: dict[str, tuple[int, int, list[Path]]] = {}
    for entry in _scan(folders):
        if entry.name.startswith(prefixes):
            with contextlib.suppress(FileNotFoundError):  # another process let it leave
                found = entry.stat()
                used, size, paths = groups.get(name := entry.name.partition(".")[0], (0, 0, []))
                groups[name] = (max(used, found.st_mtime_ns), size + found.st_size, [*paths, Path(entry.path)])
    total = sum(size for _, size, _ in groups.values())
    if total <= most_bytes:
        return
    for _, size, paths in sorted(groups.values(), key=lambda group: group[0]):
        for path in paths:
            path.unlink(missing_ok=True)
        total -= size
        if total <= SHARE_LEFT * most_bytes:
            return


def _scan(folders: Sequence[Path]) -> Iterator[os.DirEntry[str]]:
    """Yield the files of folders, as far as these exist."""
    for folder in folders:
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            yield from (entry for entry in entries if entry.is_file(follow_symlinks=False))
