"""From LLVM's language to machine code, by llvmlite; kept in a folder, where there is one.

`python -m gradwire_core.native.machine TEXT CODE` compiles a text of that folder, writes its code there, and ends: a compiler that
runs out of memory ends nothing else, and what it maps and allocates does not stay. Code belongs to a kind of processor, and the
name of its file says so.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from gradwire_core.native import codes
from gradwire_core.native.apart import compile_apart
from gradwire_core.native.assembly import ENTRY
from gradwire_core.processor import processor

FILES = "numbers_"
_LEVEL = 2


class Code:
    """Machine code in memory, which is freed with it.

    Args:
        loaded: the address of its function, and what holds the code.

    Attributes:
        run: calls it with an address; other threads run meanwhile.
        run_briefly: the same, but other threads wait.
    """

    def __init__(self, loaded: codes.Loaded) -> None:
        address, self._memory = loaded
        self.run: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
        self.run_briefly: Callable[[int], None] = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(address)


def compile_here(text: str) -> Code:
    """Return a text compiled by this process."""
    return Code(codes.place(compile_text(text), ENTRY))


def compile_in(folder: Path) -> Callable[[str], Code]:
    """Return what compiles texts in processes of their own, and keeps the code in a folder; another call finds it there.

    The folder must exist and belong to this user alone, for what is in it is run.
    """

    def compile_or_find(text: str) -> Code:
        path = folder / f"{FILES}{_digest(text)}{codes.suffix()}"
        found = codes.find(path, ENTRY)
        if found is None:
            _build(path, text)
            found = codes.find(path, ENTRY)
        if found is None:
            raise RuntimeError(f"{path}: needed what was written just now, got something else")
        return Code(found)

    return compile_or_find


def compile_text(text: str) -> bytes:
    """Return the object code of a text. LLVM rearranges nothing in it: operations that are the same were one before."""
    import llvmlite.binding as llvm

    target = codes.target(_LEVEL)
    module = llvm.parse_assembly(text)
    module.verify()
    found: bytes = target.emit_object(module)
    return found


def _build(path: Path, text: str) -> None:
    """Have a process of its own compile a text."""
    source = path.with_suffix(f".{os.getpid()}.ll")
    source.write_text(text, encoding="ascii")
    try:
        compile_apart("gradwire_core.native.machine", str(source), str(path))
    finally:
        source.unlink(missing_ok=True)


@functools.cache
def _deciding() -> bytes:
    """Return what decides, besides a text, what code it becomes."""
    made_by = [Path(__file__).with_name(name).read_bytes() for name in ("codes.py", "images.py", "machine.py")]
    return b"\0".join([version("llvmlite").encode(), processor().encode(), *made_by])


def _digest(text: str) -> str:
    return hashlib.sha256(b"\0".join([_deciding(), text.encode()])).hexdigest()


def main(argv: Sequence[str]) -> int:
    """Compile a text of a folder, which is then gone, and write its code; return the exit code."""
    os.nice(10)
    source, path = map(Path, argv)
    text = source.read_text(encoding="ascii")
    source.unlink()  # here, as who asked for the code may end before it is there
    codes.keep(path, compile_text(text), ENTRY)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
