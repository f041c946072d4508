"""What a function saw when it was traced, compared with what it would see now."""

from __future__ import annotations

import types
from typing import Any

import numpy as np

ABSENT: Any = object()
SCALARS = (
    int, float, complex, bool, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range, slice, np.generic, np.dtype,
)  # fmt: skip


class Watch:
    """What a function saw. `holds` tells whether it would see the same now.

    Attributes:
        copied_bytes: the bytes of the copies that arrays are compared with.
    """

    __slots__ = ("_arrays", "_cells", "_dicts", "_functions", "_names", "_root", "_sequences", "copied_bytes")

    def __init__(self) -> None:
        self._root: tuple[Any, Any, Any] | None = None
        self._functions: list[tuple[Any, Any, Any, Any]] = []
        self._cells: list[tuple[Any, Any]] = []
        self._names: list[tuple[Any, str, Any]] = []
        self._sequences: list[tuple[Any, tuple[Any, ...]]] = []
        self._dicts: list[tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = []
        self._arrays: list[tuple[Any, Any, Any, bytearray]] = []
        self.copied_bytes = 0

    # -- writing down --------------------------------------------------------------------------------------------------------

    def see_root(self, function: types.FunctionType) -> None:
        """Write down the code and the defaults of the function itself, which is not kept alive."""
        self._root = (function.__code__, function.__defaults__, function.__kwdefaults__)

    def see_function(self, function: types.FunctionType) -> None:
        """Write down the code and the defaults of a function."""
        self._functions.append((function, function.__code__, function.__defaults__, function.__kwdefaults__))

    def see_name(self, scope: Any, name: str, seen: Any) -> None:
        """Write down what a name stands for in a scope, a dict or what reads as one."""
        self._names.append((scope, name, seen))

    def see_cell(self, cell: Any) -> Any:
        """Write down what a cell or slot holds, and return it."""
        seen = contents(cell)
        self._cells.append((cell, seen))
        return seen

    def see_sequence(self, items: Any) -> tuple[Any, ...]:
        """Write down the items of a list or set, and return them."""
        seen = tuple(items)
        self._sequences.append((items, seen))
        return seen

    def see_dict(self, items: Any) -> tuple[Any, ...]:
        """Write down the keys and values of a dict, and return them."""
        keys, values = tuple(items), tuple(items.values())
        self._dicts.append((items, keys, values))
        return keys + values

    def see_array(self, array: np.ndarray[Any, Any]) -> None:
        """Write down the contents of an array."""
        self.copied_bytes += array.nbytes
        self._arrays.append((array, array.shape, array.dtype, bytearray(array.tobytes(order="A"))))

    # -- comparing -----------------------------------------------------------------------------------------------------------

    def holds(self, root: Any) -> bool:
        """Whether everything that was seen is still so; the function itself is given, for the watch does not keep it alive."""
        if self._root is not None:
            function = getattr(root, "__func__", root)
            code, defaults, keywords = self._root
            if function.__code__ is not code or function.__defaults__ is not defaults or function.__kwdefaults__ is not keywords:
                return False
        for function, code, defaults, keywords in self._functions:
            if function.__code__ is not code or function.__defaults__ is not defaults or function.__kwdefaults__ is not keywords:
                return False
        for scope, name, seen in self._names:
            now = scope.get(name, ABSENT)
            if now is not seen and not _is_same(now, seen):
                return False
        if self._cells and not self._cells_hold():
            return False
        return (not self._sequences or self._sequences_hold()) and (not self._dicts or self._dicts_hold()) and self._arrays_hold()

    def _cells_hold(self) -> bool:
        try:
            for cell, seen in self._cells:
                now = cell.cell_contents
                if now is not seen and not _is_same(now, seen):
                    return False
        except ValueError:  # one is empty
            return all(_is_same(contents(cell), seen) for cell, seen in self._cells)
        return True

    def _sequences_hold(self) -> bool:
        return all(len(items) == len(seen) and all(map(_is_same, items, seen)) for items, seen in self._sequences)

    def _dicts_hold(self) -> bool:
        return all(
            len(items) == len(keys) and all(map(_is_same, items, keys)) and all(map(_is_same, items.values(), seen))
            for items, keys, seen in self._dicts
        )

    def _arrays_hold(self) -> bool:
        for array, shape, dtype, seen in self._arrays:
            if array.shape != shape or array.dtype != dtype or not _has_bytes(array, seen):
                return False
        return True


class Slot:
    """A slot of an object, read as a cell is."""

    __slots__ = ("_item", "_name")

    def __init__(self, item: Any, name: str) -> None:
        self._item = item
        self._name = name

    @property
    def cell_contents(self) -> Any:
        """What the slot holds."""
        return getattr(self._item, self._name, ABSENT)


def contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return ABSENT


def _is_same(now: Any, seen: Any) -> bool:
    """Whether two objects are one, or scalars of one type and value (-0.0 differs from 0.0, and NaN from nothing)."""
    if now is seen:
        return True
    kind = type(now)
    if kind is not type(seen) or not isinstance(now, SCALARS):
        return False
    if kind in (int, str, bool, bytes):
        return bool(now == seen)
    return repr(now) == repr(seen) if not isinstance(now, np.generic) else now.tobytes() == seen.tobytes()


def _has_bytes(array: np.ndarray[Any, Any], seen: bytearray) -> bool:
    # A bytearray compares with a contiguous buffer in place, at the speed of memory.
    if array.flags.c_contiguous:
        return seen.__eq__(array) is True
    if array.flags.f_contiguous:
        return seen.__eq__(array.T) is True
    return seen == array.tobytes(order="A")
