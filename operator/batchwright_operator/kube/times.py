"""Times of the Kubernetes API: metav1.Time and metav1.MicroTime from Unix seconds, and back. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=64)
def rfc3339(unix_s: float) -> str:
    """Unix seconds as metav1.Time: whole seconds, UTC."""
    return datetime.fromtimestamp(int(unix_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_milli(unix_s: float) -> str:
    """Unix seconds with milliseconds, for times that identify an event."""
    whole = datetime.fromtimestamp(round(unix_s, 3), UTC)
    return whole.strftime("%Y-%m-%dT%H:%M:%S.") + f"{whole.microsecond // 1000:03d}Z"


def micro_time(unix_s: float) -> str:
    """Unix seconds as metav1.MicroTime, which Events and Leases carry."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def unix(text: object) -> float | None:
    """RFC 3339 text as Unix seconds; None for anything else."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None
