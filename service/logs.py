"""What a service says of itself: JSON lines on standard error, with the request's id, and no word of a user's text.

Our own messages never hold any. Other people's may: a library quotes what it chokes on. So a line of theirs says where
it comes from and how grave it is, and no more; and what Python itself would print of an exception that nobody catches
becomes a line with its type and place.
"""

import logging
import sys
import threading
from contextvars import ContextVar
from typing import Any

import orjson

from service.problem import crash_site

LOG = logging.getLogger("service")
OURS = frozenset({"service", "judge_service", "reward_service", "wire", "uvicorn"})
REQUEST = ContextVar("request_id", default="")
"""The id of the request that is served; the gate sets it."""


class JsonLines(logging.Formatter):
    """One JSON object per record; access records are JSON already and become its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {"time": self.formatTime(record), "level": record.levelname, "logger": record.name}
        if request_id := REQUEST.get():
            line["request_id"] = request_id
        if record.name == "service.access":
            line.update(orjson.loads(record.getMessage()))
        elif record.name.partition(".")[0] in OURS:
            line["message"] = record.getMessage().encode("utf-8", "backslashreplace").decode()
        else:
            line["at"] = f"{record.filename}:{record.lineno}"
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__  # the message and the frames may hold the user's text
        return orjson.dumps(line).decode()


def log_config(level: str) -> dict[str, Any]:
    """Return the logging configuration: JSON lines on standard error, other people's from WARNING on."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": "ERROR" if level == "ERROR" else "WARNING"},
        "loggers": {name: {"level": level} for name in sorted(OURS)},
    }


def catch_all() -> None:
    """Have warnings, and exceptions that end a thread or cannot be raised, told as lines without their messages."""
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    threading.excepthook = _thread_ended
    sys.unraisablehook = _not_raised


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    where = ended.thread.name if ended.thread else "a thread"
    LOG.error("%s ended: %s", where, crash_site(ended.exc_value) if ended.exc_value else ended.exc_type.__name__)


def _not_raised(failed: "sys.UnraisableHookArgs") -> None:
    LOG.error("not raised: %s", crash_site(failed.exc_value) if failed.exc_value else failed.exc_type.__name__)
