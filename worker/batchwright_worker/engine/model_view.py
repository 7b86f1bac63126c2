"""The sidecar's state for the operator, and when it is worth a new revision. Pure.

A change of batch size, of a model's state or of readiness is one at once; measured values only when they have moved by
more than a tenth at the end of a window.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from batchwright_worker.api.messages import BoundsState, ChangeState, HoldState, ModelState, TuningState
from batchwright_worker.engine.counters import ModelCounters
from batchwright_worker.engine.tuning_state import latency_target_met
from batchwright_worker.scheduler.batch_size.tuning import TuningDecision
from batchwright_worker.scheduler.served_model import ServedModel
from batchwright_worker.scheduler.window_counts import WindowCounts, percentile

T = TypeVar("T")
MOVED: Final = 0.1
"""A measured value has moved by more than this share of the larger. The operator has a rule of its own
(`operator/batchwright_operator/status/write_policy.py`), because it decides on something else: here, whether to wake
its long poll, about seconds and ratios below 1; there, whether to write to etcd, about milliseconds and rows of all
replicas, so that less than one does not count and measured values wait for an interval."""
MOST_CHANGES: Final = 8
HELD_WINDOWS: Final = 8
"""Why a size is held is told from so many windows: the reason of a single one turns with the noise."""


@dataclass(slots=True, kw_only=True)
class ModelView:
    """The published state of one model without its counters: its state, its last window, its newest changes of size."""

    name: str
    batch_size: int
    state: str = "Loading"
    message: str = ""
    mode: str = ""
    resting: bool = False
    """Not served for a while for what it has cost the others; that does not make the replica unready, or a poison
    request would take it from everybody."""
    decision: TuningDecision | None = None
    throughput: float = 0.0
    latency_counts: list[int] = field(default_factory=list)
    changes: deque[ChangeState] = field(default_factory=lambda: deque(maxlen=MOST_CHANGES))
    _held: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=HELD_WINDOWS))
    """Reason and rule of the last windows that held the size."""
    _bounds: deque[BoundsState] = field(default_factory=lambda: deque(maxlen=HELD_WINDOWS))
    """What bounded batches at the ends of the last windows."""
    _shown: Mapping[str, float] = field(default_factory=dict)

    def window_closed(self, decision: TuningDecision, counts: WindowCounts, bounds: BoundsState, wall: float) -> bool:
        """A window has ended; is that worth a new revision?"""
        window = decision.window
        before = self._told()
        self.decision = decision
        if decision.changed:
            self._held.clear()
        elif decision.rule != "Idle":
            self._held.append((decision.reason, decision.rule))
        self._bounds.append(bounds)
        self.throughput = window.served
        self.latency_counts = counts.latency_counts()
        if decision.previous != self.batch_size:
            self.resized(decision.previous, "Initial", "the first batches predict that so many rows are best", wall)
        self.batch_size = decision.size
        if decision.changed:
            self.changes.append(_change(decision, wall))
        measured = {
            "throughput": window.served,
            "p50": percentile(counts.latencies, 0.5),
            "p95": window.latency_s,
            "busy": window.busy,
        }
        news = decision.changed or before != self._told() or moved(self._shown, measured)
        if news:
            self._shown = measured
        return news

    def _told(self) -> tuple[object, ...]:
        """What is news at once when it turns."""
        decision = self.decision
        usually = self.usually
        return (
            decision is not None and (decision.target_met, decision.tuner.searching), usually.reason, usually.bound_by
        )  # fmt: skip

    def resized(self, to_size: int, reason: str, message: str, wall: float) -> None:
        """The size changed apart from a window (the warm-up has predicted one)."""
        if to_size != self.batch_size:
            self.changes.append(
                ChangeState(
                    time=wall,
                    from_size=self.batch_size,
                    to_size=to_size,
                    reason=reason,
                    message=message,
                    rule="FirstSize",
                )
            )
            self.batch_size = to_size

    def set_state(self, state: str, message: str = "", *, resting: bool = False) -> bool:
        """Enter a state; True if that is news."""
        news = (state, message) != (self.state, self.message)
        self.state, self.message, self.resting = state, message, resting
        return news

    def as_message(self, counters: ModelCounters, served: ServedModel, tuning: TuningState) -> ModelState:
        """The wire message."""
        decision = self.decision
        return ModelState(
            name=self.name,
            state=self.state,
            message=self.message,
            mode=self.mode,
            batch_size=served.tuner.size,
            trend=decision.trend.direction if decision else "Flat",
            trend_z=round(decision.trend.z, 4) if decision else 0.0,
            latency_target_met=latency_target_met(served, decision),
            searching=decision.tuner.searching if decision else True,
            throughput=round(self.throughput, 3),
            queue_length=served.queue.rows,
            latency_counts=self.latency_counts,
            rows_total=counters.rows,
            refused_total=counters.refused_total,
            failed_total=counters.failed_rows,
            tuning=tuning,
            changes=list(self.changes),
        )

    @property
    def usually(self) -> HoldState:
        """See `HoldState`."""
        reason, rule = _most_frequent(self._held) or ("", "")
        caps = sorted(bounds.cap for bounds in self._bounds)
        return HoldState(
            reason=reason,
            rule=rule,
            bound_by=_most_frequent([bounds.bound_by for bounds in self._bounds]) or "",
            cap=caps[len(caps) // 2] if caps else 0,
        )


def moved(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Has any value changed by more than a tenth (of the larger of the two)?"""
    if not before:
        return any(after.values())
    return any(abs(value - before[name]) > MOVED * max(abs(value), abs(before[name])) for name, value in after.items())


def _change(decision: TuningDecision, wall: float) -> ChangeState:
    return ChangeState(
        time=wall,
        from_size=decision.previous,
        to_size=decision.size,
        reason=decision.reason,
        message=decision.message,
        rule=decision.rule,
    )


def _most_frequent(values: Sequence[T]) -> T | None:
    """Of equally frequent ones the newest."""
    counts = Counter(reversed(values))
    return max(counts, key=counts.__getitem__, default=None)
