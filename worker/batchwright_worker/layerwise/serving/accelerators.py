"""Where models are served layer by layer, per kind of accelerator: a device and how a model's artifact gets onto it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from batchwright_worker.api.names import KIND_CPU, KIND_EMULATED, KIND_NVIDIA
from batchwright_worker.backends.base import Host, LoadError
from batchwright_worker.host.machine import processor_name
from batchwright_worker.ipc.messages import ModelSource, TensorSpec
from batchwright_worker.layerwise.execution.cpu import CpuAccelerator
from batchwright_worker.layerwise.execution.emulated import EmulatedAccelerator
from batchwright_worker.layerwise.execution.jobs import Accelerator, LayerwiseBatch
from batchwright_worker.layerwise.networks.open import open_network
from batchwright_worker.layerwise.networks.units import PAGE, Array, Network, NotDivisible
from batchwright_worker.layerwise.profiling.profiler import Effort, measured
from batchwright_worker.layerwise.profiling.profiles import Profile, cache_folder
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings

__all__ = ["AcceleratorAdapter", "AddedModel", "adapter_of"]

_EFFORT: Final = Effort(runs=20, least=3, seconds=2.0)
_EMULATED_UNITS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedModel:
    """A model that can run: its signature, what its units take, and which of them stay in memory."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    profiles: Sequence[Profile]
    resident: frozenset[int]


class AcceleratorAdapter(Protocol):
    """One device."""

    @property
    def device(self) -> Accelerator: ...

    def add(self, source: ModelSource) -> AddedModel:
        """Raises LoadError with what to change."""

    def remove(self, name: str) -> None:
        """None of its batches may be here."""

    def close(self) -> None: ...


def adapter_of(kind: str, settings: LayerwiseSettings, host: Host) -> AcceleratorAdapter:
    """For a kind of accelerator."""
    if kind == KIND_EMULATED:
        return _EmulatedAdapter(settings, host)
    if kind not in (KIND_CPU, KIND_NVIDIA):
        raise LoadError(f'layerwise does not know accelerator {kind!r}: write layerwise: {{mode: "Off"}}')
    return _NetworkAdapter(kind, settings, host)


class _NetworkAdapter:
    """A CPU or a GPU with networks from files."""

    def __init__(self, kind: str, settings: LayerwiseSettings, host: Host) -> None:
        self._settings, self._host, self._kind = settings, host, kind
        self._share = settings.resident_bytes // settings.models
        self.device: Any
        if kind == KIND_NVIDIA:
            from batchwright_worker.layerwise.execution.cuda import CudaAccelerator

            self.device = CudaAccelerator(settings.flight_bytes)
        else:
            self.device = CpuAccelerator(max(PAGE, settings.flight_bytes))

    def add(self, source: ModelSource) -> AddedModel:
        """Cut, prepare, measure (each once, kept on disk), and keep the first units."""
        capacity = self.device.ring.capacity
        try:
            network = self._opened(source, capacity // 2)
        except NotDivisible as error:
            raise LoadError(f"model {source.name!r} cannot be served layer by layer: {error}") from error
        resident = leading(network, self._share)
        flying = [unit.size for position, unit in enumerate(network.index.units) if position not in resident]
        if max(flying, default=0) > capacity:
            network.close()
            raise LoadError(
                f"model {source.name!r}: a unit of {max(flying)} bytes cannot be split further, and "
                f"{capacity} of layerwise.memoryBudgetBytes are for weights in flight: raise memoryBudgetBytes to "
                f"{-(-max(flying) * 4 // 3)} or more"
            )
        self.device.add(source.name, network)
        self.device.keep(source.name, resident)
        return AddedModel(
            inputs=network.inputs, outputs=network.outputs, profiles=self._profiles(source.name), resident=resident
        )

    def remove(self, name: str) -> None:
        self.device.remove(name)

    def close(self) -> None:
        self.device.close()

    def _opened(self, source: ModelSource, limit: int) -> Network:
        if self._kind == KIND_NVIDIA and source.format == "onnx":
            raise NotDivisible("on a GPU layerwise serves torch-export and safetensors")
        return open_network(source, self._host, cache_folder(), limit)

    def _profiles(self, name: str) -> list[Profile]:
        """At 1 row and at 4: compute in between and beyond follows from these."""
        if self._kind == KIND_NVIDIA:
            return [self.device.measured(name, rows, _EFFORT) for rows in (1, 4)]
        network, reader = self.device.network(name), self.device.reader(name)
        processor = f"{processor_name()} x{self._host.threads} serving"
        return [measured(network, reader, rows, processor, _EFFORT) for rows in (1, 4)]


class _EmulatedAdapter:
    """Sleeps: an emulated model is so many equal units; its load time is what fetching all of them takes."""

    def __init__(self, settings: LayerwiseSettings, host: Host) -> None:
        self.device = EmulatedAccelerator(settings.flight_bytes, self._answer)
        self._host = host
        self._models: dict[str, Any] = {}

    def add(self, source: ModelSource) -> AddedModel:
        from batchwright_worker.backends.emulated import unbooked

        emulated = source.emulated
        if emulated is None:
            raise LoadError(f"model {source.name!r} has no emulated section; the emulated accelerator runs no other")
        size = -(-emulated.weights_bytes // _EMULATED_UNITS)
        if size > self.device.ring.capacity:
            raise LoadError(
                f"model {source.name!r}: a unit of {size} bytes is larger than the {self.device.ring.capacity} of "
                "layerwise.memoryBudgetBytes that are for weights in flight: raise memoryBudgetBytes"
            )
        self._models[source.name] = model = unbooked(source, emulated, self._host)
        profiles = [_emulated_profile(source.name, emulated, size, rows) for rows in (1, 64)]
        return AddedModel(inputs=model.inputs, outputs=model.outputs, profiles=profiles, resident=frozenset())

    def remove(self, name: str) -> None:
        del self._models[name]

    def close(self) -> None:
        self._models.clear()

    def _answer(self, batch: LayerwiseBatch) -> Mapping[str, Array]:
        """Each row's argmax, as the emulated model answers; the time has passed already."""
        answer: Mapping[str, Array] = self._models[batch.model].answer(
            {name: np.asarray(array) for name, array in batch.inputs.items()}, batch.rows
        )
        return answer


def leading(network: Network, share: int) -> frozenset[int]:
    """The first units that fit into `share` bytes, in order (all of a small network)."""
    kept: set[int] = set()
    for position, unit in enumerate(network.index.units):
        share -= unit.size
        if share < 0:
            break
        kept.add(position)
    return frozenset(kept)


def _emulated_profile(name: str, emulated: Any, size: int, rows: int) -> Profile:
    seconds = (emulated.fixed_microseconds + rows * emulated.per_row_microseconds) / 1e6
    fetch_s = emulated.load_milliseconds / 1e3 / _EMULATED_UNITS
    return Profile(
        digest=name,
        model=name,
        processor=KIND_EMULATED,
        rows=rows,
        compute_s=[seconds / _EMULATED_UNITS] * _EMULATED_UNITS,
        bytes=[size] * _EMULATED_UNITS,
        latency_s=0.0,
        bytes_per_second=size / fetch_s if fetch_s else 1e15,
        runs=1,
    )
