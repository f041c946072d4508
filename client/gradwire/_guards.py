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

from gradwire._watch import ABSENT, SCALARS, Slot, Watch, contents

VISIT_LIMIT = 20_000  # objects walked; what reaches more is traced at every call
COPY_LIMIT_BYTES = 64 * 2**20  # arrays watched by one function; beyond, it is traced at every call

_VOLATILE_BUILTINS = frozenset({"eval", "exec", "globals", "locals", "vars", "input", "open", "__import__"})
# Functions and methods of NumPy and pathlib that read a file, whatever they are called on.
_FILE_READERS = frozenset(
    {"fromfile", "fromregex", "genfromtxt", "load", "loadtxt", "memmap", "open", "open_memmap", "read_bytes", "read_text", "stat"}
)
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
_FIXED = (*SCALARS, enum.Enum, re.Pattern, types.CodeType, types.GenericAlias, types.UnionType)
_FIXED_KINDS = frozenset({"logging", "typing"})  # modules of whose objects no result depends
_BUILTIN = (types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType, types.MethodDescriptorType)
_CACHED = type(functools.cache(len))
_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType, types.ClassMethodDescriptorType)
_CLASS_NOISE = frozenset({
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__", "__dataclass_fields__",
    "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__", "__match_args__", "__module__", "__orig_bases__",
    "__parameters__", "__qualname__", "__static_attributes__", "__type_params__", "__weakref__", "_abc_impl",
})  # fmt: skip


class UnverifiableError(Exception):
    """Raised within the walk when a function reaches something whose state cannot be compared."""


def watch(function: Callable[..., Any], statics: Iterable[Any] = ()) -> Watch | None:
    """Return what a function sees, and what its static arguments see; None where that cannot be verified."""
    walk = _Walk()
    try:
        walk.run(function, statics)
    except UnverifiableError:
        return None
    return walk.watch


