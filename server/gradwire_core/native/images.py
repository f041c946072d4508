"""Machine code that processes map from a file, as it is: nothing loads it but the system, and all that map it share its pages.

    an object file of a compiler --its sections get their places--> an image: a header, then the sections --mapped--> an address

Every reference within an image is a distance from where it stands, so an image runs wherever it is mapped, and nothing is written
into it. What refers to anything outside, or to where it lies, is refused.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
import platform
import struct
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradwire_core.native.signatures import Run

CAN_MAP = sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 2**32
"""Whether this system runs images; another has LLVM load object files."""

_MAGIC = b"gwcode01"
_HEAD = struct.Struct("<8s32sQ")  # how it begins, the digest of the rest, where the function is in the rest
_START = 64
_ELF_64 = b"\x7fELF\x02\x01\x01"
_FILE = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_X86_64 = 62
_PROGRAM, _SYMBOLS, _RELOCATIONS, _ZEROS = 1, 2, 4, 8
_IS_WRITTEN, _IS_LOADED = 1, 2
_KIND = 0xFFFFFFFF
_DISTANCES = (2, 4)  # R_X86_64_PC32, and the same to what may be called: R_X86_64_PLT32
_UNWINDING = ".eh_frame"


class ImageError(Exception):
    """Machine code cannot be, or is not, an image."""


class _Section(NamedTuple):
    """A section of an object file: its name, what is in it, and the fields of its header that are read here."""

    name: str
    kind: int
    flags: int
    data: bytes
    link: int
    target: int
    alignment: int


def link(compiled: bytes, entry: str) -> bytes:
    """Return the image of an object file.

    Args:
        compiled: the object file, of 64-bit ELF for x86-64.
        entry: the name of its function.

    Raises:
        ImageError: it refers to anything outside, or to addresses that are not distances, or has memory that is written to.
    """
    sections = _sections(compiled)
    image, places = _placed(sections)
    (table,) = [section for section in sections if section.kind == _SYMBOLS]
    names = sections[table.link].data
    symbols = [(_text(names, name), index, value) for name, _, _, index, value, _ in _SYMBOL.iter_unpack(table.data)]
    for section in sections:
        if section.kind == _RELOCATIONS and section.target in places:
            for offset, info, addend in _RELOCATION.iter_unpack(section.data):
                kind, (name, index, value) = info & _KIND, symbols[info >> 32]
                if kind not in _DISTANCES or index not in places:
                    raise ImageError(f"needed distances within the code, got type {kind} to {name!r}")
                at = places[section.target] + offset
                struct.pack_into("<i", image, at, places[index] + value + addend - at)
    found = [places[index] + value for name, index, value in symbols if index in places and name == entry]
    if len(found) != 1:
        raise ImageError(f"needed a function {entry}, got {len(found)}")
    head = _HEAD.pack(_MAGIC, hashlib.sha256(image).digest(), found[0])
    return head.ljust(_START, b"\0") + bytes(image)


def _placed(sections: list[_Section]) -> tuple[bytearray, dict[int, int]]:
    """Return the sections one behind the other, and where each is."""
    image, places = bytearray(), {}
    for number, section in enumerate(sections):
        if not section.flags & _IS_LOADED or section.name == _UNWINDING or not section.data:
            continue
        if section.kind != _PROGRAM or section.flags & _IS_WRITTEN or section.alignment > mmap.PAGESIZE:
            raise ImageError(f"needed code and constants, got the section {section.name}")
        image += bytes(-(_START + len(image)) % max(section.alignment, 1))
        places[number] = len(image)
        image += section.data
    return image, places


def _sections(compiled: bytes) -> list[_Section]:
    if compiled[: len(_ELF_64)] != _ELF_64:
        raise ImageError("needed a 64-bit ELF file, got another")
    _, _, machine, _, _, _, start, _, _, _, _, size, count, names_at = _FILE.unpack_from(compiled)
    if machine != _X86_64 or size != _SECTION.size:
        raise ImageError(f"needed code of x86-64, got that of machine {machine}")
    heads = [_SECTION.unpack_from(compiled, start + number * size) for number in range(count)]
    names = _data(compiled, heads[names_at])
    return [_Section(_text(names, head[0]), head[1], head[2], _data(compiled, head), *head[6:9]) for head in heads]


def _data(compiled: bytes, head: tuple[int, ...]) -> bytes:
    _, kind, _, _, offset, size, *_ = head
    return bytes(size) if kind == _ZEROS else compiled[offset : offset + size]


def _text(names: bytes, start: int) -> str:
    return names[start : names.index(b"\0", start)].decode()


# -- in memory -----------------------------------------------------------------------------------------------------------------


class Mapped:
    """An image in memory, which is left with it.

    Args:
        image: a file, or what is in one.

    Attributes:
        address: of the function.

    Raises:
        FileNotFoundError: there is no file.
        ImageError: it is no image, or not all of one.
    """

    def __init__(self, image: Path | bytes) -> None:
        if isinstance(image, Path):
            with image.open("rb") as file:
                self._memory = _mapped(file.fileno())
        else:
            self._memory = _mapped_copy(image)
        magic, digest, entry = _HEAD.unpack_from(self._memory) if len(self._memory) > _START else (b"", b"", 0)
        if magic != _MAGIC or hashlib.sha256(memoryview(self._memory)[_START:]).digest() != digest:
            raise ImageError(f"needed an image, got {len(self._memory)} bytes of something else")
        self.address = int(np.frombuffer(self._memory, np.uint8).ctypes.data) + _START + entry


def _mapped(file: int) -> mmap.mmap:
    """Return what is in a file, mapped to be run; a copy of it where files there may not be."""
    size = os.fstat(file).st_size
    if not size:
        raise ImageError("needed an image, got an empty file")
    try:
        return mmap.mmap(file, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    except PermissionError:
        return _mapped_copy(os.pread(file, size, 0))


def _mapped_copy(image: bytes) -> mmap.mmap:
    file = os.memfd_create("loops_")
    try:
        os.write(file, image)
        return mmap.mmap(file, len(image), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    finally:
        os.close(file)


# -- called --------------------------------------------------------------------------------------------------------------------

FIRST_ITEM = tuple.__basicsize__
"""So far from its begin a tuple has the addresses of its items, 8 bytes each."""
FIRST_FIELD = object.__basicsize__
"""So far from its begin an array has the address of its elements, and a float its value."""


def function_at(address: int, memory: Any) -> Run:
    """Return the function of a tuple that is at an address of memory, which it holds; other threads run meanwhile.

    Raises:
        ImageError: this Python or this NumPy lay out objects in another way than the code takes them to be.
    """
    _check_layout()
    found = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.py_object)(address)
    found.memory = memory  # type: ignore[attr-defined]  # so that it is there as long as the function
    return found


@functools.cache
def _check_layout() -> None:
    operands = (np.array([1.5, 2.5]), 1.25)
    items = [ctypes.c_void_p.from_address(id(operands) + FIRST_ITEM + 8 * place).value for place in range(2)]
    if items != [id(item) for item in operands]:
        raise ImageError("needed the items of a tuple at its end, got others")
    elements = ctypes.c_void_p.from_address(id(operands[0]) + FIRST_FIELD).value
    number = ctypes.c_double.from_address(id(operands[1]) + FIRST_FIELD).value
    if elements != operands[0].ctypes.data or number != operands[1]:
        raise ImageError("needed elements and numbers behind the heads of their objects, got others")
