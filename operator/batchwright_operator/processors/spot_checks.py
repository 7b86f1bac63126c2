"""The checks of a measured processor: when the next one is due, and what came of the last one. Pure.

Whether what they say is drift, `drift` tells.
"""

from __future__ import annotations

from dataclasses import replace

from batchwright_operator.kube.objects import JOB, Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.processors import benchmark_jobs, drift
from batchwright_operator.processors.benchmark_outcome import BenchmarkFailure, Lost, ended_at, outcome
from batchwright_operator.processors.benchmarks import awaiting, measures
from batchwright_operator.processors.node_pass import VERIFY_S, NodePass
from batchwright_operator.processors.processor import Processor, best_row, decimal
from batchwright_operator.processors.start import kept_away, obstacle
from batchwright_operator.reconcile.decisions import Create
from batchwright_worker.api.messages import BenchmarkResult


def watched(turn: NodePass, kind: str, known: Processor, digest: str) -> Processor:
    """A measured processor: what the drift sentinel has to do."""
    job, best = turn.observed.jobs.get(kind), best_row(known)
    check = job if job is not None and measures(job) == benchmark_jobs.check_digest(digest) else None
    is_let = not turn.info.opted_out and not kept_away(turn.info, kind, turn.settings)
    every_s = turn.settings.spot_check_seconds
    if every_s <= 0 or best is None or not is_let or known.estimated_from:
        if check is not None:
            turn.delete(check)
        return known
    if check is not None:
        return _read_check(turn, kind, known, check, every_s)
    left_s = drift.due_in_s(known.spot_checks, best.images_per_second, known.benchmarked_time, every_s, turn.now)
    if left_s > 0:
        turn.requeue(left_s)
    elif job is not None:
        turn.delete(job)  # the last benchmark's, which has the name
    elif obstacle(turn.info, kind, replace(turn.observed.use, runs_here=turn.benchmark_runs), turn.settings, turn.now):
        turn.requeue(VERIFY_S)
    else:
        turn.benchmark_runs = True
        body = benchmark_jobs.spot_check(turn.observed.node, kind, digest, best.batch_size, turn.settings)
        turn.actions.append(Create(resource=JOB, body=body))
    return known


def _read_check(turn: NodePass, kind: str, known: Processor, job: Raw, every_s: float) -> Processor:
    pods = turn.observed.pods.get(kind, ())
    match outcome(job, pods):
        case BenchmarkResult() as result:
            turn.delete(job)
            at, rate = ended_at(job, pods, turn.now), result.capacity_images_per_second
            return _with_check(turn, kind, known, drift.SpotCheck(time=at, images_per_second=rate))
        case BenchmarkFailure() | Lost():
            # It says nothing of the processor. The Job stays until the next one is due, so that this is no loop.
            made = unix(job["metadata"].get("creationTimestamp")) or 0.0
            if (left_s := every_s - (turn.now - made)) > 0:
                turn.requeue(left_s)
            else:
                turn.delete(job)
    return known


def _with_check(turn: NodePass, kind: str, known: Processor, check: drift.SpotCheck) -> Processor:
    """With one check more; where they fall, what was measured holds no longer."""
    checks, best = drift.with_check(known.spot_checks, check), best_row(known)
    watched = replace(known, spot_checks=checks)
    measured_rate = best.images_per_second if best is not None else None
    if not drift.has_fallen(checks, measured_rate):
        return watched
    rates = ", ".join(decimal(each.images_per_second) for each in checks)
    turn.record_event("DriftSuspected", f"{kind}: checks fall ({rates} images/s); it is measured anew", warning=True)
    return awaiting(turn, replace(watched, benchmarked_as=""), "its checks fall")
