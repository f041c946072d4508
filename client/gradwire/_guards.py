"""What a Python function can see, and whether it still sees the same: the condition under which its trace may be used again.

A function sees its code, its defaults, the cells of its closure, the globals it names (attributes of the user's modules
included), the functions and objects it reaches through them. `watch` walks all that once, before the function is traced, and
writes down what would have to change. Scalars are compared by value; arrays by identity, shape and content; lists, sets and
dicts item by item; objects attribute by attribute; functions by code, and then as the function itself; everything else by
identity. What cannot be verified, such as a generator or a source of random numbers, makes the walk give up: such a
function is traced at every call. Code of NumPy, SciPy, gradwire and the standard library is taken as fixed.
"""

from __future__ import annotations

import builtins
import collections
import dis
import enum
import functools
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

VISIT_LIMIT = 20_000  # objects walked; what reaches more is traced at every call
COPY_LIMIT_BYTES = 64 * 2**20  # arrays watched by one function; beyond, it is traced at every call

_VOLATILE_BUILTINS = frozenset({"eval", "exec", "globals", "locals", "vars", "input", "open", "__import__"})
_VOLATILE_MODULES = frozenset(
    {"random", "time", "datetime", "os", "posix", "sys", "io", "secrets", "uuid", "socket", "threading", "importlib"}
)
_FIXED_ROOTS = (frozenset(sys.stdlib_module_names) - _VOLATILE_MODULES) | {
    "numpy",
    "scipy",
    "gradwire",
    "gradwire_core",
    "gradwire_proto",
}
_SCALARS = (
    int,
    float,
    complex,
    bool,
    str,
    bytes,
    type(None),
    type(Ellipsis),
    type(NotImplemented),
    range,
    slice,
    np.generic,
    np.dtype,
)
_FIXED = (*_SCALARS, enum.Enum, re.Pattern, types.CodeType)
_BUILTIN = (types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType, types.MethodDescriptorType)
_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType, types.ClassMethodDescriptorType)
_CLASS_NOISE = frozenset({
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__", "__dataclass_fields__",
    "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__", "__match_args__", "__module__", "__orig_bases__",
    "__parameters__", "__qualname__", "__static_attributes__", "__type_params__", "__weakref__", "_abc_impl",
})  # fmt: skip
_ABSENT: Any = object()


class UnverifiableError(Exception):
    """Raised within the walk when a function reaches something whose state cannot be compared."""


