import struct

import pytest

from gradwire_server.frames import Frame, Joined, Kind, Prediction, Timings, join_frames, split_frame

FRAMES = [
    Frame(Kind.RESULT, (b"name", b"response"), Prediction(0.5, 80), Timings(0.25, run_s=0.5, batch_count=2)),
    Frame(Kind.ERROR, (b"",)),
    Frame(Kind.READY),
]


@pytest.mark.parametrize("frames", [FRAMES, FRAMES[:1], []])
def test_joined_frames_come_apart_again(frames):
    found = split_frame(join_frames(frames))
    assert found == frames
    assert [(frame.prediction, frame.timings) for frame in found] == [(frame.prediction, frame.timings) for frame in frames]


@pytest.mark.parametrize("frame", [FRAMES[0], Frame(Kind.BATCH), Frame(Kind.BATCH, join_frames(FRAMES).parts[:2])])
def test_what_was_not_joined_does_not_come_apart(frame):
    with pytest.raises((ValueError, struct.error)):
        split_frame(frame)


def test_pieces_are_as_long_as_their_bytes():
    joined = Joined((b"ab", memoryview(b"cde"), b""))
    assert len(joined) == 5
    assert bytes(joined) == b"abcde"
