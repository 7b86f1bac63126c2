"""Which requests are taken, and which of those that wait are given up: by what is predicted of their batch, unless the
predictions themselves are doubted. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from batchwright_worker.scheduler import admission
from batchwright_worker.scheduler.admission import Backlog
from batchwright_worker.scheduler.devices import Device
from batchwright_worker.scheduler.queues import Bucket
from batchwright_worker.scheduler.served_model import ServedModel
from batchwright_worker.scheduler.steps import QueueRequest, Refusal


def judged(
    offer: QueueRequest, served: ServedModel, backlog: Backlog, devices: Mapping[str, Device], now: float
) -> Refusal | float | None:
    """When the request is late if it is taken (None: never), or why it is not taken."""
    spent_s = now - offer.arrival
    decision = admission.judge(backlog, offer.rows, served.target_s, spent_s)
    if not decision.accepted:
        message = (
            f"the answer would take {(spent_s + decision.finish_s) * 1e3:.0f} ms; "
            f"the latency target of {served.name} is {(served.config.tuning.latency_s or 0) * 1e3:.0f} ms"
        )
        return Refusal(reason="LatencyTarget", message=message, retry_after_s=decision.retry_after_s)
    if offer.deadline is not None:
        left_s = offer.deadline - now
        is_hopeless = admission.is_hopeless(backlog, offer.rows, left_s)
        if is_hopeless and not (left_s > 0 and is_probe(served, offer.bucket, devices, now)):
            message = (
                f"its deadline, in {left_s * 1e3:.0f} ms, cannot be met" if left_s > 0 else "its deadline has passed"
            )
            return Refusal(reason="Deadline", message=message, retry_after_s=backlog.free_in_s)
    allowed = None if decision.allowed_s is None else offer.arrival + decision.allowed_s
    return admission.earlier(allowed, offer.deadline)


def queue_full(offer: QueueRequest, served: ServedModel, wait_s: float) -> Refusal:
    """The queue has no room for it, and nobody of lower priority to make any."""
    message = (
        f"{served.queue.rows} rows wait for {served.name} and {offer.rows} more do not fit: "
        f"maxQueueLength is {served.config.queue_limit}"
    )
    return Refusal(reason="QueueFull", message=message, retry_after_s=wait_s)


def late(served: ServedModel, devices: Mapping[str, Device], now: float, begins: float) -> list[int]:
    """Keys of the requests that the next batch, which begins then, would answer too late."""
    queue = served.queue
    bucket = queue.next_bucket()
    if bucket is None or not queue.groups[bucket].bounded:
        return []
    facts = served.facts(bucket, now)
    keys = queue.late(bucket, lambda rows: begins + facts.turnaround.seconds(rows), facts.cap)
    if keys and is_probe(served, bucket, devices, now):
        return queue.late(bucket, lambda _: now, facts.cap)
    return keys


def due_by_target(served: ServedModel, bucket: Bucket, rows: int, arrival: float, now: float) -> float | None:
    """When the latency target wants a request of so many rows answered; None without a target."""
    if served.target_s is None:
        return None
    facts = served.facts(bucket, now)
    return arrival + admission.allowance_s(facts.turnaround, facts.cap, rows, served.target_s)


def is_probe(served: ServedModel, bucket: Bucket, devices: Mapping[str, Device], now: float) -> bool:
    """Is a row of this model worth trying whatever is predicted of it?"""
    if not served.is_doubtful(bucket, now):
        return False
    return not any(device.runs(served.name) for device in devices.values())
