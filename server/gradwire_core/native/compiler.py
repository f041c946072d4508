"""From the source of loops to a function, kept in a folder, where there is one.

    a source --`objects`, in another process--> an object file --`images`--> an image in the folder --mapped--> a function

`python -m gradwire_core.native.compiler FILE...` compiles sources of that folder and ends, so that the process that needs them is
not held up: Numba is Python, and takes the interpreter's lock for seconds, and what it maps and allocates stays with a process. The
process that needs them finds the code in the folder, and needs neither Numba nor LLVM to run it.

Where the system runs no images, the folder keeps object files, and LLVM loads them.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gradwire_core.native import codes, images, objects
from gradwire_core.native.apart import compile_apart
from gradwire_core.native.signatures import Run
from gradwire_core.processor import processor

FILES = "loops_"
_OTHERS_CAN_WRITE = stat.S_IWGRP | stat.S_IWOTH
_DECIDING = ("compiler.py", "codes.py", "functions.py", "images.py", "objects.py")


def compile_source(source: str, signature: str) -> Run:
    """Return the function of a source, compiled here and now; takes a second or more."""
    return images.function_at(*codes.place(objects.compile_object(source, signature), objects.ENTRY))


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
        """Return the function of a source, compiled unless its code is found.

        Raises:
            OSError: there is no room in the folder, say.
            RuntimeError: it could not be compiled.
        """
        path = self._code_of(source, signature)
        found = load(path)
        if found is None:
            self._build([(source, signature)])
            found = load(path)
        if found is None:
            raise RuntimeError(f"{path}: needed what was written just now, got something else")
        return found

    def prepare(self, sources: Sequence[tuple[str, str]]) -> None:
        """Compile sources with their signatures, all in one process, unless their code is found; it raises as a call."""
        missing = [item for item in dict.fromkeys(sources) if not self._code_of(*item).exists()]
        if missing:
            self._build(missing)

    def _code_of(self, source: str, signature: str) -> Path:
        return self._path / f"{FILES}{_digest(source, signature)}{codes.suffix()}"

    def _build(self, sources: Sequence[tuple[str, str]]) -> None:
        """Have a process of its own compile sources."""
        paths = [self._code_of(*item).with_suffix(f".{os.getpid()}.py") for item in sources]
        try:
            for path, (source, signature) in zip(paths, sources, strict=True):
                path.write_text(f"{signature}\n{source}", encoding="ascii")
            _build(paths)
        finally:
            for path in paths:
                path.unlink(missing_ok=True)


def _build(paths: Sequence[Path]) -> None:
    compile_apart("gradwire_core.native.compiler", *map(str, paths))


def build(path: Path) -> None:
    """Compile a source of a folder, and write its code beside it."""
    signature, _, source = path.read_text(encoding="ascii").partition("\n")
    stem = path.name.partition(".")[0]
    path.unlink()  # here, as who asked for the code may end before it is there
    codes.keep(path.with_name(stem + codes.suffix()), objects.compile_object(source, signature), objects.ENTRY)


def load(path: Path) -> Run | None:
    """Return the function of code in a folder, which counts as used now; None where there is none, or not all of it."""
    found = codes.find(path, objects.ENTRY)
    return None if found is None else images.function_at(*found)


@functools.cache
def _deciding() -> bytes:
    """Return what decides, besides a source, what code it becomes."""
    layout = f"{images.FIRST_ITEM} {images.FIRST_FIELD}"
    names = [version("numba"), version("llvmlite"), np.__version__, sys.version, layout, processor()]
    return b"\0".join([*map(str.encode, names), *[Path(__file__).with_name(name).read_bytes() for name in _DECIDING]])


def _digest(source: str, signature: str) -> str:
    return hashlib.sha256(b"\0".join([_deciding(), signature.encode(), source.encode()])).hexdigest()


def main(argv: Sequence[str]) -> int:
    """Compile sources of a folder; return the exit code."""
    os.nice(10)
    for path in argv:
        build(Path(path))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
