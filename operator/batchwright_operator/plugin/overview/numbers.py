"""Numbers out of statuses, where fractions are decimal strings and anything may be missing or strange; pure."""

from __future__ import annotations

from math import isfinite


def number(value: object) -> float | None:
    """A finite number, from a number or a decimal string; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if isfinite(found) else None


def whole(value: object, default: int | None = None) -> int | None:
    """A whole number, else `default`."""
    found = number(value)
    return default if found is None else int(found)
