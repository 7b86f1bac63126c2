"""Kubernetes quantities as numbers, and the resource requests of a pod. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

from batchwright_operator.kube.objects import Raw

Amounts: TypeAlias = dict[str, float]
"""Resource name -> amount in base units: cores, bytes, whole devices."""

_QUANTITY: Final = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|(Ki|[MGTPE]i|[numkMGTPE]))?$")
_WRONG: Final = "`{}` is not a quantity; write e.g. 500m, 2 or 1Gi"
_SUFFIX: Final = {
    **{"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18},
    **{f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", start=1)},
}


def amount(quantity: object) -> float:
    """A quantity (`500m`, `1Gi`, `1e3`, 2) in base units. ValueError for anything else."""
    if isinstance(quantity, str):
        return _parsed(quantity)
    if isinstance(quantity, int | float):
        return float(quantity)
    raise ValueError(_WRONG.format(quantity))


@lru_cache(maxsize=4096)
def _parsed(quantity: str) -> float:
    """The objects of a cluster have few different ones, and thousands of each."""
    found = _QUANTITY.match(quantity)
    if found is None:
        raise ValueError(_WRONG.format(quantity))
    number, exponent, suffix = found.groups()
    return float(number + (exponent or "")) * _SUFFIX.get(suffix or "", 1.0)


def amounts(quantities: Mapping[str, object] | None) -> Amounts:
    """A resource list in base units."""
    return {name: amount(quantity) for name, quantity in (quantities or {}).items()}


def requests_of(spec: Raw) -> Amounts:
    """The requests that kube-scheduler counts for a pod: containers and native sidecars together, or the largest moment
    of its init containers if that is more; overhead on top; one of `pods`. Pod-level requests replace the sum."""
    running: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers") or []:
        asked = _container(container)
        if container.get("restartPolicy") == "Always":
            _add(running, asked)
            _raise(peak, running)
        else:
            _raise(peak, _sum(running, asked))
    for container in spec.get("containers") or []:
        _add(running, _container(container))
    _raise(running, peak)
    running.update(amounts((spec.get("resources") or {}).get("requests")))
    _add(running, amounts(spec.get("overhead")))
    running["pods"] = 1.0
    return running


def total(parts: Iterable[Mapping[str, float]]) -> Amounts:
    """The sum of several."""
    result: Amounts = {}
    for part in parts:
        _add(result, part)
    return result


def _container(container: Mapping[str, Any]) -> Amounts:
    """Requests of one container; a limit without a request is also its request."""
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits"), resources.get("requests")
    return amounts({**limits, **requests} if limits and requests else requests or limits)


def _add(result: Amounts, more: Mapping[str, float]) -> None:
    for name, value in more.items():
        result[name] = result.get(name, 0.0) + value


def _raise(result: Amounts, other: Mapping[str, float]) -> None:
    for name, value in other.items():
        result[name] = max(result.get(name, 0.0), value)


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> Amounts:
    return total((one, other))
