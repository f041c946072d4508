"""What runs in an actor of Ray: a worker, asked by calls. It imports no gRPC, not even indirectly.

    call     kind, marks, part, ...           kind of a frame, a mark for each part: whether it is a segment, and the parts
    answer   kind, marks, cost, part, ...     the same, and what the frame tells of cost

Parts are bytes, or arrays of bytes where they are many: all that Ray makes of what a client sent is copies of bytes.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradwire_server.capabilities import package_version
from gradwire_server.channel import SMALL_BYTES
from gradwire_server.config import ServerConfig
from gradwire_server.frames import COST_FORMAT, Frame, Joined, Kind, Part, pack_cost, unpack_cost
from gradwire_server.logs import configure_logging
from gradwire_server.memory import MemoryBound
from gradwire_server.segments import Segment
from gradwire_server.worker import Worker

Carried: TypeAlias = bytes | NDArray[np.uint8]
"""A part on its way."""

_COST = struct.Struct(f"<{COST_FORMAT}")


class RayWorker:
    """A worker that is asked by calls, one at a time."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def configure(self, settings: bytes) -> tuple[int, str]:
        """Take the settings; return the id of this process, and the version of what it runs."""
        config = ServerConfig.from_json(settings)
        config = dataclasses.replace(config, cache_folder="")  # that of the front end is on its machine
        configure_logging(config.log_level, config.log_format)
        os.nice(config.worker_niceness)
        self._worker = Worker(config, MemoryBound(config.worker_memory_limit_bytes))
        return os.getpid(), package_version()

    def answer(self, kind: int, marks: bytes, *parts: Carried) -> tuple[Any, ...]:
        """Answer a task."""
        assert self._worker is not None
        task = Frame(Kind(kind), tuple(receive_parts(marks, parts)))
        with np.errstate(all="ignore"):  # NaN and inf are results
            answer = self._worker.answer(task)
        found = tuple(map(carry, answer.parts))
        answer.close()
        return int(answer.kind), mark_parts(answer.parts), _COST.pack(*pack_cost(answer)), *found

    def node(self) -> str:
        """Return the id of the node that this process is on."""
        import ray  # which has started it

        found: str = ray.get_runtime_context().get_node_id()
        return found

    def live(self) -> None:
        """Return never: that the call fails tells that this process has ended."""
        threading.Event().wait()


def mark_parts(parts: Iterable[Part]) -> bytes:
    """Return which parts are segments."""
    return bytes(isinstance(part, Segment) for part in parts)


def carry(part: Part) -> Carried:
    """Return a part as it is carried; what shares its memory keeps that."""
    if isinstance(part, Joined):
        part = bytes(part)
    view = part.buffer if isinstance(part, Segment) else memoryview(part)
    return bytes(view) if view.nbytes <= SMALL_BYTES else np.frombuffer(view, np.uint8)


def receive_parts(marks: bytes, parts: Iterable[Carried], *, in_place: bool = True) -> Iterator[Part]:
    """Yield the parts that were carried.

    Args:
        marks: which are segments.
        parts: as they came.
        in_place: whether segments share the memory of what came; else they have their own, which can be passed on.
    """
    for is_segment, part in zip(marks, parts, strict=True):
        view = memoryview(part)  # type: ignore[arg-type]  # of an array, which NumPy types as none
        if not is_segment:
            yield bytes(view) if view.nbytes <= SMALL_BYTES else view
        elif in_place:
            yield Segment.over(view)
        else:
            segment = Segment.create(view.nbytes)
            segment.buffer[:] = view
            yield segment


def receive_answer(found: tuple[Any, ...], *, in_place: bool) -> Frame:
    """Return the frame of an answer; `in_place` as for `receive_parts`."""
    kind, marks, cost, *parts = found
    return Frame(Kind(kind), tuple(receive_parts(marks, parts, in_place=in_place)), *unpack_cost(*_COST.unpack(cost)))
