"""A model that is served layer by layer, tried as any other: are its rows independent?"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from batchwright_worker.backends.base import LoadRefusedError
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchPlan, TensorSpec
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.execution.jobs import LayerwiseBatch
from batchwright_worker.layerwise.serving.accelerators import AddedModel
from batchwright_worker.layerwise.serving.service import Service
from batchwright_worker.runtime.settling import settled

_REMEDY = 'write layerwise: {mode: "Off"}'


def rows_plan(service: Service, added: AddedModel, source: ModelSource, why_untried: str) -> BatchPlan:
    """The plan of a model that the service holds. Raises LoadRefusedError for one that is not of rows, or not shown to
    be: whole requests are not run layer by layer."""
    plan = settled(_Added(service, added, source.name), source, why_untried)
    if plan.whole:
        raise LoadRefusedError(
            f"model {source.name!r}: layer by layer only models of rows are served: {plan.reason}; or {_REMEDY}"
        )
    if plan.piece or plan.unbatched_inputs or plan.unbatched_outputs:
        why = plan.reason or f"it takes exactly {plan.piece} rows at once, or has outputs without rows"
        raise LoadRefusedError(
            f"model {source.name!r}: layer by layer only models that take any number of rows are served; {why}; "
            f"{_REMEDY}"
        )
    return plan


class _Added:
    """It as a LoadedModel: one batch at a time."""

    def __init__(self, service: Service, added: AddedModel, name: str) -> None:
        self.inputs: Sequence[TensorSpec] = added.inputs
        self.outputs: Sequence[TensorSpec] = added.outputs
        self._service = service
        self._name = name

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Any]:
        ended = threading.Event()
        batches: list[LayerwiseBatch] = []

        def end(batch: LayerwiseBatch) -> None:
            batches.append(batch)
            ended.set()

        self._service.submit(self._name, inputs, rows, end)
        ended.wait()
        [batch] = batches
        if batch.error is not None:
            raise batch.error
        return batch.outputs

    def close(self) -> None:
        """The service removes it."""
