"""What a terminal shows: a line written over while it is one, plain lines elsewhere."""

import io

import pytest

from gradwire_load.progress import Progress, progress_line, sparkline, summary_text
from tests.load.results import empty_result, full_result, plain_result, trial_of
from tests.load.virtual import DelayedEcho


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_tells_how_it_goes():
    trial = trial_of(DelayedEcho([5e-3]))
    line = progress_line(trial, trial.began_s + 6.5)
    assert line.startswith("    6/8 s")
    assert "p50 5.0" in line
    assert "0 failed" in line
    assert "late" not in line
    assert progress_line(trial, trial.began_s - 2.0).startswith("warm-up    2 s")


def test_a_terminal_is_written_over():
    trial, stream = trial_of(DelayedEcho([5e-3])), Terminal()
    progress = Progress(stream)
    progress.tell("starting")
    progress.show(trial)
    progress.show(trial)  # too soon
    progress.clear()
    assert stream.getvalue().count("\r\x1b[2K") == 3
    assert "\n" not in stream.getvalue()


def test_a_file_gets_lines():
    trial, stream = trial_of(DelayedEcho([5e-3])), io.StringIO()
    Progress(stream).tell("starting")
    Progress(stream).show(trial)
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(("values", "bars"), [([], ""), ([0, 0], "  "), ([1, 8, 4], "▁█▄")])
def test_a_trace_is_as_high_as_its_values(values, bars):
    assert sparkline(values) == bars


@pytest.mark.parametrize("make", [full_result, plain_result, empty_result])
def test_a_summary_has_what_matters(make):
    result = make()
    text = summary_text(result)
    assert all(word in text for word in ("answered", "latency", "service", "checked", result["verdict"]["text"]))
    assert all(item["reason"] in text for item in result["errors"])
    assert all(item["objective"] in text for item in result["slo"])
    assert ("find-max" in text) == (result["search"] is not None)
