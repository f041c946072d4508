"""From the source of loops to machine code, by Numba; kept in a folder, where there is one.

`python -m gradwire_core.native.compiler FILE...` compiles sources of that folder and ends, so that the process that needs it is not
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradwire_core.folders import note_use
from gradwire_core.native.pages import give_back_code
from gradwire_core.native.templates import FUNCTIONS

Run = Callable[..., int]

FILES = "loops_"
_LAST_BUILD_S = 300.0
_OTHERS_CAN_WRITE = stat.S_IWGRP | stat.S_IWOTH


def compile_source(source: str, signature: str) -> Run:
    """Return the function of a source, compiled here and now; takes a second or more."""
    scope = dict(_names())
    exec(compile(source, "<loops>", "exec"), scope)  # noqa: S102  # our own templates and numbers
    return _jit(scope["run"], signature, is_kept=False)


def make_call(source: str, bound: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the function `call` of a source that Python runs, in which names are bound."""
    scope = dict(bound)
    exec(compile(source, "<loops>", "exec"), scope)  # noqa: S102  # our own templates and integers
    made: Callable[..., Any] = scope["call"]
    return made


class Folder:
    """Compiles sources in processes of their own, and keeps the code in a folder; another call finds it there.

    The folder must belong to this user alone, for what is in it is run.

    Args:
        path: the folder.

    Raises:
        OSError: it cannot be made or written to.
        PermissionError: others may write to it.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        if found.st_uid != os.getuid() or found.st_mode & _OTHERS_CAN_WRITE:
            raise PermissionError(f"{path}: needed a folder that this user alone may write to, got one that others may")
        self._path = path

    def __call__(self, source: str, signature: str) -> Run:
        """Return the function of a source, compiled unless its code is found."""
        path = self._write(source, signature)
        if not self._is_built(path) and not _build([path]):
            return compile_source(source, signature)
        return load(path)

    def prepare(self, sources: Sequence[tuple[str, str]]) -> None:
        """Compile sources with their signatures, all in one process, unless their code is found."""
        paths = [self._write(*source) for source in sources]
        missing = [path for path in dict.fromkeys(paths) if not self._is_built(path)]
        if missing:
            _build(missing)

    def _write(self, source: str, signature: str) -> Path:
        path = self._path / f"{FILES}{_digest(source, signature)}.py"
        if not path.exists():
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_text(f"SIGNATURE = {signature!r}\n\n\n{source}", encoding="utf-8")
            draft.replace(path)
        return path

    def _is_built(self, path: Path) -> bool:
        index = next(self._path.glob(f"__pycache__/{path.stem}.*.nbi"), None)
        if index is not None:
            note_use(index)  # not the source, at whose time Numba looks
        return index is not None


def _build(paths: Sequence[Path]) -> bool:
    """Have a process of its own compile sources; tell whether it could, for it may lack memory, say."""
    command = [sys.executable, "-m", "gradwire_core.native.compiler", *map(str, paths)]
    done = subprocess.run(  # noqa: S603  # this Python, on files named by digests
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
    numba = _numba()
    from gradwire_core.native.functions import OPTIONS

    letters = {"d": numba.float64, "b": numba.boolean, "F": numba.float64[::1], "C": numba.boolean[::1]}
    letters |= {
        "D": numba.types.Array(numba.float64, 1, "C", readonly=True),
        "B": numba.types.Array(numba.boolean, 1, "C", readonly=True),
    }
    types = [letters[letter] for letter in signature]
    made: Run = numba.njit(numba.int64(*types), nogil=True, cache=is_kept, **OPTIONS)(run)
    return made


@functools.cache
def _numba() -> Any:
    """Return Numba, whose import maps half of LLVM's code: that is given back before other parts of it are run."""
    import numba

    give_back_code()
    return numba


@functools.cache
def _names() -> dict[str, Any]:
    """Return what a source refers to."""
    from gradwire_core.native import functions

    names = {name: getattr(functions, name) for name in FUNCTIONS}
    numbers = {"inf": np.inf, "nan": np.nan, "largest_angle": functions.LARGEST_ANGLE}
    return {
        **names,
        **numbers,
        "U": np.uint64,
        "empty": np.empty,
        "zeros": np.zeros,
        "sqrt": np.sqrt,
        "total": functions.total,
        "add_finite": functions.add_finite,
    }


@functools.cache
def _version() -> bytes:
    """Return what decides, besides a source, what code it becomes."""
    numba = _numba()
    functions = Path(__file__).with_name("functions.py").read_bytes()
    return b"\0".join([numba.__version__.encode(), np.__version__.encode(), sys.version.encode(), functions])


def _digest(source: str, signature: str) -> str:
    return hashlib.sha256(b"\0".join([_version(), signature.encode(), source.encode()])).hexdigest()


def main(argv: Sequence[str]) -> int:
    """Compile sources of a folder; return the exit code."""
    os.nice(10)
    for path in argv:
        load(Path(path))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
