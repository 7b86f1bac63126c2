"""One model as the scheduler keeps it: what the user set, its queue, its fitted speed, its tuned size. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from batchwright_worker import manifest_model
from batchwright_worker.sidecar import tuner
from batchwright_worker.sidecar.admission import OfferedRate, in_time_size
from batchwright_worker.sidecar.fit import Curve, DeviceTime
from batchwright_worker.sidecar.measures import WindowCounts
from batchwright_worker.sidecar.queues import Bucket, ModelQueue, shape_of
from batchwright_worker.sidecar.residency import Footprint
from batchwright_worker.sidecar.tuning import Rules, Tuning, Verdict

DEMAND_MEMORY_S = 10.0
OVERHEAD_WEIGHT = 0.1
MOST_BUCKETS = 64
"""Shape buckets that keep a fit of their own; the model's overall fit serves the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the user set for one model. `load_bytes`: what a load is expected to take before one was measured."""

    name: str
    rules: Rules
    initial_size: int | None = None
    window_s: float = 1.0
    queue_delay_s: float = 0.0
    queue_limit: int = 10_000
    load_bytes: int = 0
    bytes_per_row: int = 0
    admits_all: bool = False
    """No admission by latency (only to show what that leads to)."""


def plan_of(model: manifest_model.Model, load_bytes: int = 0, bytes_per_row: int = 0) -> Plan:
    """From the manifest."""
    batching, targets = model.batching, model.targets
    latency = targets.latency_milliseconds
    return Plan(
        name=model.name,
        rules=Rules(
            min_size=batching.min_size,
            max_size=max(batching.min_size, batching.max_size),
            step=batching.step,
            trend_length=batching.trend_length,
            latency_s=None if latency is None else latency / 1e3,
            throughput=None if targets.throughput is None else float(targets.throughput),
            controller=batching.controller,
        ),
        initial_size=batching.initial_size,
        window_s=batching.window_milliseconds / 1e3,
        queue_delay_s=batching.max_queue_delay_milliseconds / 1e3,
        queue_limit=batching.max_queue_length,
        load_bytes=load_bytes,
        bytes_per_row=bytes_per_row,
    )


@dataclass(slots=True, kw_only=True)
class Served:
    """The living side of a `Plan`."""

    plan: Plan
    queue: ModelQueue
    footprint: Footprint
    tuning: Tuning
    window: WindowCounts
    overall: DeviceTime = field(default_factory=DeviceTime)
    by_bucket: dict[Bucket, DeviceTime] = field(default_factory=dict)
    offered: OfferedRate = field(default_factory=OfferedRate)
    demand: OfferedRate = field(default_factory=lambda: OfferedRate(memory_s=DEMAND_MEMORY_S))
    overhead_s: float = 0.0
    """Smoothed time of a batch beyond its device time: copies, the way to the runtime and back."""
    _turns: dict[Bucket, tuple[Curve, float, Curve]] = field(default_factory=dict)
    blocked: str = ""
    """Why it must not be loaded now: unloaded by request, or failed to load."""
    blocked_until: float = 0.0

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def target_s(self) -> float | None:
        """The latency target that admission holds."""
        return None if self.plan.admits_all else self.plan.rules.latency_s

    def curve(self, bucket: Bucket) -> Curve:
        """The fit of this bucket, or of the whole model while the bucket has none."""
        times = self.by_bucket.get(shape_of(bucket))
        return times.curve if times is not None and times.samples else self.overall.curve

    def turn(self, bucket: Bucket) -> Curve:
        """Time from the start of a batch to its answers: the device time and what goes around it."""
        bucket = shape_of(bucket)
        curve, overhead_s = self.curve(bucket), round(self.overhead_s, 4)
        known = self._turns.get(bucket)
        if known is not None and known[0] is curve and known[1] == overhead_s:
            return known[2]
        if len(self._turns) > MOST_BUCKETS:
            self._turns.clear()
        turn = curve.plus(overhead_s) if curve.known else curve
        self._turns[bucket] = (curve, overhead_s, turn)
        return turn

    def turned(self, device_s: float, turn_s: float) -> None:
        """Learn what goes around a batch."""
        self.overhead_s += OVERHEAD_WEIGHT * (max(0.0, turn_s - device_s) - self.overhead_s)

    def ran(self, bucket: Bucket, rows: int, device_s: float) -> None:
        """Learn from a batch."""
        bucket = shape_of(bucket)
        self.overall.observe(rows, device_s)
        if bucket not in self.by_bucket and len(self.by_bucket) < MOST_BUCKETS:
            self.by_bucket[bucket] = DeviceTime()
        if (times := self.by_bucket.get(bucket)) is not None:
            times.observe(rows, device_s)

    def cap(self, bucket: Bucket, now: float) -> int:
        """Most rows of a batch of this bucket: the tuned size, n* of admission, and where more is no faster."""
        curve = self.curve(bucket)
        most = min(self.tuning.size, curve.knee(self.tuning.size))
        if self.target_s is not None and curve.known:
            most = min(most, in_time_size(self.turn(bucket), self.target_s, self.offered.at(now), most))
        return max(1, most)

    def warmed_up(self) -> None:
        """The warm-up has run: start at the size that its fit predicts, unless the user set one."""
        started = tuner.initial(self.plan.rules, self.plan.initial_size, self.overall.curve)
        if not self.tuning.wants:
            self.tuning = replace(self.tuning, size=started.size)

    def close_window(self, now: float) -> tuple[Verdict, WindowCounts]:
        """Let the tuner decide on the window that ends now and begin a new one."""
        closed, self.window = self.window, WindowCounts(began=now)
        verdict = tuner.decide(self.plan.rules, self.tuning, closed.close(now), self._mixed_curve())
        self.tuning = verdict.tuning
        return verdict, closed

    def _mixed_curve(self) -> Curve:
        """The fit for tuning: the bucket's own where there is one, else the overall one, which mixes the shapes and
        so knows no knee of its own (each bucket's knee bounds its batches in `cap`)."""
        if len(self.by_bucket) == 1:
            return next(iter(self.by_bucket.values())).curve
        curve = self.overall.curve
        return replace(curve, linear=True) if len(self.by_bucket) > 1 else curve


def serve(plan: Plan, now: float) -> Served:
    """A model that has served nothing yet."""
    return Served(
        plan=plan,
        queue=ModelQueue(model=plan.name, limit=plan.queue_limit),
        footprint=Footprint(load_bytes=plan.load_bytes, bytes_per_row=plan.bytes_per_row),
        tuning=Tuning(size=plan.initial_size or plan.rules.min_size),
        window=WindowCounts(began=now),
    )
