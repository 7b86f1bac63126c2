"""Accelerator adapters: per kind of accelerator a device, and how a model's artifact gets onto it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from batchwright_worker.api.formats import DIVISIBLE, FORMATS, listed
from batchwright_worker.api.names import KIND_EMULATED
from batchwright_worker.backends.base import Host, LoadError, LoadRefusedError, accelerator_for
from batchwright_worker.host.accelerators import accelerator_of
from batchwright_worker.host.machine import processor_name
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.core.residency import first_within
from batchwright_worker.layerwise.execution.cpu import CpuAccelerator
from batchwright_worker.layerwise.execution.emulated import EmulatedAccelerator
from batchwright_worker.layerwise.execution.jobs import Accelerator, LayerwiseBatch
from batchwright_worker.layerwise.networks.cuts import unit_limits
from batchwright_worker.layerwise.networks.open import open_network
from batchwright_worker.layerwise.networks.units import PAGE, Network, NotDivisible
from batchwright_worker.layerwise.profiling.fetch_floor import fetch_floor
from batchwright_worker.layerwise.profiling.profiler import Effort, measured
from batchwright_worker.layerwise.profiling.profiles import Profile, cache_folder, write_profile
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings

__all__ = ["AcceleratorAdapter", "AddedModel", "adapter_of"]

_PROFILED_ROWS: Final = (1, 4)
"""Compute in between and beyond follows from these."""
_EMULATED_UNITS: Final = 8
_ON_GPU: Final = tuple(name for name in DIVISIBLE if FORMATS[name].loader == "torch")
"""Formats whose units are torch graphs; those of the others run in a library that keeps to the CPU here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedModel:
    """A model that can run: its signature, what its units take, and which of them stay in memory. `table_bytes` are
    never fetched: the rows that a batch needs are gathered on the host."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    profiles: Sequence[Profile]
    resident: frozenset[int]
    table_bytes: int = 0


class NetworkAccelerator(Accelerator, Protocol):
    """A device that runs networks from files."""

    def add(self, name: str, network: Network) -> None:
        """Let a network run here under this name."""

    def network(self, name: str) -> Network:
        """A network that runs here."""

    def keep(self, name: str, positions: frozenset[int]) -> None:
        """Keep these of its units in memory (and no others); batches that have begun keep what there was."""

    def forget(self) -> None:
        """No unit is in flight, and none will be for a while: memory for them may be given back."""

    def fetch_probe(self) -> AbstractContextManager[Callable[[int, int], float]]:
        """Makes fetches of so many bytes from an offset on (within PROBE_BYTES) into memory of their own, and gives
        their seconds."""

    def remove(self, name: str) -> None:
        """Remove a network; none of its batches may be in flight."""

    def close(self) -> None:
        """Remove all networks and free the device's memory."""


class AcceleratorAdapter(Protocol):
    """One device, and the way of a model onto it."""

    @property
    def device(self) -> Accelerator:
        """What the executor drives."""

    @property
    def reserved_bytes(self) -> int:
        """Memory for weights in flight that no measurement of what the process uses shows."""

    @property
    def room_bytes(self) -> int:
        """For units that stay beside those in flight."""

    @property
    def whole_bytes(self) -> int:
        """For units that stay where none is ever in flight."""

    def keep(self, name: str, positions: frozenset[int]) -> None:
        """Keep these of its units in memory (and no others); batches that have begun keep what there was."""

    def forget(self) -> None:
        """As NetworkAccelerator.forget."""

    def keep_profile(self, name: str, profile: Profile) -> None:
        """For the next load of a model that is here."""

    def add(self, source: ModelSource, effort: Effort, share: int) -> AddedModel:
        """Load a model onto the device; its first units stay within `share` bytes. Raises LoadError with what to
        change."""

    def remove(self, name: str) -> None:
        """Unload a model; none of its batches may be in flight."""

    def close(self) -> None:
        """Unload everything and give the device back."""


def adapter_of(kind: str, settings: LayerwiseSettings, host: Host) -> AcceleratorAdapter:
    """For a kind of accelerator. Raises LoadError for one on which nothing runs layer by layer."""
    if kind == KIND_EMULATED:
        return _EmulatedAdapter(settings, host)
    found = accelerator_of(kind)
    if found is None:
        raise LoadError(f'layerwise does not know accelerator {kind!r}: write layerwise: {{mode: "Off"}}')
    on_cpu = found.torch_device == "cpu"
    return _cpu_adapter(settings, host) if on_cpu else _cuda_adapter(settings, host)


def _cpu_adapter(settings: LayerwiseSettings, host: Host) -> _NetworkAdapter:
    device = CpuAccelerator(max(PAGE, settings.flight_bytes))
    processor = f"{processor_name()} x{host.threads} serving"

    def profile(name: str, rows: int, effort: Effort) -> Profile:
        return measured(device.network(name), device.reader(name), rows, processor, effort)

    # The pool is shared memory to the kernel: no part of what the process is seen to hold.
    return _NetworkAdapter(device, profile, settings, host, processor, device.ring.capacity)


def _cuda_adapter(settings: LayerwiseSettings, host: Host) -> _NetworkAdapter:
    # Imported only here: it imports torch.
    from batchwright_worker.layerwise.execution.cuda import CudaAccelerator

    device = CudaAccelerator(settings.flight_bytes)
    # The driver counts the arena as used, like everything else on the device.
    return _NetworkAdapter(device, device.measured, settings, host, device.driver.name, 0)


