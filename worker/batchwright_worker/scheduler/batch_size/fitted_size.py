"""The size that a fit predicts to be best, and the size to begin with. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from batchwright_worker.scheduler.batch_size.device_time import FIRM, Curve, fit
from batchwright_worker.scheduler.batch_size.tuning import TunerState, TuningConfig

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
"""A batch has at most this many times the rows of the largest one that was ever seen: a full batch of rows many times
as long as all before would block the device for seconds."""


def first_size(config: TuningConfig, set_by_user: int | None, curve: Curve) -> TunerState:
    """The size to start with: what the user set, else what the fit predicts (of the warm-up's batches, else of the
    processor's load table), else the smallest."""
    if set_by_user is not None:
        size = set_by_user
    elif curve.batches >= 2:
        size = fitted_size(config, curve)
    else:
        size = config.min_size
    return TunerState(size=config.bounded(size))


def fitted_size(config: TuningConfig, curve: Curve, offered: float = 0.0) -> int:
    """The size that the fit predicts to be best: the largest whose batch takes at most half of the latency target
    (then the next batch is in time behind it too), as far as rows per second still rise; no target: as far as they rise
    by GAIN (a larger batch that serves no more only makes its rows wait for each other).
    Where that cannot serve all that is offered, the smallest that can within OVERLOAD_SHARE of the target.
    """
    most = config.max_size
    if not config.jumps or len(curve.points) < 2:
        # Else the size may be far off: batches grow into it step by step, and each is measured (`served_model`).
        most = min(most, max(1, REACH * curve.largest_seen))
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


def of_load_table(rows: Iterable[tuple[int, float]]) -> Curve:
    """The device time of the benchmark's reference model (method A1), from (batch size, images per second)."""
    measured = [(size, size / rate) for size, rate in rows if rate > 0]
    return fit(each for each in measured for _ in range(FIRM))


def expected(curve: Curve, reference: Curve) -> Curve:
    """What is known of a model's batches. Of one that has run at fewer than two sizes the reference model on the same
    processor tells the shape: how much longer a larger batch takes than a smaller one is the processor's doing first of
    all; how long it takes is the model's."""
    if len(curve.points) >= 2 or not reference.known:
        return curve
    if not curve.points:
        return reference
    rows, seconds = curve.points[0]
    return reference.times(seconds / reference.seconds(rows)) if seconds > 0 else curve
