"""What the helpers of one engine share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from batchwright_worker.api.model import Model
from batchwright_worker.engine.counters import ModelCounters
from batchwright_worker.engine.decision_loop import DecisionLoop
from batchwright_worker.engine.pending import PendingRequests
from batchwright_worker.engine.signature import Signature
from batchwright_worker.engine.state_publisher import StatePublisher
from batchwright_worker.inference.runtime import Runtime
from batchwright_worker.scheduler.scheduler import Scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParts:
    """One per engine: `models` and `counters` by the model's name, `runtimes` by the device's; `clock` is the monotonic
    clock of requests, `wall` gives Unix seconds."""

    models: dict[str, Model]
    runtimes: Mapping[str, Runtime]
    scheduler: Scheduler
    counters: Mapping[str, ModelCounters]
    publisher: StatePublisher
    requests: PendingRequests
    decisions: DecisionLoop
    signatures: dict[str, Signature]
    """Of the models that were loaded once, as the runtime reported them."""
    clock: Callable[[], float]
    wall: Callable[[], float]
