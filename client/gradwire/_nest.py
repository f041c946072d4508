"""Nested arguments and results, and their flat leaves: tuples, lists, dicts and dataclasses. Nothing here knows arrays.

A `Structure` is what remains of a nested value when its leaves are taken out. It is hashable, so it can stand in keys. `None`,
text, static arguments and the dataclass fields declared `field(metadata={"static": True})` are part of the structure, not leaves.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final

from gradwire_core.errors import ArgumentError


class Structure:
    """A nested value without its leaves; this class itself is the structure of one leaf.

    Attributes:
        count: the number of leaves.
    """

    __slots__ = ("count",)

    def __init__(self, count: int = 1) -> None:
        self.count = count

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """Return the nested value that has these leaves, in order."""
        return self.take(iter(leaves))

    def take(self, leaves: Iterator[Any]) -> Any:
        return next(leaves)

    def collect(self, tree: Any, leaves: list[Any], where: str) -> None:
        """Append the leaves of a value that must have this structure.

        Raises:
            ArgumentError: it has another.
        """
        del where
        leaves.append(tree)

    def __repr__(self) -> str:
        return "*"


LEAF: Final = Structure()


class Static(Structure):
    """A value that is no leaf: it takes part in the structure by type and equality."""

    __slots__ = ("value",)

    def __init__(self, value: Hashable) -> None:
        super().__init__(0)
        self.value = value

    def take(self, leaves: Iterator[Any]) -> Any:
        del leaves
        return self.value

    def collect(self, tree: Any, leaves: list[Any], where: str) -> None:
        """Append nothing."""
        del leaves
        if type(tree) is not type(self.value) or tree != self.value:
            raise ArgumentError(f"{where}: needed {self.value!r}, got {tree!r}; pass the same value", needed=self.value, given=tree)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and type(other.value) is type(self.value) and other.value == self.value

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))

    def __repr__(self) -> str:
        return repr(self.value)


class Branch(Structure):
    """A container: its type, the keys of its items, and their structures."""

    __slots__ = ("_hash", "children", "keys", "kind")

    def __init__(self, kind: type, keys: tuple[Hashable, ...], children: tuple[Structure, ...]) -> None:
        super().__init__(sum(child.count for child in children))
        self.kind = kind
        self.keys = keys
        self.children = children
        self._hash = hash((kind, keys, children))

    def take(self, leaves: Iterator[Any]) -> Any:
        items = [child.take(leaves) for child in self.children]
        return _rebuild(self.kind, self.keys, items)

    def collect(self, tree: Any, leaves: list[Any], where: str) -> None:
        """Append the leaves of a value that must have this structure."""
        if type(tree) is not self.kind:
            raise ArgumentError(f"{where}: needed {self!r}, got {_name(tree)}; nest it alike", needed=self, given=_name(tree))
        keys, items = _items(tree)
        if len(keys) != len(self.keys) or set(keys) != set(self.keys):
            raise ArgumentError(
                f"{where}: needed {self!r}, got {len(keys)} items {list(keys)}; nest it alike", needed=self, given=keys
            )
        by_key = {key: item.value if isinstance(item, Static) else item for key, item in zip(keys, items, strict=True)}
        for key, child in zip(self.keys, self.children, strict=True):
            child.collect(by_key[key], leaves, f"{where}[{key!r}]")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Branch)
            and other._hash == self._hash
            and (other.kind, other.keys, other.children) == (self.kind, self.keys, self.children)
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        if self.kind in (tuple, list):
            return f"{self.kind.__name__}({', '.join(map(repr, self.children))})"
        items = ", ".join(f"{key}={child!r}" for key, child in zip(self.keys, self.children, strict=True))
        return f"{self.kind.__name__}({items})"


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """Return the leaves of a nested value, in order, and its structure."""
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves)


def flatten_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Branch]:
    """Return the leaves of the arguments of a call, and their structure: the positional ones, then the keywords."""
    leaves: list[Any] = []
    children = tuple([_flatten(item, leaves) for item in args])
    if not kwargs:
        return leaves, _plain_call(len(args)) if children.count(LEAF) == len(args) else Branch(
            tuple, _positions(len(args)), children
        )
    names = tuple(sorted(kwargs))
    keywords = Branch(dict, names, tuple([_flatten(kwargs[name], leaves) for name in names]))
    return leaves, Branch(OrderedDict, ("args", "kwargs"), (Branch(tuple, _positions(len(args)), children), keywords))


def flatten_with_static(
    args: tuple[Any, ...], kwargs: dict[str, Any], is_static: Callable[[int | str], bool]
) -> tuple[list[Any], Branch]:
    """Return what `flatten_call` does; static arguments, by their number or name, are part of the structure.

    Raises:
        ArgumentError: a static argument does not hash.
    """
    leaves: list[Any] = []
    children = tuple([_static(item, place) if is_static(place) else _flatten(item, leaves) for place, item in enumerate(args)])
    names = tuple(sorted(kwargs))
    keywords = tuple([_static(kwargs[name], name) if is_static(name) else _flatten(kwargs[name], leaves) for name in names])
    positions = Branch(tuple, _positions(len(args)), children)
    return leaves, Branch(OrderedDict, ("args", "kwargs"), (positions, Branch(dict, names, keywords))) if names else positions


def _static(item: Any, place: int | str) -> Static:
    try:
        hash(item)
    except TypeError:
        text = (
            f"argument {place}: needed something that hashes as a static argument, got {type(item).__name__}; pass it as an array"
        )
        raise ArgumentError(text, given=type(item).__name__) from None
    return Static(item)


def unflatten_call(structure: Branch, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the keyword arguments of a call that has these leaves."""
    whole = structure.unflatten(leaves)
    return (whole, {}) if structure.kind is tuple else (whole["args"], whole["kwargs"])


