"""One model as the scheduler keeps it: what the user set, its queue, its fitted speed, its tuned size. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from batchwright_worker.api import model as manifest_model
from batchwright_worker.scheduler import time_limits
from batchwright_worker.scheduler.admission import DecayingRate, in_time_size
from batchwright_worker.scheduler.batch_size import controller
from batchwright_worker.scheduler.batch_size.device_time import UNKNOWN, Curve, DeviceTime
from batchwright_worker.scheduler.batch_size.fitted_size import REACH, expected, first_size, fitted_size, of_load_table
from batchwright_worker.scheduler.batch_size.tuning import TunerState, TuningConfig, TuningDecision
from batchwright_worker.scheduler.devices import UNBOUNDED, Footprint
from batchwright_worker.scheduler.queues import MIDDLE_PRIORITY, Bucket, IsolatedBucket, ModelQueue, shape_of
from batchwright_worker.scheduler.window_counts import WindowCounts

DEMAND_MEMORY_S = 10.0
"""Time constant of a model's demand, which decides what is evicted: longer than that of the offered rate, so that a
model between two of its requests is still worth keeping."""
UNSEEN_SHARE = 0.03
UNSEEN_S = 0.0015
MOST_UNSEEN_SHARE = 0.2
"""This much of a latency target is kept for what the sidecar cannot see, the way from the caller and back: a share, at
least UNSEEN_S, at most a larger share. Without it an overloaded device answers a millisecond late (simulated:
366 instead of 429 in time per second at ten times the load); it costs next to nothing."""
OVERHEAD_WEIGHT = 0.1
"""Share of the newest batch in the smoothed overhead."""
PROBE_S = 1.0
PROBE_TURNS = 20.0
"""What is predicted of a model is doubted when no batch of it has run for PROBE_S and for PROBE_TURNS times what one
row is predicted to take: a prediction by which all requests are too late is never corrected unless one is tried."""
FACTS_S = 0.005
"""Derived facts may lag this much behind the offered rate: they are not derived again for every request."""
USED_MEMORY_S = 1.0
"""Time constant of a model's use of the device: where one of two must be late, who has used more makes way."""
MOST_BUCKETS = 64
"""Shape buckets that keep a fit of their own; the model's overall fit serves the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What the user set for one model. `load_bytes`: what a load is expected to take before one was measured.
    `load_table`: what the benchmark measured of this processor, (batch size, images per second) per row of it."""

    name: str
    tuning: TuningConfig
    initial_size: int | None = None
    load_table: tuple[tuple[int, float], ...] = ()
    window_s: float = 1.0
    queue_delay_s: float = 0.0
    queue_limit: int = 10_000
    load_bytes: int = 0
    bytes_per_row: int = 0
    run_limit_s: float | None = None
    load_limit_s: float | None = None
    """The longest that a run and a load may take, as the manifest has them."""
    admits_all: bool = False
    """No admission by latency (only to show what that leads to)."""


def config_of(
    model: manifest_model.Model,
    load_bytes: int = 0,
    bytes_per_row: int = 0,
    load_table: Sequence[tuple[int, float]] = (),
) -> ModelConfig:
    """From the manifest, and what is known of the processor."""
    batching, targets = model.batching, model.targets
    latency = targets.latency_milliseconds
    return ModelConfig(
        name=model.name,
        tuning=TuningConfig(
            min_size=batching.min_size,
            max_size=max(batching.min_size, batching.max_size),
            step=batching.step,
            trend_length=batching.trend_length,
            latency_s=_seconds(latency),
            throughput=None if targets.throughput is None else float(targets.throughput),
            controller=batching.controller,
        ),
        initial_size=batching.initial_size,
        load_table=tuple(load_table),
        window_s=batching.window_milliseconds / 1e3,
        queue_delay_s=batching.max_queue_delay_milliseconds / 1e3,
        queue_limit=batching.max_queue_length,
        load_bytes=load_bytes,
        bytes_per_row=bytes_per_row,
        run_limit_s=_seconds(model.limits.run_milliseconds),
        load_limit_s=_seconds(model.limits.load_milliseconds),
    )


