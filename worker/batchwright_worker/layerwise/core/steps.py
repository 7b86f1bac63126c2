"""Time as whole steps, so that times that are equal on paper are equal here: no sum of them is rounded. Pure.

The rule lives on ties (IC = 0 for every layer that fits behind the slack), and sums of floats break them: 0.1 + 0.2 is
not 0.3. All of `core` therefore counts in whole steps; what comes from outside is turned into steps once, and back:

    an instance     `common_unit`: the coarsest step in which all its times are whole (1 for an instance in integers)
    seconds         `steps_of_seconds`: picoseconds, for what is measured and for the NPU model (a cycle: 1,429 of them)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Final

__all__ = ["STEPS_PER_SECOND", "StepUnit", "common_unit", "exact", "seconds_of_steps", "steps_of_seconds"]

STEPS_PER_SECOND: Final = 10**12


def steps_of_seconds(seconds: float) -> int:
    """The nearest step."""
    return round(seconds * STEPS_PER_SECOND)


def seconds_of_steps(steps: int) -> float:
    """The inverse, rounded to a float."""
    return steps / STEPS_PER_SECOND


def exact(number: float) -> Fraction:
    """The number that was meant: an int or a whole float itself, any other float at the 15 decimal digits that a float
    is sure to keep. What lies behind them is noise of the binary representation: 3 * 0.1 is read as 0.3."""
    whole = int(number)
    return Fraction(whole) if whole == number else Fraction(f"{number:.15g}")


@dataclass(frozen=True, slots=True)
class StepUnit:
    """How many steps one unit of an instance's times has."""

    per_unit: int

    def steps(self, time: float) -> int:
        """A time of the instance in steps. Raises ValueError if it is no whole number of them."""
        steps = exact(time) * self.per_unit
        if steps.denominator != 1:
            raise ValueError(f"a time of {time} is no whole number of steps of 1/{self.per_unit}")
        return steps.numerator

    def time(self, steps: int) -> float:
        """Steps in the instance's unit: an int where it is whole, else the nearest float."""
        whole, rest = divmod(steps, self.per_unit)
        return steps / self.per_unit if rest else whole


def common_unit(times: Iterable[float], fluid: Iterable[tuple[float, int]] = ()) -> StepUnit:
    """The coarsest step in which all times are whole, and the time per byte of every (fetch, bytes) of fluid fetches:
    then a fetch that pauses with any number of bytes moved pauses at a whole step."""
    paces = (exact(fetch) / size for fetch, size in fluid if size)
    return StepUnit(lcm(*{number.denominator for number in (*map(exact, times), *paces)}))
