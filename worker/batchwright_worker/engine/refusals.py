"""The errors of requests that are refused: at arrival, while they wait, and while the replica stops."""

from __future__ import annotations

from batchwright_worker.api.model import Model
from batchwright_worker.inference.errors import (
    DeadlineExceeded,
    InferenceError,
    ModelUnavailable,
    QueueFull,
    Refused,
    Stopping,
)
from batchwright_worker.inference.requests import InferRequest
from batchwright_worker.scheduler.steps import Refusal


def error_of(refusal: Refusal) -> InferenceError:
    """The error of a request that the scheduler has not queued."""
    match refusal.reason:
        case "Deadline":
            return DeadlineExceeded(refusal.message, retry_after_s=refusal.retry_after_s)
        case "QueueFull":
            return QueueFull(refusal.message, retry_after_s=refusal.retry_after_s)
        case "Unavailable":
            return ModelUnavailable(refusal.message, retry_after_s=refusal.retry_after_s)
        case "LatencyTarget":
            return Refused(refusal.message, retry_after_s=refusal.retry_after_s)


def not_known_yet(model: str, blocked: str = "", wait_s: float = 0.0) -> ModelUnavailable:
    """The error of what cannot be said, or judged, of a model before its first load; `blocked`: why it is not loaded
    for so long."""
    why = f"is not served now: {blocked}" if blocked else "is being loaded: what it takes is not known yet; try again"
    return ModelUnavailable(f"model {model} {why}", retry_after_s=max(1.0, wait_s) if wait_s < float("inf") else None)


def late(request: InferRequest, now: float, due_by_target: float | None) -> InferenceError:
    """The error of a request that has waited until it could not be answered in time any more: by its own deadline, or
    by the model's latency target, whichever is the earlier. Of these two only the second may be met elsewhere."""
    waited_ms = (now - request.arrival) * 1e3
    if request.deadline is not None and (due_by_target is None or request.deadline <= due_by_target):
        return DeadlineExceeded(f"the deadline cannot be met any more after waiting {waited_ms:.0f} ms")
    return Refused(
        f"after waiting {waited_ms:.0f} ms the latency target cannot be met any more", retry_after_s=waited_ms / 1e3
    )


def expired(request: InferRequest, now: float) -> DeadlineExceeded:
    """The error of a request whose own deadline has come, wherever it stands."""
    return DeadlineExceeded(
        f"its deadline has passed: there was no answer after {(now - request.arrival) * 1e3:.0f} ms"
    )


def displaced(model: Model, wait_s: float) -> QueueFull:
    """The error of a request that was queued and has made room for one of higher priority."""
    return QueueFull(
        f"requests of higher priority have taken its place in the queue of {model.name}: "
        f"maxQueueLength is {model.batching.max_queue_length}",
        retry_after_s=wait_s,
    )


def stopping() -> Stopping:
    """The error of all requests, old and new, once the time to drain is over."""
    return Stopping("this replica is stopping; ask another one")
