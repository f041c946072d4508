"""The machine code of a function, in memory and in a folder: an image, or where the system runs none an object file.

    an object file of a compiler --`place`--> an address, and what holds the code there
                     |                ^
                     +--`keep`--> a file --`find`

LLVM is needed to compile, and to load object files.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any, TypeAlias

from gradwire_core.folders import note_use
from gradwire_core.native import images

Loaded: TypeAlias = tuple[int, Any]
"""The address of a function, and what holds its code: it is gone with that."""

_DIGEST_BYTES = hashlib.sha256().digest_size


def suffix() -> str:
    """Return how the names of files of code end."""
    return ".image" if images.CAN_MAP else ".o"


def place(compiled: bytes, entry: str) -> Loaded:
    """Return the function of an object file.

    Args:
        compiled: the object file.
        entry: the name of its function.

    Raises:
        ImageError: it refers to anything outside.
    """
    return _mapped(images.link(compiled, entry)) if images.CAN_MAP else _loaded(compiled, entry)


def keep(path: Path, compiled: bytes, entry: str) -> None:
    """Write the code of an object file into a file, all of it at once.

    Raises:
        ImageError: it refers to anything outside.
    """
    draft = path.with_suffix(f".{os.getpid()}")
    if images.CAN_MAP:
        draft.write_bytes(images.link(compiled, entry))
    else:
        draft.write_bytes(hashlib.sha256(compiled).digest() + compiled)
    draft.replace(path)


def find(path: Path, entry: str) -> Loaded | None:
    """Return the function of the code in a file, which counts as used now; None where there is none, or not all of it."""
    note_use(path)
    try:
        if images.CAN_MAP:
            return _mapped(path)
        found = path.read_bytes()
    except (FileNotFoundError, images.ImageError):
        return None
    digest, compiled = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
    return _loaded(compiled, entry) if hashlib.sha256(compiled).digest() == digest else None


def _mapped(image: Path | bytes) -> Loaded:
    mapped = images.Mapped(image)
    return mapped.address, mapped


def _loaded(compiled: bytes, entry: str) -> Loaded:
    llvm = _llvm()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), llvm.Target.from_default_triple().create_target_machine(jit=True))
    engine.add_object_file(llvm.ObjectFileRef.from_data(compiled))
    engine.finalize_object()
    return engine.get_function_address(entry), engine


@functools.cache
def _llvm() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def target(level: int) -> Any:
    """Return this processor as LLVM compiles for it, at a level of optimization: code runs wherever it lies."""
    llvm = _llvm()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=level,
        reloc="pic",
        codemodel="small",
    )
