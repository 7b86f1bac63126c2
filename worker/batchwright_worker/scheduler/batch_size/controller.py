"""The batch size of one model, window by window: methods A6 (step), A7 (trend guard), A8 (stop rule). Pure.

A6: after each window a step up while the latency is below its target, a step down while it is above (`proposals` says
what a window wants; Auto and Fitted step as far as the fit says). A7: the Mann-Kendall trend of the last windows' wants
must agree. A8: the search stops where all targets are met, and a change of load or speed starts it again. Observations
are arguments; every decision is a value with its reason and the rule that made it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from batchwright_worker.mann_kendall import mann_kendall
from batchwright_worker.scheduler.batch_size.device_time import Curve
from batchwright_worker.scheduler.batch_size.proposals import proposal, targets_met
from batchwright_worker.scheduler.batch_size.tuning import (
    Proposal,
    Reason,
    Rule,
    TunerState,
    TuningConfig,
    TuningDecision,
)
from batchwright_worker.scheduler.window_counts import WindowFacts

FREE_PROPOSALS = 4
"""With fewer proposals there is no trend to test: three in a row reach |Z| = 1.04 at most (A7, ours)."""
LOAD_RATIO = 0.3
"""The search starts again when the load has changed by more than this share and by more than three standard deviations
of a Poisson process: less is the scatter of one window (tests/scheduler/test_batch_size_tuning)."""
SPEED_RATIO = 1.25
"""Or when the fitted time of a batch of the settled size has changed by this factor, at which the fit, too, forgets
what was before (`device_time.JUMP_RATIO`)."""


def decide(config: TuningConfig, tuner: TunerState, window: WindowFacts, curve: Curve) -> TuningDecision:
    """Close one window. `curve`: time of a batch by its size, the way to the runtime and back included. A window in
    which nothing ended changes nothing."""
    if not window.requests and not window.batches:
        return _idle(tuner, window)
    tuner = replace(tuner, opening=False)
    met = targets_met(config, tuner, window)
    reopened = _reopened(config, tuner, window, curve, met)
    if reopened is not None:
        tuner = replace(tuner, searching=True, missed=0)
    wanted = proposal(config, tuner, window, curve, met)
    # The trend is that of the last windows, through the end of one search and the start of the next: a size that was
    # held for long has no trend and follows at once, one that has just turned waits until the trend has turned too.
    kept = replace(tuner, proposals=(*tuner.proposals, wanted.size)[-config.trend_length :])
    case = _Case(kept, window, wanted, met)
    if wanted.settles:
        return _settle(case, curve)
    return _move(config, case, reopened) if tuner.searching else _pause(case)


class _Case(NamedTuple):
    """One window, what it wants, and the tuner that has noted that."""

    tuner: TunerState
    window: WindowFacts
    wanted: Proposal
    met: bool | None

    def decided(self, after: TunerState, rule: Rule, reason: Reason, message: str) -> TuningDecision:
        return TuningDecision(
            tuner=after,
            previous=self.tuner.size,
            proposed=self.wanted.size,
            reason=reason,
            rule=rule,
            message=f"{self.wanted.because}; {message}",
            window=self.window,
            trend=mann_kendall(after.proposals),
            target_met=self.met,
        )


def _idle(tuner: TunerState, window: WindowFacts) -> TuningDecision:
    reason: Reason = "NothingEnded" if window.running else "NoRequests"
    message = "no batch and no request has ended yet" if window.running else "no requests"
    return TuningDecision(
        tuner=tuner,
        previous=tuner.size,
        proposed=tuner.size,
        reason=reason,
        rule="Idle",
        message=message,
        window=window,
        trend=mann_kendall(tuner.proposals),
    )


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
    if tuner.settled_batch_s > 0 and not (1 / SPEED_RATIO < predicted / tuner.settled_batch_s < SPEED_RATIO):
        return "SpeedChanged"
    # As published, whatever is missed is adjusted at once.
    patience = 0 if config.controller == "Literal" else 1
    return "TargetMissedOnce" if met is False and tuner.missed >= patience else None


def _settle(case: _Case, curve: Curve) -> TuningDecision:
    """The search ends (or has ended): remember load and speed, to see when they change."""
    tuner = case.tuner
    settled = replace(tuner, searching=False, missed=0 if case.met is not False else tuner.missed)
    if tuner.searching:
        settled = replace(settled, settled_offered=case.window.offered, settled_batch_s=curve.seconds(tuner.size))
    return case.decided(settled, "StopRule", case.wanted.reason, f"the size stays {tuner.size}")


def _pause(case: _Case) -> TuningDecision:
    """A settled size and a window that proposes another: one is noise, the next one starts the search again."""
    tuner = case.tuner
    if case.met is False:
        kept = replace(tuner, missed=tuner.missed + 1)
        message = f"one window does not move a settled size of {tuner.size}"
        return case.decided(kept, "StopRule", "TargetMissedOnce", message)
    kept = replace(tuner, missed=0, searching=True)
    return case.decided(kept, "StopRule", "LoadChanged", "the search starts again")


def _move(config: TuningConfig, case: _Case, reopened: Reason | None) -> TuningDecision:
    """Go where the window wants if the trend of the wants agrees or is too short to test (A7)."""
    tuner, wanted = case.tuner, case.wanted
    step = wanted.size - tuner.size
    causes = {"LoadChanged": "the load has changed; ", "SpeedChanged": "the model's speed has changed; "}
    cause = causes.get(reopened or "", "")
    z = mann_kendall(tuner.proposals).z
    if step and len(tuner.proposals) >= FREE_PROPOSALS and z * step <= 0:
        message = f"{cause}{wanted.size} is proposed, the trend of proposals (Z = {z:.2f}) does not agree"
        return case.decided(tuner, "TrendGuard", "TrendDisagrees", message)
    message = f"{cause}the size {f'goes from {tuner.size} to {wanted.size}' if step else f'stays {tuner.size}'}"
    rule: Rule = "FittedStep" if config.jumps and abs(step) > config.step else "Step"
    return case.decided(replace(tuner, size=wanted.size), rule, wanted.reason, message)
