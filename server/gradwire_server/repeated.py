"""Requests that ask what others have asked before, of other numbers: read and answered without parsing, alone or several as one.

Whether several are evaluated as one is a matter of what that saves: the calls of NumPy, which cost the same for one as for many.
What evaluates them is compiled once it would have saved as much as it costs. Nothing else may live here.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from gradwire_core import engine
from gradwire_core.structure.cost import Cost
from gradwire_core.transforms import Transform
from gradwire_core.types import Array, Dtype, TensorType
from gradwire_proto.tensor import check_bools
from gradwire_server.frames import Joined
from gradwire_server.skeletons import Message, Skeleton, Span, request_skeleton, response_skeleton

STACKED_COUNTS = (2, 4, 8, 16, 32, 64)
"""How many requests are evaluated as one; where there are fewer, some twice."""

_SMALL_BYTES = 4096
_MOST_BYTES = 2**16  # of a request that is worth to be stacked
_MOST_S = 2e-3
_MOST_EQUATIONS = 4000
_WEIGHT = 0.25  # of the newest measurement


@dataclass(eq=False)
class Repeated:
    """What is known of the requests of one skeleton.

    Attributes:
        digest: of their program.
        outputs: what they ask for.
        request: their skeleton.
        response: that of their answers.
        inputs: where the inputs stand, and of which types they are.
        seeds: the same of the seeds of each output.
        alone_s: the seconds that one takes by itself.
        is_stackable: whether to evaluate several as one may be faster.
        overhead_s: the seconds that one is predicted to spend on calls, whatever their sizes.
        compile_s: the seconds that compiling is expected to take.
        missed_s: the seconds that would have been saved so far by what is not compiled.
        stacked_s: the seconds that so many together take, where they have been evaluated as one.
    """

    digest: str
    outputs: tuple[engine.Output, ...]
    request: Skeleton
    response: Skeleton
    inputs: list[tuple[TensorType, Span]]
    seeds: list[list[tuple[TensorType, Span]]]
    is_stackable: bool
    overhead_s: float
    compile_s: float = 0.0
    alone_s: float = 0.0
    missed_s: float = 0.0
    stacked_s: dict[int, float] = field(default_factory=dict)

    @classmethod
    def find(
        cls,
        digest: str,
        outputs: tuple[engine.Output, ...],
        executable: engine.Executable,
        messages: tuple[bytes, bytes],
        cost: Cost,
    ) -> Self | None:
        """Return what is known of requests like one; None where they are to be parsed.

        Args:
            digest: of its program.
            outputs: what it asks for.
            executable: what answers it.
            messages: the request and its answer.
            cost: what it is predicted to take.
        """
        request, response = request_skeleton(messages[0]), response_skeleton(messages[1])
        types = [*executable.input_types, *(type for found in executable.seed_types for type in found)]
        if request is None or response is None or any(specs is not None for specs in executable.specs) or sys.byteorder != "little":
            return None
        if _sizes(types) != _lengths(request) or _sizes(executable.program.output_types) != _lengths(response):
            return None
        places = list(zip(types, request.spans, strict=True))
        inputs, rest = places[: len(executable.input_types)], iter(places[len(executable.input_types) :])
        seeds = [[next(rest) for _ in found] for found in executable.seed_types]
        return cls(digest, outputs, request, response, inputs, seeds, _is_stackable(executable, request, cost), cost.overhead)

    @property
    def largest_bytes(self) -> int:
        """The bytes of the largest result."""
        return max((end - start for start, end in self.response.spans), default=0)

    def read(self, message: Message) -> tuple[list[Array], list[list[Array]]]:
        """Return inputs and seeds of a request, in the memory of its message.

        Raises:
            ArgumentError: a bool is neither 0 nor 1.
        """
        return self._read(lambda type, span: _view(message, type, span))

    def read_all(self, messages: Sequence[Message], count: int) -> tuple[list[Array], list[list[Array]]]:
        """Return inputs and seeds of several requests, along a first axis of a length that is at least their number.

        Raises:
            ArgumentError: a bool is neither 0 nor 1.
        """
        rows = [*messages, *itertools.repeat(messages[0], count - len(messages))]

        def stack(type: TensorType, span: Span) -> Array:
            for message in messages if type.dtype is Dtype.BOOL else ():
                _view(message, type, span)
            start, end = span
            return np.ndarray((count, *type.shape), type.dtype.numpy, b"".join([row[start:end] for row in rows]))

        return self._read(stack)

    def _read(self, read: Callable[[TensorType, Span], Array]) -> tuple[list[Array], list[list[Array]]]:
        return [read(*place) for place in self.inputs], [[read(*place) for place in places] for places in self.seeds]

    def write(self, results: Sequence[Sequence[engine.Result]]) -> bytes | Joined:
        """Return the answer with some results."""
        return self._write(array for output in results for array in output)

    def write_row(self, results: Sequence[Sequence[engine.Result]], row: int) -> bytes | Joined:
        """Return the answer with one row of the results of several requests."""
        return self._write(array[row] for output in results for array in output)  # type: ignore[index,misc]  # they are dense

    def _write(self, arrays: Iterator[engine.Result]) -> bytes | Joined:
        pieces: list[bytes | memoryview] = []
        for piece, array in zip(self.response.pieces, arrays, strict=False):
            assert isinstance(array, np.ndarray | np.generic)
            pieces += piece, (array.tobytes() if array.nbytes <= _SMALL_BYTES else array.reshape(-1).view(np.uint8).data)
        pieces.append(self.response.pieces[-1])
        return b"".join(pieces) if self.response.size <= _SMALL_BYTES else Joined(pieces)

    def stacked_outputs(self, count: int) -> tuple[engine.Output, ...]:
        """Return what is asked for by so many requests as one."""
        size = len(self.inputs)
        return tuple(
            engine.Output(
                (*output.transforms, Transform("vmap", in_axes=(0,) * (size + len(seeds)), axis_size=count)), output.layout
            )
            for output, seeds in zip(self.outputs, self.seeds, strict=True)
        )

    def choose_count(self, count: int) -> int:
        """Return as how many to evaluate so many requests; 0 for one by one."""
        found = next((size for size in STACKED_COUNTS if size >= count), STACKED_COUNTS[-1])
        known_s = self.stacked_s.get(found)
        return 0 if known_s is not None and known_s >= count * self.alone_s else found

    def is_worth(self, count: int, share: float = 1.0) -> bool:
        """Tell whether to compile what evaluates so many as one: whether it would have saved a share of what that costs."""
        return self.missed_s > share * self.compile_s * (1 + count / 32)

    def miss(self, count: int) -> None:
        """Take note of so many requests that were evaluated one by one."""
        self.missed_s += (count - 1) * self.overhead_s

    def note_alone(self, seconds: float) -> None:
        """Take note of how long one took."""
        self.alone_s += (_WEIGHT if self.alone_s else 1.0) * (seconds - self.alone_s)

    def note_stacked(self, count: int, seconds: float) -> None:
        """Take note of how long so many took as one."""
        before_s = self.stacked_s.get(count)
        self.stacked_s[count] = seconds if before_s is None else before_s + _WEIGHT * (seconds - before_s)


def _is_stackable(executable: engine.Executable, request: Skeleton, cost: Cost) -> bool:
    """Tell whether to evaluate several requests as one may be faster than one by one: if they are small, and mostly calls."""
    return (
        not executable.plan.reproducible
        and bool(executable.input_types)
        and request.size <= _MOST_BYTES
        and executable.plan.peak_bytes <= _MOST_BYTES
        and len(executable.program.equations) <= _MOST_EQUATIONS
        and cost.seconds <= _MOST_S
        and cost.overhead >= cost.seconds / 2
    )


def _view(message: Message, type: TensorType, span: Span) -> Array:
    start, end = span
    array: Array = np.ndarray(type.shape, type.dtype.numpy, message, start)
    if type.dtype is Dtype.BOOL and end > start:
        check_bools(array.tobytes(), "input")
    return array


def _sizes(types: Sequence[TensorType]) -> list[int]:
    return [type.nbytes for type in types]


def _lengths(skeleton: Skeleton) -> list[int]:
    return [end - start for start, end in skeleton.spans]
