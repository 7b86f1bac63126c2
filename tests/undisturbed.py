"""What the machine may disturb now and then, and a fault disturbs each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def undisturbed(run: Callable[[], T], good: Callable[[T], bool] = bool, tries: int = 5) -> T:
    """The first of some runs that is good, else the last: sleeps and wake-ups are late while others have the cores, or
    the machine stands still; what is wrong is so each time."""
    for _ in range(tries - 1):
        if good(found := run()):
            return found
    return run()
