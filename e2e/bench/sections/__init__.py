"""The parts of the serving bench, by name; each prints its tables and notes its bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from e2e.bench.sections import models, network, overload, prediction, steady
from e2e.bench.sections.bench import Bench

SECTIONS: Mapping[str, Callable[[Bench], None]] = {
    "table": steady.table,
    "steady": steady.steady,
    "overload": overload.overload,
    "devices": overload.devices,
    "jump": overload.jump,
    "prediction": prediction.prediction,
    "models": models.models,
    "residency": models.residency,
    "network": network.network,
}
