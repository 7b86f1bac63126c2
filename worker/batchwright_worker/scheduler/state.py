"""What the scheduler is told beside requests and batches: devices that come and go, loads, measurements, windows. Pure.

Nothing outside changes a model's or a device's books but by these methods and those of `scheduler`: a log of the
calls, with their plain arguments, is all that it takes to repeat every decision (`recording`, `replay`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from batchwright_worker.inference.runtime import LoadReport, MemoryReport
from batchwright_worker.scheduler.batch_size.values import TuningDecision
from batchwright_worker.scheduler.devices import DeviceBooks, Eviction, ResidentModel
from batchwright_worker.scheduler.dispatch import LoadModel
from batchwright_worker.scheduler.order import Order
from batchwright_worker.scheduler.served_model import ModelConfig, ServedModel, serve
from batchwright_worker.scheduler.steps import Batch
from batchwright_worker.scheduler.window_counts import WindowCounts


@dataclass(slots=True)
class SchedulerState:
    """All models and devices of one sidecar. Devices appear by `add_device`."""

    order: Order = "Balanced"
    eviction: Eviction = "LeastWorth"
    models: dict[str, ServedModel] = field(default_factory=dict)
    devices: dict[str, DeviceBooks] = field(default_factory=dict)
    former: dict[str, list[str]] = field(default_factory=dict)
    """Per lost device what it held, to be loaded when it is back."""

    def holders(self, model: str) -> list[DeviceBooks]:
        """Devices that hold the model."""
        return [books for books in self.devices.values() if model in books.held]

    def nowhere(self, model: str) -> bool:
        """Is it in no memory, and barred from every device that is up?"""
        up = [books for books in self.devices.values() if not books.down]
        return not self.holders(model) and all(model in books.barred for books in up)

    def add_model(self, plan: ModelConfig, now: float) -> ServedModel:
        self.models[plan.name] = served = serve(plan, now)
        return served

    def add_device(self, books: DeviceBooks) -> None:
        self.devices[books.name] = books

    # --- devices ---

    def measured(self, device: str, report: MemoryReport) -> None:
        """A runtime has told its memory."""
        self.devices[device].measured(report)

    def runtime_lost(self, device: str) -> bool:
        """Its process is gone, and with it all that it held; False if that was known already."""
        books = self.devices[device]
        if books.down:
            return False
        self.former[device] = books.lose()
        return True

    def runtime_back(self, device: str) -> list[str]:
        """An empty process has taken its place; the models that the old one held."""
        self.devices[device].down = False
        return self.former.pop(device, [])

    def out_of_memory(self, device: str, model: str, rows: int) -> int:
        """A batch of `rows` did not fit; the most rows that are tried from now on."""
        return self.devices[device].limit(model, rows)

    # --- batches and answers ---

    def retains(self, batch: Batch, retained_bytes: int) -> None:
        """What the model keeps of its batches' memory on that device, as the runtime measured it."""
        held = self.devices[batch.run.device].held.get(batch.run.model)
        if held is not None:
            held.retained_bytes = retained_bytes

    def answered(self, model: str, rows: int, latency_s: float) -> None:
        """A caller has got its result, so long after its arrival."""
        self.models[model].window.answered(rows, latency_s)

    # --- loads ---

    def resides(self, device: str, model: str, memory_bytes: int) -> None:
        """It is there and has served already (simulations begin so)."""
        books = self.devices[device]
        books.held[model] = ResidentModel(memory_bytes=memory_bytes, served=True)
        if books.total_bytes:
            books.free_bytes -= memory_bytes

    def tried(self, model: str, rows: int, device_s: float, batch_bytes: int) -> None:
        """A batch of the warm-up has run."""
        served = self.models[model]
        served.ran((), rows, device_s)
        served.footprint.ran(rows, batch_bytes)

    def warmed_up(self, model: str) -> int:
        """The warm-up has ended; the batch size to begin with."""
        served = self.models[model]
        served.warmed_up()
        return served.tuning.size

    def begin_load(self, load: LoadModel, now: float) -> LoadModel:
        """Enter a load (and its unloads) into the books."""
        books, footprint = self.devices[load.device], self.models[load.model].footprint
        for victim in load.unload:
            books.unload(victim)
        books.start_load(load.model, footprint.load_bytes, now, now + footprint.load_s)
        return load

    def load_ended(self, load: LoadModel, report: LoadReport, now: float) -> None:
        """The model is there; a `MemoryReport` should follow."""
        books, served = self.devices[load.device], self.models[load.model]
        expected = served.footprint.load_bytes
        served.footprint.loaded(report)
        books.end_load(load.model, served.footprint.load_bytes, now)
        if books.total_bytes:
            books.free_bytes -= served.footprint.load_bytes - expected
        served.blocked = ""

    def load_failed(self, load: LoadModel, now: float) -> None:
        """The load raised; its device is free again, and not tried for this model before `let_in`."""
        books = self.devices[load.device]
        books.fail_load(self.models[load.model].footprint.load_bytes, now)
        books.barred.add(load.model)

    def load_kills(self, device: str, model: str) -> None:
        """Loading it has cost this device its process again and again: not tried there before `let_in`."""
        self.devices[device].barred.add(model)

    def did_not_fit(self, load: LoadModel, now: float) -> bool:
        """The load ran out of memory: next time expect that it needs more than was free, so that idle models make
        room. False if there is nothing that could make room."""
        books, footprint = self.devices[load.device], self.models[load.model].footprint
        free = books.free_bytes + footprint.load_bytes
        self.load_failed(load, now)
        if not books.total_bytes or all(name == load.model for name in books.held):
            return False
        footprint.load_bytes = max(footprint.load_bytes, free + 1)
        books.barred.discard(load.model)
        return True

    def let_in(self, model: str) -> None:
        """Try this model again, everywhere."""
        self.models[model].blocked = ""
        for books in self.devices.values():
            books.barred.discard(model)

    def claim(self, device: str) -> None:
        """Start nothing more on it until `release`: a load or unload that no row asks for waits for it."""
        self.devices[device].claims += 1

    def release(self, device: str) -> None:
        """The end of one claim."""
        self.devices[device].claims -= 1

    def begin_eviction(self, device: str, model: str) -> None:
        """Take it out of an idle device's memory; the device counts as busy until `eviction_ended`."""
        books = self.devices[device]
        books.unload(model)
        books.loading = model

    def eviction_ended(self, device: str) -> None:
        """The runtime has given the memory back."""
        self.devices[device].loading = ""

    # --- windows ---

    def open_window(self, model: str, now: float) -> None:
        """There is traffic again: a window begins; what was offered just now counts in it."""
        served = self.models[model]
        served.window = WindowCounts(began=now, offered=served.window.offered)

    def close_window(self, model: str, now: float) -> tuple[TuningDecision, WindowCounts]:
        """Let the tuner decide on the window that ends now and begin a new one."""
        return self.models[model].close_window(now)
