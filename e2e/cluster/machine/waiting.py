"""Waiting for something to become true, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(probe: Callable[[], T | None], *, timeout_s: float, interval_s: float = 0.05) -> T | None:
    """The first true answer of `probe`, or None if there was none in `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (answer := probe()):
        if time.monotonic() > deadline:
            return None
        time.sleep(interval_s)
    return answer