class _Walk:
    """One walk over what a function reaches; a stack instead of recursion."""

    def __init__(self) -> None:
        self.watch = Watch()
        self._stack: list[Any] = []
        self._seen: dict[int, Any] = {}

    def run(self, function: Any, statics: Iterable[Any] = ()) -> None:
        self._stack.extend(statics)
        if isinstance(function, types.MethodType):
            self._stack.append(function.__self__)
            function = function.__func__
        if isinstance(function, types.FunctionType):
            self._seen[id(function)] = function
            self.watch.see_root(function)
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

    def see_function(self, function: types.FunctionType) -> None:
        if _is_fixed(function.__module__):
            self._closure(function)
        else:
            self.watch.see_function(function)
            self._inside(function)

    def _inside(self, function: types.FunctionType) -> None:
        self._stack.extend(function.__defaults__ or ())
        if function.__kwdefaults__:
            self._stack.append(function.__kwdefaults__)
        if function.__dict__:
            self._stack.append(function.__dict__)
        if _reads_files(function.__code__):
            raise UnverifiableError
        cells = self._closure(function)
        for scope, name, attributes in loads(function.__code__):
            if scope == "global":
                self._global(function.__globals__, name, attributes)
            elif scope == "import":
                self._imported(name)
            elif name in cells:
                self._follow(contents(cells[name]), attributes)

    def _closure(self, function: types.FunctionType) -> dict[str, Any]:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for cell in cells.values():
            self.see_cell(cell)
        return cells

    def see_cell(self, cell: types.CellType) -> None:
        seen = self.watch.see_cell(cell)
        if seen is not ABSENT and not isinstance(seen, types.ModuleType):
            self._stack.append(seen)

    def _global(self, scope: dict[str, Any], name: str, attributes: tuple[str, ...]) -> None:
        seen = scope.get(name, ABSENT)
        self.watch.see_name(scope, name, seen)
        if seen is ABSENT:
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
            found = scope.get(attribute, ABSENT)
            if not _is_fixed(seen.__name__):
                self.watch.see_name(scope, attribute, found)
            seen = getattr(seen, attribute, None) if found is ABSENT else found
        self._stack.append(seen)

    def _imported(self, name: str) -> None:
        if not _is_fixed(name):
            raise UnverifiableError

    # -- everything else -------------------------------------------------------------------------------------------------

    def see_module(self, module: types.ModuleType) -> None:
        if not _is_fixed(module.__name__):
            raise UnverifiableError

    def see_nothing(self, item: Any) -> None:
        """Visit what cannot change."""

    def see_builtin(self, function: Any) -> None:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, types.ModuleType):
            self.see_module(owner)
        elif not isinstance(owner, type):
            self._stack.append(owner)

    def see_partial(self, partial: functools.partial[Any]) -> None:
        self._stack += [partial.func, *partial.args, *partial.keywords.values()]

    def see_method(self, method: types.MethodType) -> None:
        self._stack += [method.__func__, method.__self__]

    def see_wrapper(self, wrapper: Any) -> None:
        self._stack.append(wrapper.__wrapped__ if hasattr(wrapper, "__wrapped__") else wrapper.__func__)

    def see_property(self, item: property) -> None:
        self._stack += [item.fget, item.fset]

    def see_array(self, array: np.ndarray[Any, Any]) -> None:
        if array.dtype.hasobject:
            raise UnverifiableError
        if type(array) is not np.ndarray:
            self._object(array)
        if not array.flags.writeable and array.base is None:
            return
        if self.watch.copied_bytes + array.nbytes > COPY_LIMIT_BYTES:
            raise UnverifiableError
        self.watch.see_array(array)

    def see_items(self, items: Iterable[Any]) -> None:
        self._stack.extend(items)
        if type(items) not in (tuple, frozenset):
            self._object(items)

    def see_sequence(self, items: Any) -> None:
        self._stack.extend(self.watch.see_sequence(items))
        if type(items) not in (list, set, collections.deque):
            self._object(items)

    def see_dict(self, items: Any) -> None:
        self._stack.extend(self.watch.see_dict(items))
        if type(items) not in (dict, types.MappingProxyType, collections.OrderedDict):
            self._object(items)

    def see_class(self, kind: type) -> None:
        if _is_fixed(kind.__module__):
            return
        namespace = vars(kind)
        for name, seen in namespace.items():
            if name not in _CLASS_NOISE:
                self.watch.see_name(namespace, name, seen)
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
        if kind.__module__ in _FIXED_KINDS:
            return
        if not _is_written_in_python(kind):
            raise UnverifiableError
        if hasattr(item, "__dict__"):
            self._seen.setdefault(id(item.__dict__), item.__dict__)
            self.see_dict(item.__dict__)
        for name in _slots(kind):
            seen = self.watch.see_cell(Slot(item, name))
            if seen is not ABSENT:
                self._stack.append(seen)
        self._stack.append(kind)


_VISITS: tuple[tuple[Any, Callable[[_Walk, Any], None]], ...] = (
    (types.FunctionType, _Walk.see_function),
    (types.ModuleType, _Walk.see_module),
    (np.ndarray, _Walk.see_array),
    ((list, set, collections.deque), _Walk.see_sequence),
    ((tuple, frozenset), _Walk.see_items),
    ((dict, types.MappingProxyType), _Walk.see_dict),
    (types.MethodType, _Walk.see_method),
    (functools.partial, _Walk.see_partial),
    ((staticmethod, classmethod, _CACHED), _Walk.see_wrapper),
    (property, _Walk.see_property),
    (types.CellType, _Walk.see_cell),
    (_BUILTIN, _Walk.see_builtin),
    (type, _Walk.see_class),
    ((*_DESCRIPTORS, np.ufunc, type(np.sum)), _Walk.see_nothing),
)


def _reads_files(code: types.CodeType) -> bool:
    """Whether a function, or one within it, names something that reads a file."""
    if not _FILE_READERS.isdisjoint(code.co_names):
        return True
    return any(_reads_files(item) for item in code.co_consts if isinstance(item, types.CodeType))


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
