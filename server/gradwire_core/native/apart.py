"""Compiling in a process of its own, so that the one that needs the code is not held up. Nothing else may live here."""

from __future__ import annotations

import subprocess
import sys

_LAST_S = 300.0
_TOLD_CHARS = 2000


def compile_apart(module: str, *arguments: str) -> None:
    """Have a module compile what its arguments name, in a process of its own.

    Raises:
        RuntimeError: it could not, for it lacked memory or room, say, or took five minutes; the end of what it said is told.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(  # noqa: S603  # this Python, on files named by digests
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_LAST_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{module}: needed code within {_LAST_S:.0f} s, got none") from None
    if done.returncode:
        raise RuntimeError(f"{module}: needed code, got exit code {done.returncode}: {done.stderr.strip()[-_TOLD_CHARS:]}")
