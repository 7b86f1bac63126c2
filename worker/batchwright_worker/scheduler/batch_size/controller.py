"""The batch size of one model, window by window: methods A6 (step), A7 (trend guard), A8 (stop rule). Pure.

A6: after each window a step up while the latency is below its target, a step down while it is above. A7: the
Mann-Kendall trend of the last sizes must agree. A8: the search stops where all targets are met, and a change of load
or speed starts it again. *(ours)* Each window proposes a size for a cause: rows that wait propose a larger one, only a
batch that is slow itself a smaller one (under overload a smaller batch lowers the throughput, the queue grows and with
it the latency: simulated, the published step falls to 1 row and serves 94 of 409 rows/s); a met target settles the
size unless a larger one would serve more rows; what is tested for trend are the proposals, and fewer than four decide
without it. Observations are arguments; every decision is a value with its reason.
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
FREE_PROPOSALS = 4
"""With fewer proposals there is no trend to test: three in a row reach |Z| = 1.04 at most (A7, ours)."""
LOAD_RATIO = 0.3
"""The search starts again when the load has changed by more than this share and by more than three standard deviations
of a Poisson process: less is the scatter of one window (tests/scheduler/test_batch_size_tuning)."""
SPEED_RATIO = 1.25
"""Or when the fitted device time of the settled size has changed by this factor, at which the fit, too, forgets what
was before (`device_time.JUMP_RATIO`)."""
FULL = 0.85
"""Batches whose mean size is at least this share of the tuned size leave rows behind."""
BUSY = 0.85
"""From this busy share on, full batches mean that the device is the bottleneck."""
GAIN = 1.02
"""A larger size is worth it only if the fit says that twice the size serves more rows per second by this factor."""
OVERLOAD_SHARE = 0.75
"""While requests are refused, or a smaller batch could not serve all, a batch may take this share of the latency target
(n* of admission bounds it too)."""
HEADROOM = 1.1
"""A size that serves less than this many times the offered rows leaves no room for bursts."""
FIRM_BATCHES = 12
"""Auto trusts the fit once this many batches were seen (a warm-up up to 32 rows gives six)."""
REACH = 2
"""The fit is trusted up to this many times the largest batch ever seen: a full batch of rows many times as long as all
before would block the device for seconds."""


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
    """The tuner's memory. `settled_*` describe what was true when the search stopped."""

    size: int
    proposals: tuple[int, ...] = ()
    searching: bool = True
    missed: int = 0
    """Windows in a row in which a settled size missed its target."""
    settled_offered: float = 0.0
    settled_device_s: float = 0.0
    """Device time of the settled size as fitted then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningDecision:
    """One window's decision: `tuner` is the memory to keep; the size changed iff `size != previous`.

    `target_met` is None without requests or without any target.
    """

    tuner: TunerState
    previous: int
    proposed: int
    reason: Reason
    message: str
    trend: Trend = FLAT
    target_met: bool | None = None

    @property
    def size(self) -> int:
        return self.tuner.size

    @property
    def changed(self) -> bool:
        return self.size != self.previous


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proposal:
    size: int
    reason: Reason
    because: str
    settles: bool = False
    """Nothing more to look for: the search ends here."""


def initial(config: TuningConfig, initial_size: int | None, curve: Curve) -> TunerState:
    """The size to start with: what the user set, else what the fit (of the warm-up) predicts, else the smallest."""
    if initial_size is not None:
        size = initial_size
    elif curve.batches >= 2:
        size = fitted_size(config, curve)
    else:
        size = config.min_size
    return TunerState(size=_bounded(config, size))


def decide(config: TuningConfig, tuner: TunerState, window: WindowFacts, curve: Curve) -> TuningDecision:
    """Close one window. A window with no requests changes nothing."""
    if window.requests == 0:
        return TuningDecision(
            tuner=tuner, previous=tuner.size, proposed=tuner.size, reason="NoRequests", message="no requests"
        )
    met = targets_met(config, window)
    reopened = _reopened(config, tuner, window, curve, met)
    if reopened is not None:
        tuner = replace(tuner, searching=True, proposals=(), missed=0)
    proposal = _proposal(config, tuner, window, curve, met)
    if proposal.settles:
        return _settle(config, tuner, window, curve, proposal, met)
    if not tuner.searching:
        return _pause(tuner, window, proposal, met)
    return _move(config, tuner, proposal, met, reopened)


def targets_met(config: TuningConfig, window: WindowFacts) -> bool | None:
    """A8: are all targets that were asked for met? A throughput that nobody offers is not missed."""
    if config.latency_s is None and config.throughput is None:
        return None
    in_time = config.latency_s is None or window.latency_s <= config.latency_s
    return in_time and not _throughput_missed(config, window)


def fitted_size(config: TuningConfig, curve: Curve, offered: float = 0.0) -> int:
    """The size that the fit predicts to be best: the largest whose batch takes at most half of the latency target
    (then the next batch is in time behind it too), as far as rows per second still rise; no target: as far as they rise
    by GAIN (a larger batch that serves no more only makes its rows wait for each other).
    Where that cannot serve all that is offered, the smallest that can within OVERLOAD_SHARE of the target."""
    most = min(config.max_size, max(1, REACH * curve.largest_seen))
    most = min(most, curve.knee(most))
    if config.latency_s is None:
        return _worthwhile(curve, most)
    size = max(1, curve.largest_within(config.latency_s / 2, most))
    most = curve.largest_within(OVERLOAD_SHARE * config.latency_s, most)
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


def uses_fit(config: TuningConfig, curve: Curve) -> bool:
    """Does this controller jump to the fitted size? Auto does once the fit is firm: simulated, that answers more in
    time than steps at every load tried (tests/scheduler/test_simulated_tables)."""
    if config.controller == "Auto":
        return curve.batches >= FIRM_BATCHES and len(curve.points) >= 2
    return config.controller == "Fitted" and curve.known


def _throughput_missed(config: TuningConfig, window: WindowFacts) -> bool:
    return config.throughput is not None and window.served < min(config.throughput, 0.98 * window.offered)


def _reopened(
    config: TuningConfig, tuner: TunerState, window: WindowFacts, curve: Curve, met: bool | None
) -> Reason | None:
    """Why the search of a settled size starts again, None if it does not (A8; one noisy window is no reason)."""
    if tuner.searching:
        return None
    settled, now = tuner.settled_offered, window.offered
    noise = 3 * math.sqrt(max(settled, now) / max(window.seconds, 1e-3))
    if abs(now - settled) > max(LOAD_RATIO * settled, noise):
        return "LoadChanged"
    predicted = curve.seconds(tuner.size)
    if tuner.settled_device_s > 0 and not (1 / SPEED_RATIO < predicted / tuner.settled_device_s < SPEED_RATIO):
        return "SpeedChanged"
    return "TargetMissedOnce" if met is False and tuner.missed >= 1 else None


def _proposal(
    config: TuningConfig, tuner: TunerState, window: WindowFacts, curve: Curve, met: bool | None
) -> _Proposal:
    """The size that this window proposes, and why."""
    target = config.latency_s
    if config.literal:
        return _literal(config, tuner, window, met)
    if target is not None and window.latency_s > target:
        # Most of the latency is waiting then, and waiting rows are served faster by a larger batch, never by a smaller.
        if window.device_s < target / 2:
            return _larger(config, tuner, window, curve, "RowsWaiting")
        return _slow_batch(config, tuner, window, curve)
    if _throughput_missed(config, window):
        return _larger(config, tuner, window, curve, "ThroughputBelowTarget")
    if _would_serve_more(config, tuner, window, curve):
        return _larger(config, tuner, window, curve, "RowsWaiting" if met is None else "LatencyBelowTarget")
    if met is None:
        because = f"no rows are left waiting at {_rate(window.served)} rows/s"
    else:
        because = f"p95 is {_ms(window.latency_s)} ms at {_rate(window.served)} rows/s"
    return _Proposal(size=tuner.size, reason="TargetMet", because=because, settles=True)


def _literal(config: TuningConfig, tuner: TunerState, window: WindowFacts, met: bool | None) -> _Proposal:
    facts = f"p95 is {_ms(window.latency_s)} ms at {_rate(window.served)} rows/s"
    if met is not False:
        return _Proposal(size=tuner.size, reason="TargetMet", because=facts, settles=True)
    if config.latency_s is not None and window.latency_s > config.latency_s:
        return _Proposal(size=_bounded(config, tuner.size - config.step), reason="BatchTooSlow", because=facts)
    return _Proposal(size=_bounded(config, tuner.size + config.step), reason="ThroughputBelowTarget", because=facts)


def _slow_batch(config: TuningConfig, tuner: TunerState, window: WindowFacts, curve: Curve) -> _Proposal:
    """Latency is above the target and the batch itself takes half of it or more."""
    assert config.latency_s is not None
    ceiling = curve.rows_per_second(tuner.size)
    facts = f"p95 is {_ms(window.latency_s)} ms, the batch alone takes {_ms(window.device_s)} ms"
    bearable = window.device_s <= OVERLOAD_SHARE * config.latency_s
    if bearable and HEADROOM * window.offered > ceiling > 0 and _worth_growing(config, tuner, curve):
        return _larger(config, tuner, window, curve, "RowsWaiting")
    if window.device_s < config.latency_s and ceiling > 0 and window.offered > ceiling:
        because = f"{facts}, but {_rate(window.offered)} rows/s are offered and {_rate(ceiling)} are the ceiling"
        return _Proposal(size=tuner.size, reason="Overloaded", because=because, settles=True)
    size = tuner.size - config.step
    if uses_fit(config, curve):
        size = min(size, fitted_size(config, curve, window.offered))
    size = _bounded(config, size)
    if size == tuner.size:
        return _Proposal(size=size, reason="AtMinimum", because=facts, settles=True)
    return _Proposal(size=size, reason="BatchTooSlow", because=facts)


def _larger(config: TuningConfig, tuner: TunerState, window: WindowFacts, curve: Curve, reason: Reason) -> _Proposal:
    """Rows wait, or more could be served: a larger size, unless the measurements say that it serves no more."""
    facts = (
        f"p95 is {_ms(window.latency_s)} ms, batches of {window.mean_rows:.1f} take {_ms(window.device_s)} ms, "
        f"{_rate(window.offered)} rows/s offered, {_rate(window.served)} served"
    )
    if tuner.size >= config.max_size:
        return _Proposal(size=tuner.size, reason="AtMaximum", because=facts, settles=True)
    knee = curve.knee(config.max_size)
    if tuner.size >= knee:
        because = f"{facts}; beyond {knee} rows the device serves no more per second"
        return _Proposal(
            size=_bounded(config, knee), reason="NoFasterBeyond", because=because, settles=tuner.size == knee
        )
    size = tuner.size + config.step
    if uses_fit(config, curve):
        size = max(size, fitted_size(config, curve, window.offered))
    return _Proposal(size=_bounded(config, min(size, knee)), reason=reason, because=facts)


def _would_serve_more(config: TuningConfig, tuner: TunerState, window: WindowFacts, curve: Curve) -> bool:
    """Are batches full, and would a larger one serve more rows per second and still leave the next one in time?"""
    refusing = window.offered > 1.05 * window.served
    if window.mean_rows < FULL * tuner.size or not (refusing or window.full_ratio >= 0.5 or window.busy >= BUSY):
        return False
    larger = tuner.size + config.step
    gain: float = GAIN ** (config.step / tuner.size)
    if curve.rows_per_second(larger) < gain * curve.rows_per_second(tuner.size):
        return False
    if config.latency_s is None or curve.seconds(larger) <= config.latency_s / 2:
        return True
    return refusing and curve.seconds(larger) <= OVERLOAD_SHARE * config.latency_s


def _worth_growing(config: TuningConfig, tuner: TunerState, curve: Curve) -> bool:
    """Would a larger batch serve more, and take at most OVERLOAD_SHARE of the target?"""
    larger = tuner.size + config.step
    gains = curve.rows_per_second(larger) > GAIN ** (config.step / tuner.size) * curve.rows_per_second(tuner.size)
    return gains and config.latency_s is not None and curve.seconds(larger) <= OVERLOAD_SHARE * config.latency_s


def _settle(
    config: TuningConfig, tuner: TunerState, window: WindowFacts, curve: Curve, proposal: _Proposal, met: bool | None
) -> TuningDecision:
    """The search ends (or has ended): remember load and speed, to see when they change."""
    proposals = (*tuner.proposals, proposal.size)[-config.trend_length :]
    settled = replace(tuner, proposals=proposals, searching=False, missed=0 if met is not False else tuner.missed)
    if tuner.searching:
        settled = replace(settled, settled_offered=window.offered, settled_device_s=curve.seconds(tuner.size))
    return _decision(tuner, settled, proposal, proposal.reason, f"{proposal.because}; the size stays {tuner.size}", met)


def _pause(tuner: TunerState, window: WindowFacts, proposal: _Proposal, met: bool | None) -> TuningDecision:
    """A settled size and a window that proposes another: one is noise, the next one starts the search again."""
    if met is False:
        kept = replace(tuner, missed=tuner.missed + 1)
        message = f"{proposal.because}; one window does not move a settled size of {tuner.size}"
        return _decision(tuner, kept, proposal, "TargetMissedOnce", message, met)
    kept = replace(tuner, missed=0, searching=True, proposals=())
    return _decision(tuner, kept, proposal, "LoadChanged", f"{proposal.because}; the search starts again", met)


def _move(
    config: TuningConfig, tuner: TunerState, proposal: _Proposal, met: bool | None, reopened: Reason | None
) -> TuningDecision:
    """Append the proposal; go there if the trend of the proposals agrees or is too short to test (A7)."""
    proposals = (*tuner.proposals, proposal.size)[-config.trend_length :]
    trend = mann_kendall(proposals)
    step = proposal.size - tuner.size
    kept = replace(tuner, proposals=proposals)
    prefix = {"LoadChanged": "the load has changed; ", "SpeedChanged": "the model's speed has changed; "}
    because = prefix.get(reopened or "", "") + proposal.because
    if len(proposals) >= FREE_PROPOSALS and trend.z * step <= 0:
        message = f"{because}; {proposal.size} is proposed, the trend of proposals (Z = {trend.z:.2f}) does not agree"
        return replace(_decision(tuner, kept, proposal, "TrendDisagrees", message, met), trend=trend)
    kept = replace(kept, size=proposal.size)
    message = f"{because}; the size goes from {tuner.size} to {proposal.size}"
    return replace(_decision(tuner, kept, proposal, proposal.reason, message, met), trend=trend)


def _decision(
    before: TunerState, after: TunerState, proposal: _Proposal, reason: Reason, message: str, met: bool | None
) -> TuningDecision:
    return TuningDecision(
        tuner=after,
        previous=before.size,
        proposed=proposal.size,
        reason=reason,
        message=message,
        trend=mann_kendall(after.proposals),
        target_met=met,
    )


def _bounded(config: TuningConfig, size: int) -> int:
    return max(config.min_size, min(config.max_size, size))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _rate(rows_per_second: float) -> str:
    return f"{rows_per_second:.0f}" if rows_per_second >= 10 else f"{rows_per_second:.1f}"
