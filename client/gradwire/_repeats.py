"""Which large arrays come again, as the data set of a fit does at every step. Nothing here does I/O.

Those are stored at the server and named. A name is a digest, and finding it takes longer than sending the array does where the
server is near; so an array is first compared, at the speed of memory, with copies of those that came before. One that comes for the
first time is taken to come again, unless the request differentiates in it, or another came in its place before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from gradwire._task import Task
from gradwire_core.types import Array, TensorType
from gradwire_proto.tensor import encode_name
from gradwire_proto.v1 import tensor_pb2

PLACE_LIMIT = 4096  # inputs of programs about which it is known whether the same comes again
ALIKE_LIMIT = 8  # copies of one type


class Kept:
    """A copy of an array that came, in row-major order.

    Attributes:
        type: its type.
        data: its bytes.
    """

    def __init__(self, type: TensorType, little: Array) -> None:
        self.type = type
        self.data = bytearray(little.data)
        self._message: tensor_pb2.Tensor | None = None

    @property
    def message(self) -> tensor_pb2.Tensor:
        """The message that names it; found once."""
        if self._message is None:
            self._message = encode_name(np.ndarray(self.type.shape, self.type.dtype.numpy, self.data))
        return self._message

    @property
    def name(self) -> str:
        """The name that it has where it is stored."""
        return self.message.name


class Repeats:
    """What came before. Safe to use from threads.

    Args:
        min_bytes: smaller arrays are not looked at.
        limit_bytes: the copies hold at most this many bytes; the longest unseen leave.
    """

    def __init__(self, min_bytes: int, limit_bytes: int) -> None:
        self._min_bytes = min_bytes
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._alike: dict[TensorType, list[Kept]] = {}
        self._repeats: OrderedDict[tuple[str, int], bool] = OrderedDict()

    def find(self, task: Task) -> dict[int, Kept]:
        """Return the inputs of a task that are to be named, by their numbers."""
        if not self._limit_bytes:
            return {}
        found: dict[int, Kept] = {}
        for number, array in enumerate(task.inputs):
            if self._min_bytes <= array.nbytes <= self._limit_bytes:
                kept = self._see(task, number, array)
                if kept is not None:
                    found[number] = kept
        return found

    def _see(self, task: Task, number: int, array: Array) -> Kept | None:
        """Note an array; return its copy if it is to be named."""
        place = (task.program.digest, number)
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        with self._lock:
            kept = self._equal(little)
            expected = self._repeats.get(place)
            if expected is None:
                expected = not is_differentiated(task, number)
            is_new = kept is None
            if kept is None:
                kept = self._keep(little)
            else:
                self._kept.move_to_end(id(kept))
            self._repeats[place] = not is_new
            self._repeats.move_to_end(place)
            if len(self._repeats) > PLACE_LIMIT:
                self._repeats.popitem(last=False)
        return kept if expected or not is_new else None

    def _equal(self, little: Array) -> Kept | None:
        for kept in self._alike.get(TensorType.of(little), ()):
            if kept.data.__eq__(little) is True:  # in place; the first difference ends it
                return kept
        return None

    def _keep(self, little: Array) -> Kept:
        type = TensorType.of(little)
        kept = Kept(type, little)
        alike = self._alike.setdefault(type, [])
        alike.insert(0, kept)
        self._kept[id(kept)] = kept
        self._held_bytes += len(kept.data)
        if len(alike) > ALIKE_LIMIT:
            self._drop(min(alike, key=list(self._kept.values()).index))
        while self._held_bytes > self._limit_bytes:
            self._drop(next(iter(self._kept.values())))
        return kept

    def _drop(self, kept: Kept) -> None:
        del self._kept[id(kept)]
        self._held_bytes -= len(kept.data)
        alike = self._alike[kept.type]
        alike.remove(kept)
        if not alike:
            del self._alike[kept.type]


def is_differentiated(task: Task, number: int) -> bool:
    """Whether a task differentiates in an input: such an input is what a caller varies."""
    transforms: Any = (transform for output in task.outputs for transform in output.transforms)
    return any(number in transform.argnums for transform in transforms)
