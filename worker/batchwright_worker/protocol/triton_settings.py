"""Triton's trace and log settings: what is true of this server. They are read by a call and changed by none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from batchwright_worker.inference.errors import BadInput

_TRACES: Final = "no trace files are written here; traces go by OpenTelemetry, whose OTEL_ variables the server reads"
_LOG: Final = "what is logged is decided when the server starts, by LOG_LEVEL in its environment"


def trace_settings() -> dict[str, list[str]]:
    """Triton's own traces, which there are none of."""
    return {"trace_level": ["OFF"]}


def log_settings() -> dict[str, str | bool | int]:
    """Of this process; the empty file is standard error."""
    log = logging.getLogger()
    levels = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}
    return {"log_file": "", **{name: log.isEnabledFor(level) for name, level in levels.items()}, "log_verbose_level": 0}


def check_trace(wanted: Mapping[str, object]) -> None:
    """Settings that a call wants: a text or a list of texts, None or an empty list to clear it. Raises BadInput for one
    that is not so already."""
    now = trace_settings()
    for name, value in wanted.items():
        if value not in (None, []) and (value if isinstance(value, list) else [value]) != now.get(name):
            raise BadInput(f"trace setting {name!r} cannot be set: {_TRACES}; leave it out")


def check_log(wanted: Mapping[str, object]) -> None:
    """Settings that a call wants; None leaves one as it is. Raises BadInput for one that is not so already."""
    now = log_settings()
    for name, value in wanted.items():
        if value is not None and (type(value), value) != (type(now.get(name)), now.get(name)):
            raise BadInput(f"log setting {name!r} cannot be set: {_LOG}; leave it out")
