"""How many replicas must serve for a ModelDeployment to be available, as in a Deployment; pure."""

from __future__ import annotations

from typing import Final

from batchwright_operator.api.model_deployment import ModelDeployment

MAX_UNAVAILABLE: Final = "25%"
"""As of a Deployment that does not say. Not the bound by which we roll out: where devices are exclusive that is one
replica, which of one replica is all."""


def needed_replicas(deployment: ModelDeployment) -> int:
    """Ready replicas from which on it is available: all but those that the strategy lets be unavailable, and one at
    least of any."""
    wanted, strategy = deployment.spec.replicas, deployment.spec.strategy
    bound: int | str | None = None
    if strategy is not None and strategy.type == "Recreate":
        bound = 0
    elif strategy is not None and strategy.rolling_update is not None:
        bound = strategy.rolling_update.max_unavailable
    missing = _of(MAX_UNAVAILABLE if bound is None else bound, wanted)
    return max(min(1, wanted), wanted - missing)


def _of(bound: int | str, wanted: int) -> int:
    """A number, or a share of `wanted` rounded down."""
    return int(bound) if isinstance(bound, int) else wanted * int(bound.removesuffix("%")) // 100