class Watch:
    """What a function saw. `holds` tells whether it would see the same now."""

    __slots__ = ("_arrays", "_cells", "_dicts", "_functions", "_names", "_root", "_sequences", "copied_bytes")

    def __init__(self) -> None:
        self._root: tuple[Any, Any, Any] | None = None
        self._functions: list[tuple[Any, Any, Any, Any]] = []
        self._cells: list[tuple[Any, Any]] = []
        self._names: list[tuple[dict[str, Any], str, Any]] = []
        self._sequences: list[tuple[Any, tuple[Any, ...]]] = []
        self._dicts: list[tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = []
        self._arrays: list[tuple[Any, Any, Any, bytearray]] = []
        self.copied_bytes = 0

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
            now = scope.get(name, _ABSENT)
            if now is not seen and not _is_same(now, seen):
                return False
        for cell, seen in self._cells:
            now = _contents(cell)
            if now is not seen and not _is_same(now, seen):
                return False
        return (not self._sequences or self._sequences_hold()) and (not self._dicts or self._dicts_hold()) and self._arrays_hold()

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


def watch(function: Callable[..., Any]) -> Watch | None:
    """Return what a function sees; None where that cannot be verified."""
    walk = _Walk()
    try:
        walk.run(function)
    except UnverifiableError:
        return None
    return walk.watch


class _Walk:
    """One walk over what a function reaches; a stack instead of recursion."""

    def __init__(self) -> None:
        self.watch = Watch()
        self._stack: list[Any] = []
        self._seen: dict[int, Any] = {}

    def run(self, function: Any) -> None:
        if isinstance(function, types.MethodType):
            self._stack.append(function.__self__)
            function = function.__func__
        if isinstance(function, types.FunctionType):
            self._seen[id(function)] = function
            self.watch._root = (function.__code__, function.__defaults__, function.__kwdefaults__)  # noqa: SLF001
            self._inside(function)
        else:
            self._stack.append(function)
        while self._stack:
            item = self._stack.pop()
            if isinstance(item, _FIXED) or id(item) in self._seen:
                continue
            self._seen[id(item)] = item
            if len(self._seen) > VISIT_LIMIT:
                raise UnverifiableError
            self._visit(item)

    def _visit(self, item: Any) -> None:
        for kind, visit in _VISITS:
            if isinstance(item, kind):
                visit(self, item)
                return
        self._object(item)

    # -- functions -------------------------------------------------------------------------------------------------------

    def _visit_function(self, function: types.FunctionType) -> None:
        if _is_fixed(function.__module__):
            self._closure(function)
        else:
            self.watch._functions.append((function, function.__code__, function.__defaults__, function.__kwdefaults__))  # noqa: SLF001
            self._inside(function)

    def _inside(self, function: types.FunctionType) -> None:
        self._stack.extend(function.__defaults__ or ())
        if function.__kwdefaults__:
            self._stack.append(function.__kwdefaults__)
        if function.__dict__:
            self._stack.append(function.__dict__)
        cells = self._closure(function)
        for scope, name, attributes in loads(function.__code__):
            if scope == "global":
                self._global(function.__globals__, name, attributes)
            elif scope == "import":
                self._imported(name)
            elif name in cells:
                self._follow(_contents(cells[name]), attributes)

    def _closure(self, function: types.FunctionType) -> dict[str, Any]:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for cell in cells.values():
            self._cell(cell)
        return cells

    def _cell(self, cell: types.CellType) -> None:
        seen = _contents(cell)
        self.watch._cells.append((cell, seen))  # noqa: SLF001
        if seen is not _ABSENT and not isinstance(seen, types.ModuleType):
            self._stack.append(seen)

    def _global(self, scope: dict[str, Any], name: str, attributes: tuple[str, ...]) -> None:
        seen = scope.get(name, _ABSENT)
        self.watch._names.append((scope, name, seen))  # noqa: SLF001
        if seen is _ABSENT:
            if name in _VOLATILE_BUILTINS:
                raise UnverifiableError
            seen = getattr(builtins, name, None)
        self._follow(seen, attributes)

    def _follow(self, seen: Any, attributes: tuple[str, ...]) -> None:
        """Walk what `seen.a.b` reaches; attributes of a module are names like any global."""
        for attribute in attributes:
            if not isinstance(seen, types.ModuleType):
                break
            scope = vars(seen)
            found = scope.get(attribute, _ABSENT)
            if not _is_fixed(seen.__name__):
                self.watch._names.append((scope, attribute, found))  # noqa: SLF001
            seen = getattr(seen, attribute, None) if found is _ABSENT else found
        self._stack.append(seen)

    def _imported(self, name: str) -> None:
        if not _is_fixed(name):
            raise UnverifiableError

    # -- everything else -------------------------------------------------------------------------------------------------

    def _module(self, module: types.ModuleType) -> None:
        if not _is_fixed(module.__name__):
            raise UnverifiableError

    def _nothing(self, item: Any) -> None:
        """Visit what cannot change."""

    def _builtin(self, function: Any) -> None:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, types.ModuleType):
            self._module(owner)
        elif not isinstance(owner, type):
            self._stack.append(owner)

    def _partial(self, partial: functools.partial[Any]) -> None:
        self._stack += [partial.func, *partial.args, *partial.keywords.values()]

    def _method(self, method: types.MethodType) -> None:
        self._stack += [method.__func__, method.__self__]

    def _wrapper(self, wrapper: Any) -> None:
        self._stack.append(wrapper.__wrapped__ if hasattr(wrapper, "__wrapped__") else wrapper.__func__)

    def _property(self, item: property) -> None:
        self._stack += [item.fget, item.fset]

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        if array.dtype.hasobject:
            raise UnverifiableError
        if type(array) is not np.ndarray:
            self._object(array)
        if not array.flags.writeable and array.base is None:
            return
        self.watch.copied_bytes += array.nbytes
        if self.watch.copied_bytes > COPY_LIMIT_BYTES:
            raise UnverifiableError
        self.watch._arrays.append((array, array.shape, array.dtype, bytearray(array.tobytes(order="A"))))  # noqa: SLF001

    def _immutable(self, items: Iterable[Any]) -> None:
        self._stack.extend(items)
        if type(items) not in (tuple, frozenset):
            self._object(items)

    def _sequence(self, items: Any) -> None:
        seen = tuple(items)
        self.watch._sequences.append((items, seen))  # noqa: SLF001
        self._stack.extend(seen)
        if type(items) not in (list, set, collections.deque):
            self._object(items)

    def _dict(self, items: Any) -> None:
        keys, seen = tuple(items), tuple(items.values())
        self.watch._dicts.append((items, keys, seen))  # noqa: SLF001
        self._stack.extend(keys)
        self._stack.extend(seen)
        if type(items) not in (dict, types.MappingProxyType, collections.OrderedDict):
            self._object(items)

    def _class(self, kind: type) -> None:
        if _is_fixed(kind.__module__):
            return
        namespace = vars(kind)
        for name, seen in namespace.items():
            if name not in _CLASS_NOISE:
                self.watch._names.append((namespace, name, seen))  # type: ignore[arg-type]  # noqa: SLF001  # a proxy reads as a dict
                self._stack.append(seen)
        self._stack.extend(kind.__bases__)

    def _object(self, item: Any) -> None:
        """Walk an object of a class written in Python; the attributes are all its state."""
        kind = type(item)
        watched = getattr(kind, "__gradwire_watch__", None)
        if watched is not None:
            self._stack.extend(watched(item))
            return
        if _is_fixed(kind.__module__) and kind.__module__.partition(".")[0].startswith("gradwire"):
            return
        if not _is_written_in_python(kind):
            raise UnverifiableError
        if hasattr(item, "__dict__"):
            self._seen.setdefault(id(item.__dict__), item.__dict__)
            self._dict(item.__dict__)
        for name in _slots(kind):
            seen = getattr(item, name, _ABSENT)
            self.watch._cells.append((_Slot(item, name), seen))  # noqa: SLF001
            if seen is not _ABSENT:
                self._stack.append(seen)
        self._stack.append(kind)