def _of_whole(config: ModelConfig) -> ModelConfig:
    """With nothing to tune."""
    tuning = replace(config.tuning, min_size=1, max_size=1, step=1)
    return replace(config, tuning=tuning, initial_size=None)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


class BatchBounds(NamedTuple):
    """What bounds a batch, each bound with all before it: the tuned `size`; the `knee` from which more is no faster;
    the `reach` of what was measured; n* of admission (`in_time`); what leaves models with tighter targets in time
    (`fair_share`, but at least half of the throughput)."""

    size: int
    knee: int
    reach: int
    in_time: int
    fair_share: int

    @property
    def cap(self) -> int:
        """Most rows of a batch."""
        return max(1, self.fair_share)


@dataclass(slots=True)
class BucketFacts:
    """What decisions need to know of one bucket, derived from everything learned: good for FACTS_S and one `version`.
    `curve`: device time; `turnaround`: from the start of a batch to its answers; `cap`: most rows of a batch, and the
    `bounds` that it follows from; `rate`: rows offered per second."""

    curve: Curve
    turnaround: Curve
    bounds: BatchBounds
    cap: int
    rate: float
    until: float
    version: int


@dataclass(slots=True, kw_only=True)
class ServedModel:
    """What is known of one model while it is served: its queue, its fits, its tuner."""

    config: ModelConfig
    queue: ModelQueue
    footprint: Footprint
    tuner: TunerState
    window: WindowCounts
    reference: Curve = UNKNOWN
    """Device time of the benchmark's reference model on this processor."""
    largest_ran: int = 0
    """Most rows of any batch so far."""
    last_bucket: Bucket = ()
    """Of the newest batch."""
    overall: DeviceTime = field(default_factory=DeviceTime)
    by_bucket: dict[Bucket, DeviceTime] = field(default_factory=dict)
    offered: DecayingRate = field(default_factory=DecayingRate)
    demand: DecayingRate = field(default_factory=lambda: DecayingRate(memory_s=DEMAND_MEMORY_S))
    offered_by: dict[int, DecayingRate] = field(default_factory=dict)
    """The offered rate by level of priority; empty while only one was ever seen."""
    used: DecayingRate = field(default_factory=lambda: DecayingRate(memory_s=USED_MEMORY_S))
    """Seconds of device time that it takes per second."""
    overhead_s: float = 0.0
    """Smoothed time of a batch beyond its device time: copies, the way to the runtime and back."""
    around_s: float = 0.0
    """`overhead_s` in tenths of a millisecond: until it has moved by one, sums with it need not be made again."""
    batch_s: float = 0.0
    """Smoothed time of a batch."""
    ran_at: float = -math.inf
    """When a batch of it ended last."""
    use: float = 0.0
    """`used` as of the last rebalance (see `fair_share`): orders compare it many times per decision."""
    capacity_share: float = 1.0
    """Share of the device's time that other models leave to this one's waiting rows (see `fair_share`)."""
    max_batch_s: float = math.inf
    """How long a batch may take for the sake of models with tighter targets (see `fair_share`)."""
    _version: int = 0
    _turnarounds: dict[Bucket, tuple[Curve, float, Curve]] = field(default_factory=dict)
    _facts: dict[Bucket, BucketFacts] = field(default_factory=dict)
    whole: bool = False
    """Its requests have no rows: each is a batch of its own."""
    blocked: str = ""
    """Why it must not be loaded now: unloaded by request, or failed to load."""
    blocked_until: float = 0.0

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def target_s(self) -> float | None:
        """The latency that admission allows: the target less what callers see beyond it, their network."""
        latency_s = self.config.tuning.latency_s
        if self.config.admits_all or latency_s is None:
            return None
        return latency_s - min(MOST_UNSEEN_SHARE * latency_s, max(UNSEEN_SHARE * latency_s, UNSEEN_S))

    def curve(self, bucket: Bucket) -> Curve:
        """The fit of this bucket, or of the whole model while the bucket has none."""
        times = self.by_bucket.get(shape_of(bucket))
        return times.curve if times is not None and times.samples else self.overall.curve

    def turnaround(self, bucket: Bucket) -> Curve:
        """Time from the start of a batch to its answers: the device time and what goes around it."""
        bucket = shape_of(bucket)
        curve = self.curve(bucket)
        known = self._turnarounds.get(bucket)
        if known is not None and known[0] is curve and known[1] == self.around_s:
            return known[2]
        if len(self._turnarounds) > MOST_BUCKETS:
            self._turnarounds.clear()
        turnaround = self.turnaround_of(curve)
        self._turnarounds[bucket] = (curve, self.around_s, turnaround)
        return turnaround

    def turnaround_measured(self, device_s: float, turnaround_s: float) -> None:
        """Learn what goes around a batch."""
        self.overhead_s += OVERHEAD_WEIGHT * (max(0.0, turnaround_s - device_s) - self.overhead_s)
        if (rounded_s := round(self.overhead_s, 4)) != self.around_s:
            self.around_s = rounded_s
            self._version += 1
        self.batch_s += OVERHEAD_WEIGHT * (turnaround_s - self.batch_s)

    def ran(self, bucket: Bucket, rows: int, device_s: float) -> None:
        """Learn from a batch. While there is but one bucket, its fit is the overall one."""
        self.last_bucket = bucket = shape_of(bucket)
        times = self.by_bucket.get(bucket)
        if times is None or rows > self.largest_ran or self.tuner.opening:
            # What bounds batches may change by more than the fit.
            self._version += 1
        self.largest_ran = max(self.largest_ran, rows)
        if not self.by_bucket:
            self.by_bucket[bucket] = self.overall
        elif bucket not in self.by_bucket and len(self.by_bucket) < MOST_BUCKETS:
            # The first bucket keeps the fit that it has had alone; from now on the overall one mixes the shapes.
            if len(self.by_bucket) == 1:
                self.overall = self.overall.copy()
            self.by_bucket[bucket] = DeviceTime()
        is_new = self.overall.observe(rows, device_s)
        times = self.by_bucket.get(bucket)
        if times is not None and times is not self.overall:
            is_new = times.observe(rows, device_s) or is_new
        if is_new:
            self._version += 1
        if self.tuner.opening and self._finds_size:
            # No warm-up has run: the first batches are one, of real rows.
            size = self.config.tuning.bounded(fitted_size(self.config.tuning, self.tuning_curve()))
            if not self.reference.known:
                # It only grows: what a few first batches took scatters, and knee and n* bound batches until the window
                # ends. Not so a size that was predicted from another model's times.
                size = max(size, self.tuner.size)
            self.tuner = replace(self.tuner, size=size)

    @property
    def _finds_size(self) -> bool:
        """Is the size found by fitting, from the first batch on?"""
        return self.config.initial_size is None and self.config.tuning.jumps

    def is_sized(self, bucket: Bucket) -> bool:
        """Is it the tuned size that bounds batches of this bucket? Where shapes are mixed, those whose own knee lies
        below it say nothing about it."""
        return len(self.by_bucket) < 2 or self._most(bucket, self.turnaround(bucket))[2] >= self.tuner.size

    def is_doubtful(self, bucket: Bucket, now: float) -> bool:
        """Has it not run for so long that its predictions may be wrong (see PROBE_S)?"""
        idle_s = now - self.ran_at
        return idle_s >= PROBE_S and idle_s >= PROBE_TURNS * self.turnaround(bucket).seconds(1)

    def facts(self, bucket: Bucket, now: float) -> BucketFacts:
        """See `BucketFacts`."""
        known = self._facts.get(bucket)
        if known is not None and known.version == self._version:
            if now >= known.until:
                self._follow_rate(known, now)
            return known
        if len(self._facts) > MOST_BUCKETS:
            self._facts.clear()
        rate, turnaround = self.offered.at(now), self.turnaround(bucket)
        bounds = self._bounds(self._most(bucket, turnaround), turnaround, rate)
        facts = BucketFacts(self.curve(bucket), turnaround, bounds, bounds.cap, rate, now + FACTS_S, self._version)
        self._facts[bucket] = facts
        return facts

    def _follow_rate(self, facts: BucketFacts, now: float) -> None:
        """Only the offered rate has changed since they were derived."""
        facts.rate, facts.until = self.offered.at(now), now + FACTS_S
        if self.target_s is not None:
            facts.bounds = self._bounds(facts.bounds[:3], facts.turnaround, facts.rate)
            facts.cap = facts.bounds.cap

    def fills(self, bucket: Bucket, rows: int, now: float) -> bool:
        """Are these rows a full batch? Less than half of what was one at the last decision are none."""
        # Asked of every waiting queue after every event: the known cap spares most of them the derivation.
        known = self._facts.get(bucket)
        return (known is None or 2 * rows >= known.cap) and rows >= self.facts(bucket, now).cap

    def offer(self, rows: int, level: int, now: float) -> None:
        """Rows arrive (they may be refused yet)."""
        self.offered.add(rows, now)
        if level != MIDDLE_PRIORITY or self.offered_by:
            self.offered_by.setdefault(level, DecayingRate()).add(rows, now)

    def rate_ahead(self, level: int, now: float) -> float:
        """Rows per second that are offered at this level or a higher priority. What came before the first priority was
        seen is not known by level, and forgotten within seconds."""
        return sum(rate.at(now) for other, rate in self.offered_by.items() if other <= level)

    def run_limit_s(self, bucket: Bucket, rows: int) -> float:
        """Seconds that a batch of these rows may take before its runtime is taken for hung."""
        times = self.by_bucket.get(shape_of(bucket))
        known = times is not None and rows <= times.curve.largest_seen
        predicted_s = self.curve(bucket).seconds(rows)
        isolated = isinstance(bucket, IsolatedBucket)
        return time_limits.run_limit_s(self.config.run_limit_s, predicted_s, known=known, isolated=isolated)

    def load_limit_s(self) -> float:
        """Seconds that a load may take before its runtime is taken for hung."""
        measured_s = self.footprint.load_s if self.footprint.measured else None
        return time_limits.load_limit_s(self.config.load_limit_s, measured_s)

    def unload_limit_s(self) -> float:
        """Seconds that giving its memory back may take."""
        return min(time_limits.UNLOAD_S, self.load_limit_s())

    def share(self, capacity_share: float, max_batch_s: float) -> None:
        """What other models leave to this one."""
        if (capacity_share, max_batch_s) != (self.capacity_share, self.max_batch_s):
            self.capacity_share, self.max_batch_s = capacity_share, max_batch_s
            self._version += 1

    def bounds(self, now: float) -> BatchBounds:
        """What bounds a batch of the shape that ran last."""
        turnaround = self.turnaround(self.last_bucket)
        return self._bounds(self._most(self.last_bucket, turnaround), turnaround, self.offered.at(now))

    def _bounds(self, most: tuple[int, int, int], turnaround: Curve, rate: float) -> BatchBounds:
        size, knee, reach = most
        in_time = reach
        if self.target_s is not None and turnaround.known:
            in_time = min(reach, in_time_size(turnaround, self.target_s, rate, reach))
        fair_share = in_time
        if self.max_batch_s < math.inf and turnaround.known:
            # On a line, a batch that takes as long as two rows one by one serves at least half of any other's rows per
            # second.
            longest_s = max(self.max_batch_s, 2 * turnaround.seconds(1))
            fair_share = min(in_time, turnaround.largest_within(longest_s, in_time))
        return BatchBounds(size, knee, reach, in_time, fair_share)

    def _most(self, bucket: Bucket, turnaround: Curve) -> tuple[int, int, int]:
        """The tuned size; where more is no faster for this shape; and how far what is known of it reaches."""
        size = self.tuner.size
        # Where the model itself takes next to no time, more rows are served for what goes around a batch.
        knee = min(size, turnaround.knee(size))
        return size, knee, min(knee, self._reach(bucket))

    def _reach(self, bucket: Bucket) -> int:
        """A shape among others is tried at twice the largest size that it was seen at, and so is a model whose size is
        predicted by its fit, so that no batch takes long by surprise."""
        times, known = self.by_bucket.get(shape_of(bucket)), len(self.by_bucket)
        if times is None and known > 0:
            return REACH if known < MOST_BUCKETS else UNBOUNDED
        if times is not None and known > 1:
            return REACH * times.curve.largest_seen
        if not self.config.tuning.jumps or (known and self.reference.known):
            return UNBOUNDED
        return max(self.config.initial_size or self.config.tuning.min_size, REACH * max(1, self.largest_ran))

    def serve_whole(self) -> None:
        """Its requests are of one row each, and each is a batch of its own: nothing is left to tune."""
        self._version += 1
        self.whole = True
        self.config = _of_whole(self.config)
        self.tuner = TunerState(size=1)

    def reconfigure(self, config: ModelConfig) -> None:
        """Other targets, bounds and limits. What was learned stays; what waits stays, and if it had to be answered
        within the old latency target, it has as long as the new one allows, if that is longer."""
        self._version += 1
        before, before_s = self.config, self.target_s
        self.config = config = _of_whole(config) if self.whole else config
        self.queue.limit = config.queue_limit
        if before_s is not None and (self.target_s is None or self.target_s > before_s):
            self.queue.extend(before_s, self.target_s)
        if (before.tuning, before.initial_size) != (config.tuning, config.initial_size):
            self.tuner = self._tuner_of(config)

    def _tuner_of(self, config: ModelConfig) -> TunerState:
        """The size is looked for again, from where it is. The wants of windows before say nothing of other targets:
        as a trend they would hold the size."""
        if not self.tuner.proposals:
            started = first_size(config.tuning, config.initial_size, self.tuning_curve())
            return replace(self.tuner, size=started.size)
        size = config.tuning.bounded(self.tuner.size)
        return replace(self.tuner, size=size, proposals=(size,), searching=True, missed=0)

    def warmed_up(self) -> None:
        """The warm-up has run: start at the size that its fit predicts, unless the user set one."""
        self._version += 1
        measured = self.overall.curve.batches >= 2
        if measured and not self.tuner.proposals:
            started = first_size(self.config.tuning, self.config.initial_size, self.overall.curve)
            self.tuner = replace(self.tuner, size=started.size, opening=False)

    def close_window(self, now: float, *, running: bool) -> tuple[TuningDecision, WindowCounts]:
        """Let the tuner decide on the window that ends now and begin a new one. `running`: a batch is in flight."""
        self._version += 1
        closed, self.window = self.window, WindowCounts(began=now)
        facts = closed.close(now, oldest=self.queue.oldest(), running=running or self.queue.rows > 0)
        decision = controller.decide(self.config.tuning, self.tuner, facts, self.tuning_curve())
        self.tuner = decision.tuner
        return decision, closed

    def tuning_curve(self) -> Curve:
        """What a batch takes from its start to its answers, for tuning: by the bucket's own fit where there is one,
        else by the overall one, which mixes the shapes and so knows no knee of its own (each bucket's bounds its
        batches)."""
        mixed = len(self.by_bucket) > 1
        curve = self.turnaround_of(self.overall.curve if mixed else self._only_curve())
        return replace(curve, linear=True, firm=()) if mixed else expected(curve, self.reference)

    def _only_curve(self) -> Curve:
        return next((times.curve for times in self.by_bucket.values()), self.overall.curve)

    def turnaround_of(self, curve: Curve) -> Curve:
        """A fit of device time with what goes around a batch."""
        return curve.plus(self.around_s) if curve.known else curve


def start_serving(config: ModelConfig, now: float) -> ServedModel:
    """A model that has served nothing yet."""
    reference = of_load_table(config.load_table)
    return ServedModel(
        config=config,
        queue=ModelQueue(model=config.name, limit=config.queue_limit),
        footprint=Footprint(load_bytes=config.load_bytes, bytes_per_row=config.bytes_per_row),
        tuner=first_size(config.tuning, config.initial_size, reference),
        window=WindowCounts(began=now),
        reference=reference,
    )
