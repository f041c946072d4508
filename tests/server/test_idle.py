"""Segments between their uses: kept for their identity, within bounds, and given back."""

from __future__ import annotations

import asyncio

from gradwire_server import idle
from gradwire_server.idle import IDLE_BYTES, IDLE_S, Idle, abandon
from gradwire_server.mappings import LEAST_BYTES
from gradwire_server.segments import Segment
from tests.server.descriptors import open_count
from tests.server.requests import PATIENCE_S, until

SIZE = LEAST_BYTES


def filled(size: int = SIZE, byte: bytes = b"x") -> Segment:
    segment = Segment.create(size, is_marked=True)
    segment.write(memoryview(byte * size), 0)
    return segment


def with_idle(scenario) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scenario(Idle())

    asyncio.run(run())


def test_a_segment_is_used_again_for_its_size_and_its_identity_alone():
    async def scenario(kept: Idle) -> None:
        segment = filled()
        kept.give("me", segment)
        assert kept.nbytes == SIZE
        assert kept.take("you", SIZE) is None
        assert kept.take("me", SIZE + 1) is None
        assert bytes(kept.make("you", SIZE).buffer[:1]) == b"\0"
        assert kept.make("me", SIZE) is segment
        assert kept.nbytes == 0
        assert kept.take("me", SIZE) is None

    with_idle(scenario)


def test_what_was_not_filled_is_small_or_has_no_mark_is_not_kept():
    async def scenario(kept: Idle) -> None:
        before = open_count()
        half, small = Segment.create(SIZE, is_marked=True), filled(SIZE - 1)
        half.write(memoryview(b"x" * (SIZE // 2)), 0)
        plain = Segment.create(SIZE)
        plain.write(memoryview(b"x" * SIZE), 0)
        for segment in (half, small, plain):
            kept.give("me", segment)
            assert segment.descriptor < 0
        assert kept.nbytes == 0
        del half, small, plain, segment
        assert open_count() == before

    with_idle(scenario)


def test_what_is_kept_longest_is_given_back_for_more_than_may_be():
    async def scenario(kept: Idle) -> None:
        first, second = filled(), filled()
        view = first.buffer
        for segment in (first, second):
            kept.give("me", segment)
        kept.nbytes += IDLE_BYTES - 2 * SIZE
        kept.give("me", filled())
        assert kept.nbytes == IDLE_BYTES
        await until(lambda: first.descriptor < 0)
        assert second.descriptor >= 0
        assert bytes(view[:1]) == b"\0", "its memory is gone, though it is mapped"

    with_idle(scenario)


def test_what_is_not_used_is_given_back(monkeypatch):
    async def scenario(kept: Idle) -> None:
        monkeypatch.setattr(idle, "IDLE_S", 0.0)
        segment = filled()
        kept.give("me", segment)
        await until(lambda: segment.descriptor < 0)
        assert kept.nbytes == 0
        kept.give("me", filled())
        await until(lambda: kept.nbytes == 0)

    assert IDLE_S > 0
    with_idle(scenario)


def test_as_many_are_taken_as_there_are_in_order():
    async def scenario(kept: Idle) -> None:
        segments = [filled(), filled(2 * SIZE)]
        for segment in segments:
            kept.give("me", segment)
        assert kept.take_all("me", [2 * SIZE, 3 * SIZE, SIZE]) == segments[1:]
        assert kept.take_all("me", [SIZE]) == segments[:1]

    with_idle(scenario)


def test_what_is_abandoned_is_given_back_though_somebody_maps_it():
    async def scenario(_kept: Idle) -> None:
        large, small = filled(), filled(SIZE - 1)
        with large.share() as other:
            view = other.buffer
            abandon(large)
            abandon(small)
            await until(lambda: large.descriptor < 0)
            assert small.descriptor < 0
            assert bytes(view[:1]) == b"\0"

    with_idle(scenario)
