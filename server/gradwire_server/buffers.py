"""Memory through which one side of a connection sends large parts of frames, again and again.

To take new memory and to map it anew costs ten times what it costs to copy to it. So a buffer is used again once the other side has
read the frame that it was last used for. Nothing else may live here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwire_server.segments import Segment

SHARED_BYTES: Final = 32 * 2**20
"""The most memory that a side keeps to send large parts through; what does not fit takes a segment of its own."""

_LEAST_BYTES = 2**20


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory that both sides map.

    Attributes:
        number: of the buffer; a new one may take the number of one that is let go.
        segment: its memory.
        frame: the number of the frame that it was last used for; 0 before.
    """

    number: int
    segment: Segment
    frame: int = 0

    @property
    def is_new(self) -> bool:
        """Whether the other side does not know it yet."""
        return not self.frame


class Buffers:
    """The buffers of a side that sends."""

    def __init__(self) -> None:
        self._all: list[Buffer] = []

    def take(self, size: int, read_count: int) -> Buffer | None:
        """Return a buffer for so many bytes; None where all are in use, and another would be too much.

        Args:
            size: the bytes.
            read_count: how many frames the other side has read.

        Raises:
            OSError: the system has no descriptor or memory left.
        """
        free = [item for item in self._all if item.frame <= read_count]
        fitting = [item for item in free if item.segment.size >= size]
        if fitting:
            return min(fitting, key=lambda item: item.segment.size)
        made_bytes = max(_LEAST_BYTES, 1 << (size - 1).bit_length())
        left = max(free, key=lambda item: item.segment.size, default=None)
        kept_bytes = sum(item.segment.size for item in self._all if item is not left)
        if kept_bytes + made_bytes > SHARED_BYTES:
            return None
        number = len(self._all) if left is None else left.number
        made = Buffer(number, Segment.create(made_bytes))
        if left is not None:
            left.segment.close()
        self._all[number : number + 1] = [made]
        return made

    def forget(self, buffer: Buffer) -> None:
        """Let go of the memory of a new buffer that the other side was not told of; another will take its number."""
        buffer.segment.close()
        buffer.segment = Segment(-1, 0)

    def close(self) -> None:
        """Let go of all."""
        for item in self._all:
            item.segment.close()
        self._all.clear()
