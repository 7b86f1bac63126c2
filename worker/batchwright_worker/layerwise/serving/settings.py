"""Settings of layer-by-layer serving: what a runtime needs of its ModelDeployment, carried in its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

__all__ = ["ENV_LAYERWISE", "LayerwiseSettings", "from_environment", "settings_of"]

ENV_LAYERWISE: Final = "BATCHWRIGHT_LAYERWISE"
RESIDENT_SHARE: Final = 4
"""One part in this many of the memory is for weights that stay."""


class LayerwiseSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`models`: how many share the memory; `skip_limit` None: from measured times."""

    mode: Literal["Literal", "Balanced", "Rollout", "Auto"]
    memory_budget_bytes: int
    skip_limit: int | None = None
    models: int = 1

    @property
    def resident_bytes(self) -> int:
        """For the first units of every model, whose fetch would always be exposed."""
        return self.memory_budget_bytes // RESIDENT_SHARE

    @property
    def flight_bytes(self) -> int:
        """For weights that come and go."""
        return self.memory_budget_bytes - self.resident_bytes


def settings_of(deployment: Mapping[str, Any]) -> LayerwiseSettings | None:
    """From a ModelDeployment with its defaults applied; None where the mode is Off."""
    spec = deployment.get("spec", {})
    layerwise = spec.get("layerwise") or {}
    if layerwise.get("mode", "Off") == "Off":
        return None
    return msgspec.convert({**layerwise, "models": max(1, len(spec.get("models", [])))}, LayerwiseSettings)


def from_environment() -> LayerwiseSettings | None:
    """As the runtime's command left it there."""
    text = os.environ.get(ENV_LAYERWISE, "")
    return msgspec.json.decode(text, type=LayerwiseSettings) if text else None
