"""How log lines look, in every process of a server, on stderr: `time level process logger: text key=value ...`, or JSON.

A message is a text, then `key=%s` for each value: so its values are known by name without being written twice.
"""

from __future__ import annotations

import json
import logging
import re
import time

_named = re.compile(r"(\w+)=%\S+").finditer
_TIME = "%Y-%m-%dT%H:%M:%S"


def configure_logging(level: str, format: str = "text") -> None:
    """Write log lines of a level and above on stderr, with the time in UTC, as `text` or `json`."""
    handler = logging.StreamHandler()
    formatter: logging.Formatter
    if format == "json":
        formatter = JsonFormatter()
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
        formatter.default_msec_format = "%s.%03dZ"
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger = logging.getLogger("gradwire_server")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


class JsonFormatter(logging.Formatter):
    """Writes a line as a JSON object: time, level, process, logger, event, each named value, and what was raised."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        template, args = str(record.msg), record.args if isinstance(record.args, tuple) else ()
        places = {found.start(): found[1] for found in _named(template)}
        first = min(places, default=len(template))
        line: dict[str, object] = {
            "time": f"{self.formatTime(record, _TIME)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": record.process,
            "logger": record.name,
        }
        if len(args) >= len(places) == template.count("%") and places:
            line["event"] = template[:first].strip()
            line |= {name: _plain(value) for name, value in zip(places.values(), args, strict=False)}
        else:
            line["event"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _plain(value: object) -> object:
    return value if isinstance(value, (bool, int, float)) else str(value)
