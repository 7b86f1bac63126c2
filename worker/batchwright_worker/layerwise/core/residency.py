"""Which units stay in memory, by demand: the hot models' whole, of the others the first ones. Pure.

Every way to spend the memory for weights that stay is tried in a simulation of the requests that come (as many of each
model as its share of the demand), under balanced; the best one is taken, and a new one only if it gains enough over
what is there. Where all weights fit, all stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from batchwright_worker.layerwise.core.policy import Balanced, Fifo, Policy
from batchwright_worker.layerwise.core.scheduler import LayerScheduler
from batchwright_worker.layerwise.core.simulator import run
from batchwright_worker.layerwise.core.skip_limit import auto_skip_limit, fill_time
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Layer, ModelRequest

__all__ = ["Residents", "best_residents", "first_within", "fits", "makespan", "resident", "total_bytes"]

Models = Mapping[str, Sequence[Layer]]
Residents = Mapping[str, frozenset[int]]
_LEAST_GAIN: Final = 0.05
"""Of the time: units are read anew when residents change."""
_REQUESTS: Final = 24
_MOST_DECISIONS: Final = 1500
"""Of one simulation: some 20 ms."""


def total_bytes(models: Models) -> int:
    """Of all units."""
    return sum(layer.bytes for layers in models.values() for layer in layers)


def fits(models: Models, room: float) -> bool:
    """Can all units stay?"""
    return total_bytes(models) <= room


def first_within(sizes: Iterable[tuple[int, int]], share: int) -> frozenset[int]:
    """Of units, as (position, bytes), as many of the first as `share` bytes have room for."""
    found: set[int] = set()
    for position, size in sizes:
        share -= size
        if share < 0:
            break
        found.add(position)
    return frozenset(found)


def best_residents(
    models: Models, demand: Mapping[str, float], room: int, flight: int, now: Residents | None = None
) -> Residents:
    """By model the positions that stay: `room` bytes of them, beside `flight` bytes for weights that come and go.
    `models` as if none stayed; `demand`: requests per second, or any numbers in proportion; `now`: what stays."""
    if fits(models, room):
        return {name: frozenset(range(len(layers))) for name, layers in models.items()}
    ways = [_leading(models, dict.fromkeys(models, 1.0), room), _leading(models, demand, room)]
    ways.append(_hot_first(models, demand, room))
    times = [makespan(resident(models, way), demand, flight) for way in ways]
    best = ways[min(range(len(ways)), key=times.__getitem__)]
    if now is not None and now.keys() == models.keys() and _bytes(models, now) <= room:
        there = makespan(resident(models, now), demand, flight)
        if min(times) > (1 - _LEAST_GAIN) * there:
            return now
    return best


def resident(models: Models, residents: Residents) -> Models:
    """The layers with these units in memory."""
    return {
        name: [
            replace(layer, fetch=0, bytes=0) if position in residents[name] else layer
            for position, layer in enumerate(layers)
        ]
        for name, layers in models.items()
    }


def makespan(models: Models, demand: Mapping[str, float], flight: float, *, in_turn: bool = False) -> int:
    """Steps that requests of these models take, as many of each as its share of the demand (one at least); `in_turn`:
    one whole model after the other instead of layer by layer."""
    layers = list(models.values())
    policy: Policy = Fifo()
    if not in_turn:
        policy = Balanced(auto_skip_limit(layers, flight), fill_time(layers, flight))
    scheduler = LayerScheduler(Timeline(flight), policy)
    names = enumerate(_requests(models, demand))
    run(scheduler, [ModelRequest(model=name, layers=models[name], arrival=0, order=order) for order, name in names])
    return scheduler.timeline.compute_free


def _requests(models: Models, demand: Mapping[str, float]) -> list[str]:
    """Names in the order of their requests, spread evenly."""
    total = sum(demand.get(name, 0.0) for name in models) or 1.0
    most = max(len(models), min(_REQUESTS, _MOST_DECISIONS // max(map(len, models.values()))))
    counts = {name: max(1, round(most * demand.get(name, 0.0) / total)) for name in models}
    spread = [((number + 0.5) / count, name) for name, count in counts.items() for number in range(count)]
    return [name for _, name in sorted(spread)]


def _leading(models: Models, weights: Mapping[str, float], room: int) -> dict[str, frozenset[int]]:
    """The first units of every model, whose fetch nothing hides, by shares of the room."""
    total = sum(weights.get(name, 0.0) for name in models) or 1.0
    return {
        name: first_within(enumerate(layer.bytes for layer in layers), int(room * weights.get(name, 0.0) / total))
        for name, layers in models.items()
    }


def _hot_first(models: Models, demand: Mapping[str, float], room: int) -> dict[str, frozenset[int]]:
    """Whole models by what a byte of them saves, then the first units of the others."""

    def saves(name: str) -> float:
        fetch, size = sum(layer.fetch for layer in models[name]), sum(layer.bytes for layer in models[name])
        return demand.get(name, 0.0) * fetch / max(size, 1)

    found: dict[str, frozenset[int]] = {}
    for name in sorted(models, key=saves, reverse=True):
        size = sum(layer.bytes for layer in models[name])
        if size <= room:
            found[name] = frozenset(range(len(models[name])))
            room -= size
    others = {name: layers for name, layers in models.items() if name not in found}
    return found | _leading(others, dict.fromkeys(others, 1.0), room)


def _bytes(models: Models, residents: Residents) -> int:
    return sum(models[name][position].bytes for name, kept in residents.items() for position in kept)
