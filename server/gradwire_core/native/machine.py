"""From LLVM's language to machine code, by llvmlite; kept in a folder, where there is one.

`python -m gradwire_core.native.machine TEXT CODE` compiles a text of that folder, writes its code there, and ends: a compiler that
runs out of memory ends nothing else. Code belongs to a kind of processor, and the name of its file says so.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gradwire_core.folders import note_use
from gradwire_core.native.assembly import ENTRY
from gradwire_core.native.instructions import LIBM, PREFIX

FILES = "numbers_"
LAST_BUILD_S = 120.0
_DIGEST_BYTES = hashlib.sha256().digest_size


class Code:
    """Machine code in memory, which is freed with it.

    Args:
        compiled: what `compile_text` returns.

    Attributes:
        run: calls it with an address; other threads run meanwhile.
        run_briefly: the same, but other threads wait.
    """

    def __init__(self, compiled: bytes) -> None:
        self._engine, address = load_object(compiled, ENTRY)
        self.run: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
        self.run_briefly: Callable[[int], None] = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(address)


def load_object(compiled: bytes, entry: str) -> tuple[Any, int]:
    """Return what holds the code of an object file in memory, and the address of its function."""
    llvm = _llvm()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    engine.add_object_file(llvm.ObjectFileRef.from_data(compiled))
    engine.finalize_object()
    return engine, engine.get_function_address(entry)


def compile_here(text: str) -> Code:
    """Return a text compiled by this process."""
    return Code(compile_text(text))


def compile_in(folder: Path) -> Callable[[str], Code]:
    """Return what compiles texts in processes of their own, and keeps the code in a folder; another call finds it there.

    The folder must exist and belong to this user alone, for what is in it is run.
    """

    def compile_or_find(text: str) -> Code:
        path = folder / f"{FILES}{_digest(text)}.o"
        note_use(path)
        compiled = read_code(path)
        if compiled is None:
            _build(path, text)
            compiled = read_code(path)
        if compiled is None:
            raise RuntimeError(f"{path}: needed what was written just now, got something else")
        return Code(compiled)

    return compile_or_find


def compile_text(text: str) -> bytes:
    """Return the object code of a text. LLVM rearranges nothing in it: operations that are the same were one before."""
    llvm = _llvm()
    module = llvm.parse_assembly(text)
    module.verify()
    found: bytes = _target().emit_object(module)
    return found


def _build(path: Path, text: str) -> None:
    """Have a process of its own compile a text."""
    source = path.with_suffix(f".{os.getpid()}.ll")
    source.write_text(text, encoding="ascii")
    try:
        command = [sys.executable, "-m", "gradwire_core.native.machine", str(source), str(path)]
        subprocess.run(  # noqa: S603  # this Python, on files named by a digest
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LAST_BUILD_S, check=True
        )
    finally:
        source.unlink(missing_ok=True)


def write_code(path: Path, compiled: bytes) -> None:
    """Write code into a file, all of it at once."""
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_bytes(hashlib.sha256(compiled).digest() + compiled)
    draft.replace(path)


def read_code(path: Path) -> bytes | None:
    """Return the code in a file; None where there is none, or not all of it."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, compiled = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
    return compiled if hashlib.sha256(compiled).digest() == digest else None


def _digest(text: str) -> str:
    import llvmlite

    llvm = _llvm()
    names = [llvmlite.__version__, llvm.get_default_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    return hashlib.sha256("\0".join([*names, text]).encode()).hexdigest()


@functools.cache
def _llvm() -> Any:
    """Return llvmlite's binding; calls of `LIBM` find the functions of the library that NumPy is linked to."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    library = ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)
    for name, symbol in LIBM.items():
        llvm.add_symbol(PREFIX + name, ctypes.cast(library[symbol], ctypes.c_void_p).value)
    return llvm


def _target() -> Any:
    llvm = _llvm()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=2, jit=True)


def main(argv: Sequence[str]) -> int:
    """Compile a text of a folder, which is then gone, and write its code; return the exit code."""
    os.nice(10)
    source, path = map(Path, argv)
    text = source.read_text(encoding="ascii")
    source.unlink()  # here, as who asked for the code may end before it is there
    write_code(path, compile_text(text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
