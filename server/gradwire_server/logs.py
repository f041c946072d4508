"""How log lines look, in the front end and in workers: `time level process logger: text key=value ...`, on stderr."""

from __future__ import annotations

import logging
import time


def configure_logging(level: str) -> None:
    """Write log lines of a level and above on stderr, with the time in UTC."""
    handler = logging.StreamHandler()
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
    formatter.converter = time.gmtime
    formatter.default_msec_format = "%s.%03dZ"
    handler.setFormatter(formatter)
    logger = logging.getLogger("gradwire_server")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
