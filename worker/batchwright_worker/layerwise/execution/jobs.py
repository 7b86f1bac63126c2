"""The executor's terms: batches, the jobs that their units become, and the accelerator with its two engines.

Times are seconds of one monotonic clock (`time.monotonic`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from batchwright_worker.inference.requests import Array
from batchwright_worker.layerwise.core.values import Layer
from batchwright_worker.layerwise.memory.ring import Ring

__all__ = ["Accelerator", "DeviceEngine", "Interval", "LayerwiseBatch", "Settled", "UnitJob", "UnitRecord"]

Settled = Callable[["LayerwiseBatch"], None]


class Interval(NamedTuple):
    """From when to when an engine worked on a job, as measured."""

    start: float
    end: float


@dataclass(slots=True, kw_only=True, eq=False)
class LayerwiseBatch:
    """One run of a model on `rows` rows. `settled` is called once, on a thread of the executor, when `outputs` or
    `error` is there. `layers`: its units as planned, in steps (`core.steps`)."""

    model: str
    inputs: Mapping[str, Array]
    rows: int
    layers: tuple[Layer, ...]
    settled: Settled
    arrival: float = 0.0
    order: int = 0
    state: Any = None
    kept: Mapping[int, Any] = field(default_factory=dict)
    """Its model's resident units as of `begin`, by position: they stay for this batch whatever changes meanwhile."""
    staged: object = None
    """The device's own: what it holds for the batch until all its units have passed."""
    outputs: Mapping[str, Array] = field(default_factory=dict)
    error: BaseException | None = None
    began: float = 0.0
    """Start of its first fetch; 0 before."""
    answered: bool = False
    """Has somebody undertaken to settle it?"""
    on_its_way: int = 0
    """Its units that were decided and have not passed both engines."""
    given_up: bool = False
    """It has failed, and none of its units will be decided any more."""


@dataclass(slots=True, kw_only=True, eq=False)
class UnitJob:
    """One unit of one batch on its way through both engines. `offset`: where its weights lie in the device's memory
    (meaningless where `bytes` is 0). `started`, `placed`: up to which byte its fetch was started, and may be; `behind`:
    the job behind whose compute the room up to there comes free, None if it is free."""

    batch: LayerwiseBatch
    position: int
    bytes: int
    sequence: int
    skips: int
    decision_s: float
    offset: int = 0
    started: int = 0
    placed: int = 0
    behind: UnitJob | None = None
    pauses: int = 0
    """How often its fetch stood still for want of room."""
    fetch: Interval | None = None
    fetch_s: float = 0.0
    """Seconds of its fetch without the pauses."""
    error: BaseException | None = None
    events: object = None
    """The device's own: what shows it when the job has ended."""

    @property
    def last(self) -> bool:
        return self.position == len(self.batch.layers) - 1

    @property
    def works(self) -> bool:
        """Neither it nor its batch has failed: engines do their work on it."""
        return self.error is None and self.batch.error is None


class UnitRecord(NamedTuple):
    """One unit as it ran."""

    model: str
    order: int
    position: int
    rows: int
    bytes: int
    arrival: float
    fetch_start: float
    fetch_end: float
    compute_start: float
    compute_end: float
    planned: Layer
    skips: int
    decision_s: float
    fetch_s: float
    """Of the fetch without its pauses for room."""


class DeviceEngine(Protocol):
    """One of a device's two engines; takes jobs in order. Used by one thread."""

    @property
    def ahead(self) -> int:
        """Jobs that may be started behind one that has not ended (0: `finish` does all the work)."""

    def start(self, job: UnitJob) -> None:
        """Begin, or queue behind what was started before; with `ahead` 0 it may do the work. The memory engine is
        given a job once per piece of its fetch: it brings the bytes from `started` to `placed`, behind the compute of
        `behind`, and counts what it takes in `fetch_s`."""

    def finish(self, job: UnitJob) -> Interval:
        """Wait until the oldest started job has ended. What goes wrong is left in `job.error`."""


class Accelerator(Protocol):
    """A device: its engines, and the bounded memory between them."""

    @property
    def ring(self) -> Ring:
        """Where the weights in flight lie; the executor alone places and retires them."""

    @property
    def piece_bytes(self) -> int:
        """What a fetch that pauses for room moves at a time."""

    @property
    def memory(self) -> DeviceEngine:
        """Fetches weights."""

    @property
    def compute(self) -> DeviceEngine:
        """Runs units."""

    @property
    def chained(self) -> bool:
        """Does the device itself wait: a unit's compute for its fetch, a fetch for the compute that frees its room?"""

    def begin(self, batch: LayerwiseBatch) -> None:
        """Make its `state`; raises what is wrong with the inputs."""

    def end(self, batch: LayerwiseBatch) -> Mapping[str, Array]:
        """Its outputs, after the last unit."""

    def release(self, batch: LayerwiseBatch) -> None:
        """Nothing that was queued for the batch runs any more: what was staged for it may be used again."""
