"""Messages without the elements of their tensors: what many requests that ask the same of other numbers have in common.

Where two requests have one skeleton, they name the same program, ask for the same outputs at inputs of the same types, and their
answers have one skeleton too. To see that takes a few comparisons of bytes; nothing is parsed. Nothing else may live here.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from gradwire_server.wire import LENGTH, WireError, fields

T = TypeVar("T")
Span: TypeAlias = tuple[int, int]
Message: TypeAlias = bytes | memoryview

_PREFIX_BYTES = 75  # what a named program takes at the beginning of a request
_TENSOR_COUNT = 100
_SKELETON_BYTES = 4096  # longer ones are not worth to be compared
_ALIKE_COUNT = 8  # skeletons of one length and beginning
_PROGRAM_NAME, _INPUTS, _OUTPUTS, _REPRODUCIBLE = 1, 3, 4, 5  # of an EvaluateRequest
_KNOWN_FIELDS = frozenset({_PROGRAM_NAME, _INPUTS, _OUTPUTS, _REPRODUCIBLE})
_SEEDS = 3  # of an Output
_DATA = 3  # of a Tensor


class Skeleton(NamedTuple):
    """A message without the elements of its tensors.

    Attributes:
        size: the bytes of the message.
        pieces: its bytes before, between and behind the elements.
        spans: where these begin and end, tensor by tensor.
    """

    size: int
    pieces: tuple[bytes, ...]
    spans: tuple[Span, ...]

    def fits(self, message: Message) -> bool:
        """Tell whether a message of the same size is the same but for the elements."""
        place = 0
        for piece, (start, end) in zip(self.pieces, self.spans, strict=False):
            if message[place:start] != piece:
                return False
            place = end
        return message[place:] == self.pieces[-1]


def request_skeleton(message: bytes) -> Skeleton | None:
    """Return the skeleton of a serialized EvaluateRequest; None where it has none that others could have.

    Such a request brings its program, or names it behind its tensors, or has many of these, or in an order of its own.
    """
    whole = (0, len(message))
    try:
        numbers = [number for number, *_ in itertools.islice(fields(message), _TENSOR_COUNT + 1)]
        if len(numbers) > _TENSOR_COUNT or not _KNOWN_FIELDS.issuperset(numbers):
            return None
        tensors = itertools.chain(_walk(message, whole, _INPUTS), _walk(message, whole, _OUTPUTS, _SEEDS))
        found = _skeleton(message, list(itertools.islice(tensors, _TENSOR_COUNT + 1)))
    except WireError:
        return None
    return None if found is None or len(found.pieces[0]) < _PREFIX_BYTES else found


def whole_skeleton(message: bytes) -> Skeleton | None:
    """Return the skeleton of a message that only the same message has; None where it is too long."""
    return Skeleton(len(message), (message,), ()) if len(message) <= _SKELETON_BYTES else None


def response_skeleton(message: bytes) -> Skeleton | None:
    """Return the skeleton of a serialized EvaluateResponse whose results are dense."""
    return _skeleton(message, list(_walk(message, (0, len(message)), 2, 1, 1)))


def _skeleton(message: bytes, tensors: list[Span]) -> Skeleton | None:
    spans = tuple(_data(message, tensor) for tensor in tensors)
    if list(spans) != sorted(spans) or len(spans) > _TENSOR_COUNT:
        return None
    ends, starts = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(message)]
    if sum(starts) - sum(ends) > _SKELETON_BYTES:
        return None
    return Skeleton(len(message), tuple(bytes(message[end:start]) for end, start in zip(ends, starts, strict=True)), spans)


def _walk(message: bytes, span: Span, *path: int) -> Iterator[Span]:
    """Yield where the fields of a path of numbers begin and end, in the order of the message."""
    if not path:
        yield span
        return
    for number, written_as, value, place in fields(message, *span):
        if number == path[0] and written_as == LENGTH:
            yield from _walk(message, (value, place), *path[1:])


def _data(message: bytes, tensor: Span) -> Span:
    """Return where the elements of a tensor begin and end."""
    found = (tensor[1], tensor[1])
    for span in _walk(message, tensor, _DATA):
        found = span
    return found


class Skeletons(Generic[T]):
    """What is known of requests by their skeletons; the least recently used leave first.

    Args:
        max_count: how many lengths and beginnings of requests are known at most.
    """

    def __init__(self, max_count: int) -> None:
        self._max_count = max_count
        self._known: OrderedDict[tuple[int, bytes], list[tuple[Skeleton, T]]] = OrderedDict()
        self._last: tuple[Skeleton, T] | None = None

    def find(self, message: Message) -> T | None:
        """Return what is known of requests like a serialized one."""
        size, last = len(message), self._last
        if last is not None and last[0].size == size and last[0].fits(message):
            return last[1]  # it is the most recently used
        key = (size, bytes(message[:_PREFIX_BYTES]))
        for item in self._known.get(key, ()):
            if item[0].fits(message):
                self._known.move_to_end(key)
                self._last = item
                return item[1]
        return None

    def put(self, skeleton: Skeleton, value: T) -> None:
        """Take note of something, in place of what was known of the skeleton."""
        key = (skeleton.size, skeleton.pieces[0][:_PREFIX_BYTES])
        found = [item for item in self._known.get(key, ()) if item[0] != skeleton]
        self._known[key] = [*found[-_ALIKE_COUNT + 1 :], (skeleton, value)]
        self._known.move_to_end(key)
        self._last = None
        if len(self._known) > self._max_count:
            self._known.popitem(last=False)
