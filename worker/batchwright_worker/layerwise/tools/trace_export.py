"""What ran when, as a trace for Perfetto and chrome://tracing: one process per run, one track per engine. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchwright_worker.layerwise.core.steps import seconds_of_steps
from batchwright_worker.layerwise.execution.jobs import UnitRecord

__all__ = ["trace"]

_MEMORY, _COMPUTE = 1, 2


def trace(runs: Mapping[str, Sequence[UnitRecord]]) -> dict[str, Any]:
    """Trace events (JSON) of several runs, each from its own time 0; times in microseconds."""
    events: list[dict[str, Any]] = []
    for process, (name, records) in enumerate(runs.items(), start=1):
        events.append({"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}})
        for track, word in ((_MEMORY, "memory"), (_COMPUTE, "compute")):
            events.append({"ph": "M", "name": "thread_name", "pid": process, "tid": track, "args": {"name": word}})
        origin = min((record.arrival for record in records), default=0.0)
        for record in records:
            events += _spans(record, process, origin)
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _spans(record: UnitRecord, process: int, origin: float) -> list[dict[str, Any]]:
    facts = {"request": record.order, "unit": record.position, "bytes": record.bytes, "skips": record.skips}
    spans = [(_COMPUTE, record.compute_start, record.compute_end, record.planned.compute)]
    if record.bytes:
        spans.append((_MEMORY, record.fetch_start, record.fetch_end, record.planned.fetch))
    return [
        {
            "ph": "X",
            "name": f"{record.model} {record.order}.{record.position}",
            "cat": record.model,
            "pid": process,
            "tid": track,
            "ts": round((start - origin) * 1e6, 1),
            "dur": round((end - start) * 1e6, 1),
            "args": {**facts, "plannedMicroseconds": round(seconds_of_steps(planned) * 1e6, 1)},
        }
        for track, start, end, planned in spans
    ]