class _NetworkAdapter:
    """A CPU or a GPU with networks from files; `profile` measures a network there at a number of rows."""

    def __init__(
        self,
        device: NetworkAccelerator,
        profile: Callable[[str, int, Effort], Profile],
        settings: LayerwiseSettings,
        host: Host,
        processor: str,
        reserved_bytes: int,
    ) -> None:
        self.device, self._profile, self._host, self._processor = device, profile, host, processor
        self.reserved_bytes = reserved_bytes
        self.room_bytes = settings.resident_bytes
        # The memory for weights in flight can be given back where it is the kernel's; a GPU's arena stays.
        self.whole_bytes = settings.memory_budget_bytes if reserved_bytes else settings.resident_bytes

    def add(self, source: ModelSource, effort: Effort, share: int) -> AddedModel:
        """Cut, prepare, measure (each once, kept on disk), and keep the first units."""
        capacity = self.device.ring.capacity
        try:
            network = self._opened(source, capacity)
        except NotDivisible as error:
            raise LoadRefusedError(f"model {source.name!r} cannot be served layer by layer: {error}") from error
        resident = leading(network, share)
        flying = [unit.size for position, unit in enumerate(network.index.units) if position not in resident]
        if max(flying, default=0) > capacity:
            network.close()
            raise LoadRefusedError(
                f"model {source.name!r}: a unit of {max(flying)} bytes cannot be split further, and "
                f"{capacity} of layerwise.memoryBudgetBytes are for weights in flight: raise memoryBudgetBytes to "
                f"{-(-max(flying) * 4 // 3)} or more"
            )
        try:
            self.device.add(source.name, network)
        except BaseException:
            network.close()
            raise
        try:
            self.device.keep(source.name, resident)
            profiles = [self._profile(source.name, rows, effort) for rows in _PROFILED_ROWS]
        except BaseException:
            self.device.remove(source.name)
            raise
        return AddedModel(
            inputs=network.inputs,
            outputs=network.outputs,
            profiles=profiles,
            resident=resident,
            table_bytes=network.index.table_bytes,
        )

    def keep(self, name: str, positions: frozenset[int]) -> None:
        self.device.keep(name, positions)

    def forget(self) -> None:
        self.device.forget()

    def keep_profile(self, name: str, profile: Profile) -> None:
        write_profile(self.device.network(name).folder, profile)

    def remove(self, name: str) -> None:
        self.device.remove(name)

    def close(self) -> None:
        self.device.close()

    def _opened(self, source: ModelSource, capacity: int) -> Network:
        on_gpu = accelerator_for(self._host).torch_device != "cpu"
        if on_gpu and source.format in DIVISIBLE and source.format not in _ON_GPU:
            raise NotDivisible(f"on a GPU layerwise serves {listed(_ON_GPU)}")
        folder = cache_folder()
        floor = fetch_floor(folder, self._processor, self.device.fetch_probe)
        return open_network(source, self._host, folder, *unit_limits(capacity, floor.least_bytes))


class _EmulatedAdapter:
    """An emulated accelerator: a model is _EMULATED_UNITS equal units; its load time is that of all their fetches."""

    def __init__(self, settings: LayerwiseSettings, host: Host) -> None:
        self.device = EmulatedAccelerator(settings.flight_bytes, self._answer)
        self.reserved_bytes = self.device.ring.capacity
        self.room_bytes, self.whole_bytes = settings.resident_bytes, settings.memory_budget_bytes
        self._host = host
        self._models: dict[str, Any] = {}

    def add(self, source: ModelSource, effort: Effort, share: int) -> AddedModel:
        from batchwright_worker.backends.emulated import answering

        emulated = source.emulated
        if emulated is None:
            raise LoadError(f"model {source.name!r} has no emulated section; the emulated accelerator runs no other")
        size = -(-emulated.weights_bytes // _EMULATED_UNITS)
        if size > self.device.ring.capacity:
            raise LoadRefusedError(
                f"model {source.name!r}: a unit of {size} bytes is larger than the {self.device.ring.capacity} of "
                "layerwise.memoryBudgetBytes that are for weights in flight: raise memoryBudgetBytes"
            )
        self._models[source.name] = model = answering(source, emulated, self._host)
        profiles = [_emulated_profile(source.name, emulated, size, rows) for rows in (1, 64)]
        return AddedModel(inputs=model.inputs, outputs=model.outputs, profiles=profiles, resident=frozenset())

    def keep(self, name: str, positions: frozenset[int]) -> None:
        """There are no bytes: it is in the plan alone."""

    def forget(self) -> None:
        """There are no bytes."""

    def keep_profile(self, name: str, profile: Profile) -> None:
        """It is what the manifest says."""

    def remove(self, name: str) -> None:
        del self._models[name]

    def close(self) -> None:
        self._models.clear()

    def _answer(self, batch: LayerwiseBatch) -> Mapping[str, Array]:
        """Each row's argmax, as the emulated model gives it; the time has passed already."""
        answer: Mapping[str, Array] = self._models[batch.model].answer(
            {name: np.asarray(array) for name, array in batch.inputs.items()}, batch.rows
        )
        return answer


def leading(network: Network, share: int) -> frozenset[int]:
    """The first units that fit into `share` bytes, in order (all of a small network)."""
    return first_within(enumerate(unit.size for unit in network.index.units), share)


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
