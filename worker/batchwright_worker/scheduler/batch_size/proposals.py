"""The size that one window wants (method A6), and whether the search ends there (A8). Pure.

*(ours)* A window's want has a cause: rows that wait want a larger size, only a batch that is slow itself wants a
smaller one. Under overload a smaller batch lowers the throughput, the queue grows and with it the latency: simulated,
the published step falls to 1 row and serves 94 of 409 rows/s. A met target settles the size unless a larger one would
serve more rows. `Literal` is the published rule.
"""

from __future__ import annotations

from batchwright_worker.scheduler.batch_size.device_time import Curve
from batchwright_worker.scheduler.batch_size.fitted_size import GAIN, HEADROOM, OVERLOAD_SHARE, fitted_size, uses_fit
from batchwright_worker.scheduler.batch_size.tuning import (
    Proposal,
    Reason,
    TunerState,
    TuningConfig,
    published_throughput,
)
from batchwright_worker.scheduler.window_counts import WindowFacts

FULL = 0.85
"""Batches whose mean size is at least this share of the tuned size leave rows behind."""
BUSY = 0.85
"""From this busy share on, full batches mean that the device is the bottleneck."""


def targets_met(config: TuningConfig, tuner: TunerState, window: WindowFacts) -> bool | None:
    """A8: are all targets that were asked for met? None without a target, or where no request has ended and none is
    late yet. A throughput that nobody offers is not missed; to `Literal` it is batch size / latency, as published.
    """
    if config.latency_s is None and config.throughput is None:
        return None
    if config.latency_s is not None and window.latency_s > config.latency_s:
        return False
    if not window.requests:
        return None
    if config.controller == "Literal":
        return config.throughput is None or published_throughput(tuner.size, window) >= config.throughput
    return not _throughput_missed(config, window)


def proposal(config: TuningConfig, tuner: TunerState, window: WindowFacts, curve: Curve, met: bool | None) -> Proposal:
    """What this window wants, and why. `curve`: time of a batch by its size, from its start to its answers."""
    if config.controller == "Literal":
        return _literal(config, tuner, window, met)
    target = config.latency_s
    if target is not None and window.latency_s > target:
        # Most of the latency is waiting then, and waiting rows are served faster by a larger batch, never by a smaller.
        if window.batch_s < target / 2:
            return _larger(config, tuner, window, curve, "RowsWaiting")
        return _slow_batch(config, tuner, window, curve)
    if _throughput_missed(config, window) or _could_not_serve(config, tuner, curve):
        return _larger(config, tuner, window, curve, "ThroughputBelowTarget")
    if _would_serve_more(config, tuner, window, curve):
        return _larger(config, tuner, window, curve, "RowsWaiting" if met is None else "LatencyBelowTarget")
    if met is None:
        because = f"no rows are left waiting at {rate(window.served)} rows/s"
    else:
        because = f"p95 is {ms(window.latency_s)} ms at {rate(window.served)} rows/s"
    return Proposal(size=tuner.size, reason="TargetMet", because=because, settles=True)


def _throughput_missed(config: TuningConfig, window: WindowFacts) -> bool:
    return config.throughput is not None and window.served < min(config.throughput, 0.98 * window.offered)


def _could_not_serve(config: TuningConfig, tuner: TunerState, curve: Curve) -> bool:
    """A8 asks for a throughput that nobody offers now, and batches of this size could not serve it if somebody did:
    would larger ones serve more?"""
    if config.throughput is None or not uses_fit(config, curve):
        return False
    gains = curve.rows_per_second(tuner.size + config.step) > curve.rows_per_second(tuner.size)
    in_time = config.latency_s is None or curve.seconds(tuner.size + config.step) <= config.latency_s / 2
    return 0 < curve.rows_per_second(tuner.size) < config.throughput and gains and in_time


def _literal(config: TuningConfig, tuner: TunerState, window: WindowFacts, met: bool | None) -> Proposal:
    """A6 to the letter: latency below the target, a step up; above it, a step down, whatever the cause. A8 to the
    letter: as long as a target is missed."""
    could = published_throughput(tuner.size, window)
    facts = f"p95 is {ms(window.latency_s)} ms, {tuner.size} rows in that time are {rate(could)} rows/s"
    if met is not False:
        return Proposal(size=tuner.size, reason="TargetMet", because=facts, settles=True)
    if config.latency_s is not None and window.latency_s > config.latency_s:
        size = config.bounded(tuner.size - config.step)
        return Proposal(size=size, reason="LatencyAboveTarget" if size < tuner.size else "AtMinimum", because=facts)
    size = config.bounded(tuner.size + config.step)
    return Proposal(size=size, reason="ThroughputBelowTarget" if size > tuner.size else "AtMaximum", because=facts)


def _slow_batch(config: TuningConfig, tuner: TunerState, window: WindowFacts, curve: Curve) -> Proposal:
    """Latency is above the target and the batch itself takes half of it or more."""
    assert config.latency_s is not None
    ceiling = curve.rows_per_second(tuner.size)
    facts = f"p95 is {ms(window.latency_s)} ms, the batch alone takes {ms(window.batch_s)} ms"
    bearable = window.batch_s <= OVERLOAD_SHARE * config.latency_s
    if bearable and HEADROOM * window.offered > ceiling > 0 and _worth_growing(config, tuner, curve):
        return _larger(config, tuner, window, curve, "RowsWaiting")
    if window.batch_s < config.latency_s and ceiling > 0 and window.offered > ceiling:
        because = f"{facts}, but {rate(window.offered)} rows/s are offered and {rate(ceiling)} are the ceiling"
        return Proposal(size=tuner.size, reason="Overloaded", because=because, settles=True)
    size = tuner.size - config.step
    if uses_fit(config, curve):
        size = min(size, fitted_size(config, curve, window.offered))
    size = config.bounded(size)
    if size == tuner.size:
        return Proposal(size=size, reason="AtMinimum", because=facts, settles=True)
    return Proposal(size=size, reason="BatchTooSlow", because=facts)


def _larger(config: TuningConfig, tuner: TunerState, window: WindowFacts, curve: Curve, reason: Reason) -> Proposal:
    """Rows wait, or more could be served: a larger size, unless the measurements say that it serves no more."""
    facts = (
        f"p95 is {ms(window.latency_s)} ms, batches of {window.mean_rows:.1f} take {ms(window.batch_s)} ms, "
        f"{rate(window.offered)} rows/s offered, {rate(window.served)} served"
    )
    if tuner.size >= config.max_size:
        return Proposal(size=tuner.size, reason="AtMaximum", because=facts, settles=True)
    knee = curve.knee(config.max_size)
    if tuner.size >= knee:
        because = f"{facts}; beyond {knee} rows the device serves no more per second"
        return Proposal(size=config.bounded(knee), reason="NoFasterBeyond", because=because, settles=tuner.size == knee)
    size = tuner.size + config.step
    if uses_fit(config, curve):
        size = max(size, fitted_size(config, curve, window.offered))
    return Proposal(size=config.bounded(min(size, knee)), reason=reason, because=facts)


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


def ms(seconds: float) -> str:
    """Milliseconds for a message."""
    return f"{seconds * 1e3:.1f}"


def rate(rows_per_second: float) -> str:
    """Rows per second for a message."""
    return f"{rows_per_second:.0f}" if rows_per_second >= 10 else f"{rows_per_second:.1f}"
