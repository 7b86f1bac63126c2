"""How long a run or a load may take before its runtime is taken for hung. Pure.

What takes far longer than predicted is not slow but stuck: its runtime is ended, and what it worked on is treated as if
it had crashed. The floors are generous, because ending a runtime that would have answered costs an answer: the first
run of a new size may compile kernels, a machine may stand still for seconds.
"""

from __future__ import annotations

from typing import Final

MULTIPLE: Final = 20.0
"""Times of what the fit predicts."""
KNOWN_S: Final = 30.0
"""The least limit of a run of a size that has run before, ..."""
UNKNOWN_S: Final = 60.0
"""... of one that has not, ..."""
ISOLATED_S: Final = 10.0
"""... and of rows that are run apart because a runtime was lost under them: that they are slow is no news then, and the
device's other models wait for the end of the search."""
FIRST_LOAD_S: Final = 600.0
"""The limit of a load while nothing is known of it: weights may come over a network."""
LOAD_S: Final = 60.0
"""The least limit of a later one."""
UNLOAD_S: Final = 30.0


def run_limit_s(given_s: float | None, predicted_s: float, *, known: bool, isolated: bool = False) -> float:
    """Seconds that a run may take; `given_s`: what the manifest says; `known`: has a run of this size ended well?"""
    if given_s is not None:
        return given_s
    floor_s = UNKNOWN_S if not known else ISOLATED_S if isolated else KNOWN_S
    return max(floor_s, MULTIPLE * predicted_s)


def load_limit_s(given_s: float | None, measured_s: float | None) -> float:
    """Seconds that a load may take; `measured_s`: what earlier ones took, None before the first."""
    if given_s is not None:
        return given_s
    return FIRST_LOAD_S if measured_s is None else max(LOAD_S, MULTIPLE * measured_s)
