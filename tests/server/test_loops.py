"""What keeps the interpreter from the event loop of a process that serves."""

from __future__ import annotations

import gc
import sys

import pytest

from gradwire_server import loops


def test_what_was_made_before_is_left_alone_for_a_block():
    before = []
    before.append(before)
    with loops.leaving_alone():
        assert all(item is not before for item in gc.get_objects())
        after = []
        assert any(item is after for item in gc.get_objects())
    assert any(item is before for item in gc.get_objects())
    assert not gc.get_freeze_count()


def test_threads_take_short_turns_once_a_loop_runs():
    interval_s = sys.getswitchinterval()
    try:
        with loops.make_runner():
            assert sys.getswitchinterval() == pytest.approx(loops.TURN_S)
    finally:
        sys.setswitchinterval(interval_s)