_VISITS: tuple[tuple[Any, Callable[[_Walk, Any], None]], ...] = (
    (types.FunctionType, _Walk._visit_function),  # noqa: SLF001
    (types.ModuleType, _Walk._module),  # noqa: SLF001
    (np.ndarray, _Walk._array),  # noqa: SLF001
    ((list, set, collections.deque), _Walk._sequence),  # noqa: SLF001
    ((tuple, frozenset), _Walk._immutable),  # noqa: SLF001
    ((dict, types.MappingProxyType), _Walk._dict),  # noqa: SLF001
    (types.MethodType, _Walk._method),  # noqa: SLF001
    (functools.partial, _Walk._partial),  # noqa: SLF001
    ((staticmethod, classmethod, functools._lru_cache_wrapper), _Walk._wrapper),  # noqa: SLF001
    (property, _Walk._property),  # noqa: SLF001
    (types.CellType, _Walk._cell),  # noqa: SLF001
    (_BUILTIN, _Walk._builtin),  # noqa: SLF001
    (type, _Walk._class),  # noqa: SLF001
    ((*_DESCRIPTORS, np.ufunc, type(np.sum)), _Walk._nothing),  # noqa: SLF001
)


class _Slot:
    """A slot of an object, read as a cell is."""

    __slots__ = ("_item", "_name")

    def __init__(self, item: Any, name: str) -> None:
        self._item = item
        self._name = name

    @property
    def cell_contents(self) -> Any:
        """What the slot holds."""
        return getattr(self._item, self._name, _ABSENT)


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _ABSENT


def _is_same(now: Any, seen: Any) -> bool:
    """Whether two objects are one, or scalars of one type and value (-0.0 differs from 0.0, and NaN from nothing)."""
    if now is seen:
        return True
    kind = type(now)
    if kind is not type(seen) or not isinstance(now, _SCALARS):
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


def _is_fixed(module: str | None) -> bool:
    if module is None:
        return False
    if module.startswith("numpy.random"):
        return False
    return module.partition(".")[0] in _FIXED_ROOTS


def _is_written_in_python(kind: type) -> bool:
    """Whether no class of an object keeps state that Python attributes do not show."""
    for base in kind.__mro__[:-1]:
        if base in _TRANSPARENT:
            continue
        is_heap_type = bool(base.__flags__ & (1 << 9))
        names = vars(base)
        if not is_heap_type or not ({"__dict__", "__slots__", "__weakref__"} & names.keys() or _inherits_dict(base)):
            return False
    return True


def _inherits_dict(kind: type) -> bool:
    return any("__dict__" in vars(base) for base in kind.__mro__[1:-1])


# Their contents are compared by the visits above.
_TRANSPARENT = frozenset(
    {list, dict, tuple, set, frozenset, np.ndarray, collections.deque, collections.OrderedDict, types.SimpleNamespace}
)


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in {"__dict__", "__weakref__"}:
                yield f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name


@functools.lru_cache(maxsize=4096)
def loads(code: types.CodeType) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Return what code reads from outside, nested code included: its scope, its name and the attributes then taken of it."""
    found: dict[tuple[str, str, tuple[str, ...]], None] = {}
    stack = [code]
    while stack:
        current = stack.pop()
        stack.extend(item for item in current.co_consts if isinstance(item, types.CodeType))
        found.update(dict.fromkeys(_loads(current)))
    return tuple(found)


def _loads(code: types.CodeType) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    pending: tuple[str, str] | None = None
    attributes: list[str] = []
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if pending and name in {"LOAD_ATTR", "LOAD_METHOD"}:
            attributes.append(instruction.argval)
            continue
        if name in {"PUSH_NULL", "CACHE", "PRECALL"}:
            continue
        if pending:
            yield (*pending, tuple(attributes))
            pending, attributes = None, []
        scope = _SCOPES.get(name)
        if scope == "import":
            yield "import", instruction.argval, ()
        elif scope:
            pending = scope, instruction.argval
    if pending:
        yield (*pending, tuple(attributes))


_SCOPES = {
    "LOAD_GLOBAL": "global",
    "LOAD_NAME": "global",
    "LOAD_DEREF": "cell",
    "LOAD_CLASSDEREF": "cell",
    "LOAD_FROM_DICT_OR_GLOBALS": "global",
    "LOAD_FROM_DICT_OR_DEREF": "cell",
    "IMPORT_NAME": "import",
}
