"""The batch size of one model, window by window: methods A6 (step), A7 (trend guard), A8 (stop rule). Pure.

*(ours)* A want has a cause (serving.md, 2): rows that wait want a larger batch, only a batch that is slow itself wants
a smaller one; a met target is held unless a larger batch would serve more rows; the size moves only when want and
trend agree, or fewer than four wants exist. Observations are arguments; every verdict is a value with its reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from batchwright_worker.scheduler.batch_size.device_time import Curve
from batchwright_worker.scheduler.batch_size.mann_kendall import FLAT, Trend, mann_kendall
from batchwright_worker.scheduler.window_counts import WindowFacts

Controller = Literal["Auto", "MannKendall", "Fitted"]
Reason = Literal[
    "Initial",
    "LatencyBelowTarget",
    "ThroughputBelowTarget",
    "RowsWaiting",
    "BatchTooSlow",
    "TargetMet",
    "TargetMissedOnce",
    "TrendDisagrees",
    "LoadChanged",
    "SpeedChanged",
    "AtMaximum",
    "AtMinimum",
    "NoFasterBeyond",
    "Overloaded",
    "NoRequests",
]
FREE_WANTS = 4
"""Below so many wants there is no trend to ask (A7, ours)."""
LOAD_RATIO = 0.3
SPEED_RATIO = 1.25
FULL = 0.85
"""Batches whose mean size is at least this share of the allowed size leave rows behind."""
BUSY = 0.85
"""From this busy share on, full batches mean that the device is the bottleneck."""
GAIN = 1.02
"""A larger size is worth it only if the fit says that twice the size serves more rows per second by this factor."""
OVERLOAD_SHARE = 0.75
"""While requests are refused, or a smaller batch could not serve all, a batch may take this share of the latency target
(n* of admission bounds it too)."""
HEADROOM = 1.1
"""A size that serves less than so many times the offered rows leaves no room for bursts."""
FIRM_BATCHES = 12
"""Auto trusts the fit once so many batches were seen."""
REACH = 2
"""The fit is trusted up to so many times the largest batch ever seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningConfig:
    """What the user set: bounds and targets (None: no such target), step, trend length, controller."""

    min_size: int = 1
    max_size: int = 32
    step: int = 1
    trend_length: int = 8
    latency_s: float | None = None
    throughput: float | None = None
    controller: Controller = "Auto"
    literal: bool = False
    """A6 to the letter: above the target always smaller, whatever the cause (only to show what that leads to)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunerState:
    """The tuner's memory. `held_*` describe what was true when the search stopped."""

    size: int
    wants: tuple[int, ...] = ()
    searching: bool = True
    missed: int = 0
    """Windows in a row in which a held size missed its target."""
    held_offered: float = 0.0
    held_device_s: float = 0.0
    """Device time of the held size as fitted then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningDecision:
    """One window's decision: `tuning` is the memory to keep; the size changed iff `size != previous`.

    `target_met` is None without requests or without any target.
    """

    tuning: TunerState
    previous: int
    want: int
    reason: Reason
    message: str
    trend: Trend = FLAT
    target_met: bool | None = None

    @property
    def size(self) -> int:
        return self.tuning.size

    @property
    def changed(self) -> bool:
        return self.size != self.previous


@dataclass(frozen=True, slots=True, kw_only=True)
class _Want:
    size: int
    reason: Reason
    because: str
    hold: bool = False
    """Nothing more to look for: the search ends here."""


def initial(rules: TuningConfig, initial_size: int | None, curve: Curve) -> TunerState:
    """The size to start with: what the user set, else what the fit (of the warm-up) predicts, else the smallest."""
    if initial_size is not None:
        size = initial_size
    elif curve.batches >= 2:
        size = fitted_size(rules, curve)
    else:
        size = rules.min_size
    return TunerState(size=_bounded(rules, size))


def decide(rules: TuningConfig, tuning: TunerState, window: WindowFacts, curve: Curve) -> TuningDecision:
    """Close one window. A window with no requests changes nothing."""
    if window.requests == 0:
        return TuningDecision(
            tuning=tuning, previous=tuning.size, want=tuning.size, reason="NoRequests", message="no requests"
        )
    met = targets_met(rules, window)
    reopened = _reopened(rules, tuning, window, curve, met)
    if reopened is not None:
        tuning = replace(tuning, searching=True, wants=(), missed=0)
    want = _want(rules, tuning, window, curve, met)
    if want.hold:
        return _hold(rules, tuning, window, curve, want, met)
    if not tuning.searching:
        return _pause(tuning, window, want, met)
    return _move(rules, tuning, want, met, reopened)


def targets_met(rules: TuningConfig, window: WindowFacts) -> bool | None:
    """A8: are all targets that were asked for met? A throughput that nobody offers is not missed."""
    if rules.latency_s is None and rules.throughput is None:
        return None
    in_time = rules.latency_s is None or window.latency_s <= rules.latency_s
    return in_time and not _throughput_missed(rules, window)


def fitted_size(rules: TuningConfig, curve: Curve, offered: float = 0.0) -> int:
    """The size that the fit predicts to be best: the largest whose batch takes at most half of the latency target
    (then the next batch is in time behind it too), as far as rows per second still rise; no target: as far as they rise
    by GAIN (a larger batch that serves no more only makes its rows wait for each other).
    Where that cannot serve all that is offered, the smallest that can within OVERLOAD_SHARE of the target."""
    most = min(rules.max_size, max(1, REACH * curve.largest_seen))
    most = min(most, curve.knee(most))
    if rules.latency_s is None:
        return _worthwhile(curve, most)
    size = max(1, curve.largest_within(rules.latency_s / 2, most))
    most = curve.largest_within(OVERLOAD_SHARE * rules.latency_s, most)
    while size < most and curve.rows_per_second(size) < HEADROOM * offered:
        size += 1
    return size


def _worthwhile(curve: Curve, most: int) -> int:
    """Of 1, 2, 4, ... and `most` the last one that serves more rows per second than the one chosen before by GAIN."""
    best, size = 1, 1
    while size < most:
        size = min(2 * size, most)
        if curve.rows_per_second(size) >= GAIN * curve.rows_per_second(best):
            best = size
    return best


def uses_fit(rules: TuningConfig, curve: Curve) -> bool:
    """Does this controller jump to the fitted size? Auto does once the fit is firm: simulated, that answers more in
    time than steps at every load tried (tests/engine/test_simulated_tables)."""
    if rules.controller == "Auto":
        return curve.batches >= FIRM_BATCHES and len(curve.points) >= 2
    return rules.controller == "Fitted" and curve.known


def _throughput_missed(rules: TuningConfig, window: WindowFacts) -> bool:
    return rules.throughput is not None and window.served < min(rules.throughput, 0.98 * window.offered)


def _reopened(
    rules: TuningConfig, tuning: TunerState, window: WindowFacts, curve: Curve, met: bool | None
) -> Reason | None:
    """Why a held search starts again, None if it does not (A8; a single noisy window is no reason)."""
    if tuning.searching:
        return None
    held, now = tuning.held_offered, window.offered
    noise = 3 * math.sqrt(max(held, now) / max(window.seconds, 1e-3))
    if abs(now - held) > max(LOAD_RATIO * held, noise):
        return "LoadChanged"
    predicted = curve.seconds(tuning.size)
    if tuning.held_device_s > 0 and not (1 / SPEED_RATIO < predicted / tuning.held_device_s < SPEED_RATIO):
        return "SpeedChanged"
    return "TargetMissedOnce" if met is False and tuning.missed >= 1 else None


def _want(rules: TuningConfig, tuning: TunerState, window: WindowFacts, curve: Curve, met: bool | None) -> _Want:
    """The size that this window asks for, and why."""
    target = rules.latency_s
    if rules.literal:
        return _literal(rules, tuning, window, met)
    if target is not None and window.latency_s > target:
        if window.device_s < target / 2:
            return _larger(rules, tuning, window, curve, "RowsWaiting")
        return _slow_batch(rules, tuning, window, curve)
    if _throughput_missed(rules, window):
        return _larger(rules, tuning, window, curve, "ThroughputBelowTarget")
    if _would_serve_more(rules, tuning, window, curve):
        return _larger(rules, tuning, window, curve, "RowsWaiting" if met is None else "LatencyBelowTarget")
    if met is None:
        because = f"no rows are left waiting at {_rate(window.served)} rows/s"
    else:
        because = f"p95 is {_ms(window.latency_s)} ms at {_rate(window.served)} rows/s"
    return _Want(size=tuning.size, reason="TargetMet", because=because, hold=True)


def _literal(rules: TuningConfig, tuning: TunerState, window: WindowFacts, met: bool | None) -> _Want:
    facts = f"p95 is {_ms(window.latency_s)} ms at {_rate(window.served)} rows/s"
    if met is not False:
        return _Want(size=tuning.size, reason="TargetMet", because=facts, hold=True)
    if rules.latency_s is not None and window.latency_s > rules.latency_s:
        return _Want(size=_bounded(rules, tuning.size - rules.step), reason="BatchTooSlow", because=facts)
    return _Want(size=_bounded(rules, tuning.size + rules.step), reason="ThroughputBelowTarget", because=facts)


def _slow_batch(rules: TuningConfig, tuning: TunerState, window: WindowFacts, curve: Curve) -> _Want:
    """Latency is above the target and the batch itself takes half of it or more."""
    assert rules.latency_s is not None
    ceiling = curve.rows_per_second(tuning.size)
    facts = f"p95 is {_ms(window.latency_s)} ms, the batch alone takes {_ms(window.device_s)} ms"
    bearable = window.device_s <= OVERLOAD_SHARE * rules.latency_s
    if bearable and HEADROOM * window.offered > ceiling > 0 and _worth_growing(rules, tuning, curve):
        return _larger(rules, tuning, window, curve, "RowsWaiting")
    if window.device_s < rules.latency_s and ceiling > 0 and window.offered > ceiling:
        because = f"{facts}, but {_rate(window.offered)} rows/s are offered and {_rate(ceiling)} are the ceiling"
        return _Want(size=tuning.size, reason="Overloaded", because=because, hold=True)
    size = tuning.size - rules.step
    if uses_fit(rules, curve):
        size = min(size, fitted_size(rules, curve, window.offered))
    size = _bounded(rules, size)
    if size == tuning.size:
        return _Want(size=size, reason="AtMinimum", because=facts, hold=True)
    return _Want(size=size, reason="BatchTooSlow", because=facts)


def _larger(rules: TuningConfig, tuning: TunerState, window: WindowFacts, curve: Curve, reason: Reason) -> _Want:
    """Rows wait, or more could be served: a larger size, unless the measurements say that it serves no more."""
    facts = (
        f"p95 is {_ms(window.latency_s)} ms, batches of {window.mean_rows:.1f} take {_ms(window.device_s)} ms, "
        f"{_rate(window.offered)} rows/s offered, {_rate(window.served)} served"
    )
    if tuning.size >= rules.max_size:
        return _Want(size=tuning.size, reason="AtMaximum", because=facts, hold=True)
    knee = curve.knee(rules.max_size)
    if tuning.size >= knee:
        because = f"{facts}; beyond {knee} rows the device serves no more per second"
        return _Want(size=_bounded(rules, knee), reason="NoFasterBeyond", because=because, hold=tuning.size == knee)
    size = tuning.size + rules.step
    if uses_fit(rules, curve):
        size = max(size, fitted_size(rules, curve, window.offered))
    return _Want(size=_bounded(rules, min(size, knee)), reason=reason, because=facts)


def _would_serve_more(rules: TuningConfig, tuning: TunerState, window: WindowFacts, curve: Curve) -> bool:
    """Are batches full, and would a larger one serve more rows per second and still leave the next one in time?"""
    refusing = window.offered > 1.05 * window.served
    if window.mean_rows < FULL * tuning.size or not (refusing or window.full_ratio >= 0.5 or window.busy >= BUSY):
        return False
    larger = tuning.size + rules.step
    gain: float = GAIN ** (rules.step / tuning.size)
    if curve.rows_per_second(larger) < gain * curve.rows_per_second(tuning.size):
        return False
    if rules.latency_s is None or curve.seconds(larger) <= rules.latency_s / 2:
        return True
    return refusing and curve.seconds(larger) <= OVERLOAD_SHARE * rules.latency_s


def _worth_growing(rules: TuningConfig, tuning: TunerState, curve: Curve) -> bool:
    """Would a larger batch serve more, and take at most OVERLOAD_SHARE of the target?"""
    larger = tuning.size + rules.step
    gains = curve.rows_per_second(larger) > GAIN ** (rules.step / tuning.size) * curve.rows_per_second(tuning.size)
    return gains and rules.latency_s is not None and curve.seconds(larger) <= OVERLOAD_SHARE * rules.latency_s


def _hold(
    rules: TuningConfig, tuning: TunerState, window: WindowFacts, curve: Curve, want: _Want, met: bool | None
) -> TuningDecision:
    """The search ends (or has ended): remember load and speed, to see when they change."""
    wants = (*tuning.wants, want.size)[-rules.trend_length :]
    held = replace(tuning, wants=wants, searching=False, missed=0 if met is not False else tuning.missed)
    if tuning.searching:
        held = replace(held, held_offered=window.offered, held_device_s=curve.seconds(tuning.size))
    return _verdict(tuning, held, want, want.reason, f"{want.because}; the size stays {tuning.size}", met)


def _pause(tuning: TunerState, window: WindowFacts, want: _Want, met: bool | None) -> TuningDecision:
    """A held size met a window that wants another: one such window is noise, the next one starts the search again."""
    if met is False:
        kept = replace(tuning, missed=tuning.missed + 1)
        message = f"{want.because}; one window does not move a held size of {tuning.size}"
        return _verdict(tuning, kept, want, "TargetMissedOnce", message, met)
    kept = replace(tuning, missed=0, searching=True, wants=())
    return _verdict(tuning, kept, want, "LoadChanged", f"{want.because}; the search starts again", met)


def _move(
    rules: TuningConfig, tuning: TunerState, want: _Want, met: bool | None, reopened: Reason | None
) -> TuningDecision:
    """Append the want; go there if the trend of the wants agrees or is too short to ask (A7)."""
    wants = (*tuning.wants, want.size)[-rules.trend_length :]
    trend = mann_kendall(wants)
    step = want.size - tuning.size
    kept = replace(tuning, wants=wants)
    prefix = {"LoadChanged": "the load has changed; ", "SpeedChanged": "the model's speed has changed; "}
    because = prefix.get(reopened or "", "") + want.because
    if len(wants) >= FREE_WANTS and trend.z * step <= 0:
        message = f"{because}; {want.size} is wanted, the trend of the wants (Z = {trend.z:.2f}) does not agree"
        return replace(_verdict(tuning, kept, want, "TrendDisagrees", message, met), trend=trend)
    kept = replace(kept, size=want.size)
    message = f"{because}; the size goes from {tuning.size} to {want.size}"
    return replace(_verdict(tuning, kept, want, want.reason, message, met), trend=trend)


def _verdict(
    before: TunerState, after: TunerState, want: _Want, reason: Reason, message: str, met: bool | None
) -> TuningDecision:
    return TuningDecision(
        tuning=after,
        previous=before.size,
        want=want.size,
        reason=reason,
        message=message,
        trend=mann_kendall(after.wants),
        target_met=met,
    )


def _bounded(rules: TuningConfig, size: int) -> int:
    return max(rules.min_size, min(rules.max_size, size))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _rate(rows_per_second: float) -> str:
    return f"{rows_per_second:.0f}" if rows_per_second >= 10 else f"{rows_per_second:.1f}"
