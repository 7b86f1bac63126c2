"""The best that any order of layers can reach, found by looking at all of them: small instances only. Pure; the
recurrence of methods C is written here once more, and shares no code with the timeline.

    best_makespan   one batch each: branch and bound over all orders
    best_cycle      a closed loop for ever: the best cycle through everything that the two engines and the memory can
                    come to (a maximum ratio cycle), whole fetches

The bound by linear programming (`tools.bound`) knows neither memory nor order, so that close to the largest layer it
cannot be reached; this can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.layerwise.core.values import Layer

__all__ = ["best_cycle", "best_makespan"]

Held = tuple[tuple[float, int], ...]
"""(end of compute, bytes) of what may still be in memory, oldest first."""
_STEPS: Final = 400
"""Decisions over which the gain of an order is told from no gain."""
_HALVINGS: Final = 16


def best_makespan(models: Sequence[Sequence[Layer]], budget: float) -> float:
    """The smallest makespan over all orders that keep each model's own order (branch and bound)."""
    least = math.inf

    def go_on(done: tuple[int, ...], fetched: float, computed: float, held: Held) -> None:
        nonlocal least
        if computed >= least:
            return
        if all(count == len(layers) for count, layers in zip(done, models, strict=True)):
            least = computed
            return
        for number, (count, layers) in enumerate(zip(done, models, strict=True)):
            if count < len(layers):
                after = (*done[:number], count + 1, *done[number + 1 :])
                go_on(after, *placed(layers[count], fetched, computed, held, budget))

    go_on((0,) * len(models), 0, 0, ())
    return least


def placed(layer: Layer, fetched: float, computed: float, held: Held, budget: float) -> tuple[float, float, Held]:
    """The recurrence for one layer: (Me, Ce, what is in memory then)."""
    start = fetched
    held = tuple(entry for entry in held if entry[0] > start)
    while sum(size for _, size in held) + layer.bytes > budget:
        start, held = held[0][0], held[1:]
    end = max(start + layer.fetch, computed) + layer.compute
    return start + layer.fetch, end, (*held, (end, layer.bytes))


def best_cycle(
    models: Mapping[str, Sequence[Layer]], rates_alone: Mapping[str, float], budget: float, *, most_states: int
) -> float | None:
    """The largest system throughput of a closed loop; None beyond so many states."""
    ways = _ways(models, rates_alone, budget, most_states)
    if ways is None:
        return None
    source, target, reward, time = ways
    firsts = np.searchsorted(source, np.arange(int(source[-1]) + 1))
    low, high = 0.0, float(len(models))
    for _ in range(_HALVINGS):
        rate = (low + high) / 2
        gain = reward - rate * time
        value: NDArray[np.float64] = np.zeros(len(firsts))
        before = value
        for step in range(2 * _STEPS):
            value = np.maximum.reduceat(gain + value[target], firsts)
            before = value if step == _STEPS - 1 else before
        if value[0] - before[0] > 1e-6 * _STEPS:
            low = rate
        else:
            high = rate
    return (low + high) / 2


State = tuple[tuple[int, ...], float, Held]
"""Every model's next layer, Ce - Me, and what is in memory, its ends from Me on."""
Ways = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]
"""Of each decision in each state, in the order of states: the state, the next one, the share of work, the time."""


def _ways(
    models: Mapping[str, Sequence[Layer]], rates_alone: Mapping[str, float], budget: float, most_states: int
) -> Ways | None:
    layers = list(models.values())
    worth = [1 / sum(layer.compute + layer.fetch for layer in models[name]) / rates_alone[name] for name in models]
    first: State = ((0,) * len(layers), 0.0, ())
    numbers: dict[State, int] = {first: 0}
    open_states, found = [first], []
    for state in open_states:
        positions, slack, held = state
        for number, own in enumerate(layers):
            layer = own[positions[number]]
            fetched, computed, then = placed(layer, 0.0, slack, held, budget)
            after: State = (
                (*positions[:number], (positions[number] + 1) % len(own), *positions[number + 1 :]),
                computed - fetched,
                tuple((end - fetched, size) for end, size in then if end > fetched),
            )
            if after not in numbers:
                if len(numbers) >= most_states:
                    return None
                numbers[after] = len(numbers)
                open_states.append(after)
            found.append((numbers[state], numbers[after], (layer.compute + layer.fetch) * worth[number], fetched))
    source, target, reward, time = (np.array(column) for column in zip(*found, strict=True))
    return source, target, reward, time.astype(np.float64)
