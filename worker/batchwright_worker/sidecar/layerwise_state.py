"""The layerwise part of the sidecar's state: how each model was cut, what both engines of a device have done. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from batchwright_worker.api.messages import SidecarState, StreamState
from batchwright_worker.inference.runtime import StreamCounters, StreamedModel, StreamingRuntime


def with_layerwise(state: SidecarState, runtimes: Iterable[StreamingRuntime]) -> SidecarState:
    """The state with models and devices of layerwise runtimes described; unchanged where there are none."""
    devices = {runtime.device: runtime for runtime in runtimes if runtime.streamed}
    if not devices:
        return state
    cut = {
        model: (streamed, "" if runtime.streams is None else runtime.streams.way)
        for runtime in devices.values()
        for model, streamed in runtime.streamed.items()
    }
    counted = {name: runtime.streams for name, runtime in devices.items()}
    return msgspec.structs.replace(
        state,
        models=[
            msgspec.structs.replace(each, layerwise=describe(*cut[each.name])) if each.name in cut else each
            for each in state.models
        ],
        devices=[
            msgspec.structs.replace(each, streams=_state(counters))
            if (counters := counted.get(each.device)) is not None
            else each
            for each in state.devices
        ],
    )


def describe(cut: StreamedModel, way: str = "") -> str:
    """A model's profile in one line, and how its device serves."""
    bound = "compute" if cut.compute_milliseconds >= cut.fetch_milliseconds else "memory"
    tables = f", rows of {cut.table_bytes / 1e6:.1f} MB gathered" if cut.table_bytes else ""
    resident = f", {cut.resident_units} of them resident" if cut.resident_units else ""
    return (
        f"{cut.units} units{resident}, {cut.weight_bytes / 1e6:.1f} MB{tables}; "
        f"compute {cut.compute_milliseconds:.1f} ms, fetch {cut.fetch_milliseconds:.1f} ms: bound by {bound}"
        f"{'; ' + way if way else ''}"
    )


def _state(streams: StreamCounters) -> StreamState:
    return StreamState(
        compute_busy_seconds=streams.compute_busy_seconds,
        compute_idle_seconds=streams.compute_idle_seconds,
        memory_busy_seconds=streams.memory_busy_seconds,
        memory_idle_seconds=streams.memory_idle_seconds,
        decision_seconds=streams.decision_seconds,
        units=streams.units,
        bytes=streams.bytes,
        peak_bytes=streams.peak_bytes,
        capacity_bytes=streams.capacity_bytes,
    )
