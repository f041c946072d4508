"""What travels between the front end and a worker: frames over a stream socket, written and read from either side.

    frame ::= kind: uint32, count: uint32, length: uint64 for each part, then the parts; all little-endian

The front end sends CONFIGURE once, then tasks, one at a time; the worker answers every frame by one frame.

    CONFIGURE        settings (JSON)                                  -> READY
    CREATE_PROGRAM   request id, CreateProgramRequest                 -> RESULT | ERROR
    EVALUATE         request id, EvaluateRequest [, stored program]   -> RESULT | MISSING | ERROR
    DIFFERENTIATE    request id, DifferentiateRequest [, the same]    -> RESULT | MISSING | ERROR
    EXPLAIN          request id, ExplainRequest [, the same]          -> RESULT | MISSING | ERROR

    READY            no parts
    RESULT           program name, response [, stored program, summary: when the program came with the request]
    MISSING          program name: the worker does not hold it; repeat the task with the stored program
    ERROR            google.rpc.Status

A stored program is a serialized GetProgramResponse, a summary a serialized ProgramSummary. Nothing else may live here.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from dataclasses import dataclass

_HEAD = struct.Struct("<II")
_SMALL_BYTES = 64 * 1024


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


@dataclass(frozen=True, slots=True)
class Frame:
    """One message between the front end and a worker."""

    kind: Kind
    parts: tuple[bytes, ...] = ()

    def encode(self) -> list[bytes]:
        """Return the buffers to be written, in order."""
        lengths = struct.pack(f"<{len(self.parts)}Q", *map(len, self.parts))
        return [_HEAD.pack(self.kind, len(self.parts)) + lengths, *self.parts]


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Read one frame on the side of the front end.

    Raises:
        asyncio.IncompleteReadError: the worker is gone.
    """
    kind, count = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    lengths = struct.unpack(f"<{count}Q", await reader.readexactly(8 * count))
    return Frame(Kind(kind), tuple([await reader.readexactly(length) for length in lengths]))


def receive_frame(connection: socket.socket) -> Frame | None:
    """Read one frame on the side of the worker; None when the front end is gone."""
    try:
        kind, count = _HEAD.unpack(_receive(connection, _HEAD.size))
        lengths = struct.unpack(f"<{count}Q", _receive(connection, 8 * count))
        return Frame(Kind(kind), tuple(_receive(connection, length) for length in lengths))
    except (EOFError, ConnectionError):
        return None


def send_frame(connection: socket.socket, frame: Frame) -> None:
    """Write one frame on the side of the worker.

    Raises:
        OSError: the front end is gone.
    """
    buffers = frame.encode()
    if sum(map(len, buffers)) <= _SMALL_BYTES:
        buffers = [b"".join(buffers)]
    for buffer in buffers:
        connection.sendall(buffer)


def _receive(connection: socket.socket, size: int) -> bytes:
    if not size:
        return b""
    data = connection.recv(size, socket.MSG_WAITALL)
    return data if len(data) == size else _receive_rest(connection, data, size)


def _receive_rest(connection: socket.socket, start: bytes, size: int) -> bytes:
    parts, missing = [start], size - len(start)
    while missing:
        if not parts[-1]:
            raise EOFError
        parts.append(connection.recv(missing, socket.MSG_WAITALL))
        missing -= len(parts[-1])
    return b"".join(parts)
