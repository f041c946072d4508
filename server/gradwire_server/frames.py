"""What the front end and a worker say to each other: frames. `channel` says how they travel.

The front end sends CONFIGURE once, then tasks, one at a time; the worker answers every frame by one frame.

    CONFIGURE           settings (JSON)                                                  -> READY
    COMPILE             request id, EvaluateRequest without inputs                       -> READY | ERROR
    CREATE_PROGRAM      request id, CreateProgramRequest                                 -> RESULT | ERROR
    EVALUATE            request id, EvaluateRequest [, stored program, segment, ...]     -> RESULT | MISSING | ERROR
                                                                                         or SPLIT
    EVALUATE_IN_CHUNKS  the same                                                         -> as EVALUATE
    EVALUATE_SHARD      the same, of which nothing is split                              -> RESULT in chunks | MISSING | ERROR
    DIFFERENTIATE       request id, DifferentiateRequest [, stored program]              -> RESULT | MISSING | ERROR
    EXPLAIN             request id, ExplainRequest [, stored program]                    -> RESULT | MISSING | ERROR
    BATCH               outline, parts of EVALUATE tasks that are alike                  -> BATCH: their answers, in order

    READY               no parts
    RESULT              program name, response [, stored program, summary: when the program came with the request]
    RESULT, in chunks   program name, response, stored program or nothing, summary or nothing, segment, ...
    SPLIT               program name, stored program or nothing, summary or nothing, outline, stored program of shards, ...,
                        EvaluateRequest of each shard, ..., segment, ...: it takes more than a worker may; see `shards`
    MISSING             program name: the worker does not hold it; repeat the task with the stored program
    ERROR               google.rpc.Status

A stored program is a serialized GetProgramResponse, or nothing where it need not be told; a summary is a serialized
ProgramSummary. The segments of a task hold the elements of its tensors that are named or came in chunks: inputs first, then
the seeds of each output, in order. What segments are left over is memory, all of it there, that the answer may use for its
own, the first for the first, where they are as large. Those of an answer hold the elements of each tensor of more than
CHUNKED_BYTES, which the response leaves out, in its order. Every answer tells what it took, and the RESULT of an evaluation
what it was predicted to take. Nothing else may live here.
"""

from __future__ import annotations

import enum
import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from gradwire_server.segments import Segment

CHUNKED_BYTES = 2**20
"""Elements of more bytes travel apart from the message that holds their tensor, in what is answered in chunks."""

COST_FORMAT = "dq??5dI"
"""How `struct` writes what a frame tells of cost."""

_MEMBER = struct.Struct(f"<II{COST_FORMAT}")


class Kind(enum.IntEnum):
    """What a frame means."""

    CONFIGURE = 1
    CREATE_PROGRAM = 2
    EVALUATE = 3
    DIFFERENTIATE = 4
    EXPLAIN = 5
    READY = 6
    RESULT = 7
    MISSING = 8
    ERROR = 9
    EVALUATE_IN_CHUNKS = 10
    BATCH = 11
    COMPILE = 12
    SPLIT = 13
    EVALUATE_SHARD = 14


@dataclass(frozen=True, slots=True)
class Joined:
    """Bytes in several pieces, one behind the other; they arrive as one part."""

    pieces: Sequence[bytes | memoryview]

    def __len__(self) -> int:
        return sum(piece.nbytes if isinstance(piece, memoryview) else len(piece) for piece in self.pieces)

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


Part: TypeAlias = bytes | memoryview | Joined | Segment
"""What a frame holds. Views are of bytes; all but segments arrive as bytes, or as a view that holds until the next frame."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What an evaluation is predicted to take, known before it runs.

    Attributes:
        seconds: of one core.
        peak_bytes: bytes held at a time.
        is_stackable: whether to evaluate several of them together may be faster than one by one.
    """

    seconds: float
    peak_bytes: int
    is_stackable: bool = False


class Timings(NamedTuple):
    """What an answer took, one part after the other, all in seconds.

    Attributes:
        wait_s: until a worker was at it.
        decode_s: to read the request.
        compile_s: to compile what answers it.
        run_s: to compute.
        encode_s: to write the answer.
        batch_count: how many requests were answered together in that time.
    """

    wait_s: float = 0.0
    decode_s: float = 0.0
    compile_s: float = 0.0
    run_s: float = 0.0
    encode_s: float = 0.0
    batch_count: int = 1

    @property
    def taken_s(self) -> float:
        """The seconds that the worker was at this one request, compiling apart."""
        return (self.decode_s + self.run_s + self.encode_s) / self.batch_count


NO_TIME = Timings()


@dataclass(frozen=True, slots=True)
class Frame:
    """One message between the front end and a worker.

    Attributes:
        kind: what it means.
        parts: what it holds.
        prediction: what the evaluation it answers was predicted to take; None where nothing was evaluated.
        timings: what it took.
        was_cached: whether what evaluated it had been compiled before.
    """

    kind: Kind
    parts: tuple[Part, ...] = ()
    prediction: Prediction | None = field(default=None, compare=False)
    timings: Timings = field(default=NO_TIME, compare=False)
    was_cached: bool = field(default=False, compare=False)

    @property
    def segments(self) -> Iterator[Segment]:
        """The parts that are segments."""
        return (part for part in self.parts if isinstance(part, Segment))

    def close(self) -> None:
        """Let go of the segments."""
        for segment in self.segments:
            segment.close()


def join_frames(frames: Sequence[Frame]) -> Frame:
    """Return one frame of several."""
    outline = b"".join(_MEMBER.pack(frame.kind, len(frame.parts), *pack_cost(frame)) for frame in frames)
    return Frame(Kind.BATCH, (outline, *(part for frame in frames for part in frame.parts)))


def split_frame(frame: Frame) -> list[Frame]:
    """Return the frames that were joined to one.

    Raises:
        ValueError, struct.error: it is no such frame.
    """
    if frame.kind is not Kind.BATCH or not frame.parts:
        raise ValueError(frame.kind)
    parts = iter(frame.parts)
    outline = bytes(next(parts))  # type: ignore[arg-type]  # a segment is no outline, and fails
    found = []
    for kind, count, *cost in _MEMBER.iter_unpack(outline):
        members = tuple(itertools.islice(parts, count))
        if len(members) < count:
            raise ValueError(count)
        found.append(Frame(Kind(kind), members, *unpack_cost(*cost)))
    return found


def pack_cost(frame: Frame) -> tuple[float, ...]:
    """Return what a frame tells of cost as numbers."""
    found = frame.prediction
    if found is None:
        return 0.0, -1, False, frame.was_cached, *frame.timings
    return found.seconds, found.peak_bytes, found.is_stackable, frame.was_cached, *frame.timings


def unpack_cost(
    predicted_s: float, peak_bytes: int, is_stackable: bool, was_cached: bool, *timings: float
) -> tuple[Prediction | None, Timings, bool]:
    """Return what numbers tell of cost."""
    prediction = None if peak_bytes < 0 else Prediction(predicted_s, peak_bytes, is_stackable)
    return prediction, Timings._make(timings), was_cached
