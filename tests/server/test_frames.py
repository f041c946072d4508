import asyncio
import socket
import threading

import pytest

from gradwire_server.frames import Frame, Kind, read_frame, receive_frame, send_frame

FRAMES = [
    Frame(Kind.READY),
    Frame(Kind.EVALUATE, (b"id", b"", b"program")),
    Frame(Kind.RESULT, (b"name", bytes(range(256)) * 2**14)),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.kind.name)
def test_a_frame_arrives_at_the_worker_as_it_was_written(frame):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = threading.Thread(target=ours.sendall, args=(b"".join(frame.encode()),))
        writer.start()
        assert receive_frame(theirs) == frame
        writer.join()


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.kind.name)
def test_a_frame_arrives_at_the_front_end_as_it_was_written(frame):
    async def read(connection: socket.socket) -> Frame:
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        found = await read_frame(reader)
        writer.close()
        await writer.wait_closed()
        return found

    ours, theirs = socket.socketpair()
    with theirs:
        writer = threading.Thread(target=send_frame, args=(theirs, frame))
        writer.start()
        assert asyncio.run(read(ours)) == frame
        writer.join()


@pytest.mark.parametrize("length", [0, 4, 20])
def test_a_worker_takes_a_broken_off_frame_for_the_end(length):
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(b"".join(FRAMES[1].encode())[:length])
        assert receive_frame(theirs) is None
