"""Log lines: as text, and as JSON with every value by its name."""

from __future__ import annotations

import json
import logging

import pytest

from gradwire_server.logs import JsonFormatter, configure_logging


def line(template, *args, **fields):
    record = logging.LogRecord("gradwire_server.x", logging.INFO, "", 0, template, args, fields.get("exc_info"))
    return json.loads(JsonFormatter().format(record))


def test_a_line_of_json_names_every_value():
    found = line("call rpc=%s code=%s request_id=%s seconds=%.6f", "Evaluate", "OK", "a\nb", 0.25)
    assert {"event": "call", "rpc": "Evaluate", "code": "OK", "request_id": "a\nb", "seconds": 0.25}.items() <= found.items()
    assert {"level", "logger", "process", "time"} < found.keys()
    assert found["time"].endswith("Z")


@pytest.mark.parametrize(
    ("template", "args", "event"),
    [
        ("tokens read", (), "tokens read"),
        ("starting %s", ("a=b",), "starting a=b"),
        ("open to %s x=%s", ("all", 1), "open to all x=1"),
    ],
)
def test_what_names_no_value_is_an_event(template, args, event):
    assert line(template, *args)["event"] == event


def test_what_was_raised_is_in_the_line():
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        found = line("failed rpc=%s", "Evaluate", exc_info=(type(error), error, error.__traceback__))
    assert found["event"] == "failed"
    assert "ZeroDivisionError: division by zero" in found["exception"]


@pytest.mark.parametrize("format", ["text", "json"])
def test_lines_go_to_stderr(format, capfd):
    logger = logging.getLogger("gradwire_server")
    before = logger.handlers[:], logger.level, logger.propagate
    try:
        configure_logging("info", format)
        logger.info("worker ended pid=%d", 7)
        logger.debug("not this")
    finally:
        logger.handlers[:], level, logger.propagate = before
        logger.setLevel(level)
    written = capfd.readouterr().err
    assert written.count("\n") == 1
    assert (json.loads(written)["pid"] == 7) if format == "json" else written.endswith("gradwire_server: worker ended pid=7\n")
