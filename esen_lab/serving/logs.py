"""What a server logs, as lines of JSON: {"at": ..., "level": ..., "message": ..., and what goes with it}."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

from esen_lab.terminal import visible_line

NAME = "esen_lab.serving"
_OWN = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
logging.getLogger(NAME).addHandler(logging.NullHandler())  # a notebook prints what it asked for


class AsJson(logging.Formatter):
    """One line for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON in ASCII: nothing in it steers a terminal or begins another line."""
        told = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": visible_line(record.getMessage()),
        }
        told |= {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str).replace("\x7f", "\\u007f")


def log_as_json(level: str, stream: TextIO) -> None:
    """Have everything that servers log written as JSON; again, it takes the place of the time before."""
    logger = logging.getLogger(NAME)
    for handler in [handler for handler in logger.handlers if isinstance(handler.formatter, AsJson)]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(AsJson())
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