def static_values(structure: Structure) -> Iterator[Any]:
    """Yield the values of a structure that are no leaves."""
    stack = [structure]
    while stack:
        item = stack.pop()
        if isinstance(item, Static):
            yield item.value
        elif isinstance(item, Branch):
            stack.extend(item.children)


def positional(structure: Branch) -> tuple[Structure, ...]:
    """Return the structures of the positional arguments of a call."""
    if structure.kind is tuple:
        return structure.children
    (args, _) = structure.children
    assert isinstance(args, Branch)
    return args.children


def _flatten(tree: Any, leaves: list[Any]) -> Structure:
    kind = type(tree)
    if kind in _LEAF_KINDS:
        leaves.append(tree)
        return LEAF
    if kind not in _CONTAINERS and not isinstance(tree, (tuple, list, dict)) and not hasattr(kind, "__dataclass_fields__"):
        if tree is None or kind is str or kind is bytes:
            return Static(tree)
        if not kind.__flags__ & _HEAP_TYPE:
            _LEAF_KINDS.add(kind)
        leaves.append(tree)
        return LEAF
    keys, items = _items(tree)
    return Branch(kind, keys, tuple([item if isinstance(item, Static) else _flatten(item, leaves) for item in items]))


_CONTAINERS: Final = frozenset({tuple, list, dict})
_LEAF_KINDS: Final[set[type]] = set()  # types known to be leaves, of those that are never freed
_HEAP_TYPE: Final = 1 << 9


@functools.cache
def _positions(count: int) -> tuple[int, ...]:
    return tuple(range(count))


@functools.cache
def _plain_call(count: int) -> Branch:
    return Branch(tuple, _positions(count), (LEAF,) * count)


def _items(tree: Any) -> tuple[tuple[Hashable, ...], Sequence[Any]]:
    if isinstance(tree, (tuple, list)):
        return _positions(len(tree)), tree
    if isinstance(tree, dict):
        return tuple(tree), list(tree.values())
    fields = dataclasses.fields(tree)
    items = [Static(getattr(tree, field.name)) if field.metadata.get("static") else getattr(tree, field.name) for field in fields]
    return tuple(field.name for field in fields), items


def _rebuild(kind: type, keys: tuple[Hashable, ...], items: list[Any]) -> Any:
    if kind is tuple:
        return tuple(items)
    if issubclass(kind, tuple):
        return kind._make(items) if hasattr(kind, "_make") else kind(items)
    if issubclass(kind, list):
        return items if kind is list else kind(items)
    if issubclass(kind, dict):
        pairs = zip(keys, items, strict=True)
        return OrderedDict(pairs) if issubclass(kind, OrderedDict) else dict(pairs)
    # Not by the constructor: what it checks of numbers, traced arrays cannot answer.
    made = object.__new__(kind)
    for key, item in zip(keys, items, strict=True):
        object.__setattr__(made, str(key), item)
    return made


def _name(tree: Any) -> str:
    return type(tree).__name__
