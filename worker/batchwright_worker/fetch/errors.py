"""Errors of fetching, by what the caller does next.

FetchError
+-- FetchRefused  against the rules, wrong or missing: never try again; the message says what to change
|   +-- NoSpace       the disk is full
|   +-- NotCached     the cache of weights cannot take it: fetch it past the cache
+-- Interrupted   the network or the server failed: try again from where it stopped
"""

from __future__ import annotations

from batchwright_worker.api.uris import without_secrets


class FetchError(Exception):
    """An artifact is not there. The message has no secrets of its address, or of one that that led to."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


class FetchRefused(FetchError):  # noqa: N818 - the tree reads better without the suffix
    """No retry can help."""


class NoSpace(FetchRefused):
    """Not on this volume."""


class NotCached(FetchRefused):
    """Not through the cache; the message says why."""


class Interrupted(FetchError):  # noqa: N818
    """A retry may help; `retry_after_s` is what the server asked for."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
