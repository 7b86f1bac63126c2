"""Values of layer-by-layer scheduling: layers, requests, candidates, decisions, placements (method C).

A *layer* here is the unit of scheduling: one layer of a network, or a fused block of them. Times are whole steps
(`core.steps` turns seconds and the times of an instance file into them), bytes are whole.
"""

# ruff: noqa: N818 - the names say what is wrong; callers read them as answers
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

__all__ = [
    "BudgetTooSmall",
    "Candidate",
    "Decision",
    "Idle",
    "Layer",
    "LayerPlacement",
    "LayerwiseError",
    "ModelRequest",
    "Prefetch",
    "UnknownPlacement",
]


class Prefetch(StrEnum):
    """How weights come into the memory of the accelerator."""

    WHOLE = "whole"
    """A fetch starts when the whole layer has room."""
    FLUID = "fluid"
    """A fetch runs while there is any room, pauses when the memory is full, goes on at the next retirement."""


class LayerwiseError(Exception):
    """Something that cannot be scheduled, and why."""


class BudgetTooSmall(LayerwiseError):
    """A layer larger than the memory: it could never start, so it is refused before anything runs."""

    def __init__(self, *, model: str, position: int, layer: Layer, budget_bytes: float) -> None:
        self.model, self.position, self.layer, self.budget_bytes = model, position, layer, budget_bytes
        name = f" ({layer.name})" if layer.name else ""
        super().__init__(
            f"layer {position}{name} of model {model} has {layer.bytes} bytes, more than the budget of {budget_bytes}: "
            "it could never be fetched; split the layer or raise the budget"
        )


class UnknownPlacement(LayerwiseError):
    """A correction for a layer that is not in flight (never pushed, or measured and retired long ago)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """`compute` (c) and `fetch` (w) are times >= 0, `bytes` (s) is what its weights hold from the start of the fetch
    to the end of the compute. Resident weights have fetch 0 and bytes 0 (the budget is then that much smaller)."""

    compute: int
    fetch: int
    bytes: int
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One run of a model's layers in order. `order` is unique and ascends in the order of submission (ties)."""

    model: str
    layers: Sequence[Layer]
    arrival: int
    order: int


@dataclass(slots=True, kw_only=True)
class Candidate:
    """The next layer of a model that has a request; `skips` counts the decisions that passed over this layer."""

    request: ModelRequest
    position: int = 0
    skips: int = 0

    @property
    def layer(self) -> Layer:
        """The layer that would run next."""
        return self.request.layers[self.position]


class Idle(NamedTuple):
    """Idle time that a layer would cause (C2): of the compute engine (IC) and of the memory engine (IM)."""

    compute: int
    memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The layer to fetch next, what was estimated for it, and whether the skip limit (C4) chose it.

    `request`, `position` and `skips` are as they were when it was picked."""

    request: ModelRequest
    position: int
    skips: int
    idle: Idle
    guarded: bool

    @property
    def layer(self) -> Layer:
        """The layer itself."""
        return self.request.layers[self.position]

    @property
    def last(self) -> bool:
        """Does the request's answer come with this layer?"""
        return self.position == len(self.request.layers) - 1


class LayerPlacement(NamedTuple):
    """Where a layer lies on both engines; `sequence` counts pushes and names it in `Timeline.correct`."""

    sequence: int
    fetch_start: int
    fetch_end: int
    compute_start: int
    compute_end: int
    idle: Idle
