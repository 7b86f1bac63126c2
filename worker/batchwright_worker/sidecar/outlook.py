"""What a new request of a model would find: devices, own rows and other models ahead of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from batchwright_worker.sidecar.admission import Line
from batchwright_worker.sidecar.queues import Bucket
from batchwright_worker.sidecar.residency import DeviceBooks
from batchwright_worker.sidecar.served import Served


def line(
    served: Served, bucket: Bucket, models: Mapping[str, Served], devices: Mapping[str, DeviceBooks], now: float
) -> Line:
    """Of the devices that hold the model (else of all), the one that is free first counts."""
    up = [books for books in devices.values() if not books.down]
    holders = [books for books in up if served.name in books.held]
    usable = holders or up
    free_in_s = min((books.free_at(now) - now for books in usable), default=0.0)
    if not holders and usable:
        free_in_s += served.footprint.load_s
    return Line(
        free_in_s=free_in_s,
        rows_ahead=served.queue.rows,
        others_s=_others_s(served, models, now) / max(1, len(usable)),
        cap=served.cap(bucket, now),
        rate=served.offered.at(now),
        own_runs=any(flight.model == served.name for books in usable for flight in books.in_flight),
    )


def _others_s(served: Served, models: Mapping[str, Served], now: float) -> float:
    """Device time of the other models' batches that will probably run before a new row of this one: at most as many
    of each as there are batches of its own ahead, and one."""
    mine = 1 + served.queue.rows // max(1, served.tuning.size)
    total = 0.0
    for other in models.values():
        if other is served or not other.queue.rows:
            continue
        bucket = other.queue.next_bucket()
        curve, cap = other.turn(bucket), other.cap(bucket, now)
        full, rest = divmod(other.queue.rows, cap)
        total += min(mine, full) * curve.seconds(cap) + (curve.seconds(rest) if rest and full < mine else 0.0)
    return total
