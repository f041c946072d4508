"""From the source of loops to machine code, by Numba; kept in a folder, where there is one.

`python -m gradwire_core.native.compiler FILE` compiles a source of that folder and ends, so that the process that needs it is not
held up: Numba is Python, and takes the interpreter's lock for seconds. That process then finds the code beside the source.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradwire_core.native.loops import FUNCTIONS

Run = Callable[..., int]

_LAST_BUILD_S = 300.0
_OTHERS_CAN_WRITE = stat.S_IWGRP | stat.S_IWOTH


def compile_source(source: str, signature: str) -> Run:
    """Return the function of a source, compiled here and now; takes a second or more."""
    scope = dict(_names())
    exec(compile(source, "<loops>", "exec"), scope)  # noqa: S102  # our own templates and numbers
    return _jit(scope["run"], signature, is_kept=False)


def compile_in(folder: Path) -> Callable[[str, str], Run]:
    """Return what compiles sources in processes of their own, and keeps the code in a folder; another call finds it there.

    The folder must belong to this user alone, for what is in it is run.

    Raises:
        OSError: it cannot be made or written to.
        PermissionError: others may write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & _OTHERS_CAN_WRITE:
        raise PermissionError(f"{folder}: needed a folder that this user alone may write to, got one that others may")

    def compile_or_find(source: str, signature: str) -> Run:
        path = folder / f"loops_{_digest(source, signature)}.py"
        if not path.exists():
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_text(f"SIGNATURE = {signature!r}\n\n\n{source}", encoding="utf-8")
            draft.replace(path)
        is_built = next(folder.glob(f"__pycache__/{path.stem}.*.nbi"), None) is not None
        if not is_built and not _build(path):
            return compile_source(source, signature)
        return load(path)

    return compile_or_find


def _build(path: Path) -> bool:
    """Have a process of its own compile a source; tell whether it could, for it may lack memory, say."""
    command = [sys.executable, "-m", "gradwire_core.native.compiler", str(path)]
    done = subprocess.run(  # noqa: S603  # this Python, on a file named by a digest
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LAST_BUILD_S, check=False
    )
    return not done.returncode


def load(path: Path) -> Run:
    """Return the function of a source in a folder, compiled unless its code is found beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # code that is found refers to it by name
    spec.loader.exec_module(module)
    vars(module).update(_names())
    return _jit(module.run, module.SIGNATURE, is_kept=True)


def _jit(run: Any, signature: str, *, is_kept: bool) -> Run:
    import numba

    from gradwire_core.native.functions import OPTIONS

    letters = {"d": numba.float64, "b": numba.boolean, "D": numba.float64[::1], "B": numba.boolean[::1]}
    types = [letters[letter] for letter in signature]
    made: Run = numba.njit(numba.int64(*types), nogil=True, cache=is_kept, **OPTIONS)(run)
    return made


@functools.cache
def _names() -> dict[str, Any]:
    """Return what a source refers to."""
    from gradwire_core.native import functions

    names = {name: getattr(functions, name) for name in FUNCTIONS}
    others = {"empty": np.empty, "inf": np.inf, "sqrt": np.sqrt, "largest_angle": functions.LARGEST_ANGLE}
    return {**names, **others, "total": functions.total}


@functools.cache
def _version() -> bytes:
    """Return what decides, besides a source, what code it becomes."""
    import numba

    functions = Path(__file__).with_name("functions.py").read_bytes()
    return b"\0".join([numba.__version__.encode(), np.__version__.encode(), sys.version.encode(), functions])


def _digest(source: str, signature: str) -> str:
    return hashlib.sha256(b"\0".join([_version(), signature.encode(), source.encode()])).hexdigest()


def main(argv: Sequence[str]) -> int:
    """Compile a source of a folder; return the exit code."""
    os.nice(10)
    load(Path(argv[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
