"""Logs of the operator's process: text for people, JSON lines for collectors."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Final

LOG_FORMATS: Final = ("text", "json")


class JsonLines(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        """time, level, logger, message, and the traceback if there is one."""
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _soften(record: logging.LogRecord) -> bool:
    """A filter that makes kopf's errors warnings: kopf tries again, or exits and is started again."""
    if record.name.startswith("kopf.") and record.levelno >= logging.ERROR:
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.exc_info = None
    return True


def start_logging(log_format: str, *, verbose: bool = False) -> None:
    """Logs to stderr. Of kopf, aiohttp and asyncio only warnings and errors: they decide nothing here."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if log_format == "json" else text)
    handler.addFilter(_soften)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    for name in ("kopf", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # kopf has a thread of its own here, and the process handles its signals itself.
    logging.getLogger("kopf._core.reactor.running").addFilter(lambda record: "signals are ignored" not in record.msg)
