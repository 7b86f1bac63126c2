"""How the batch size of one model is decided, over all replicas; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.messages import FitState, TuningState


def tuning_status(told: Sequence[TuningState], *, searching: bool) -> Raw:
    """Words and sizes: those of most replicas; rates: the sum; the fit: medians."""
    held, by = most_frequent([(each.usually.reason, each.usually.rule) for each in told])
    bounds = [each.usually for each in told if each.usually.bound_by]
    fits = [each.fit for each in told if each.fit is not None]
    return {
        "controller": most_frequent([each.controller for each in told]),
        "proposedSize": most_frequent([each.proposed_size for each in told]),
        **({"heldBecause": held, "heldBy": by} if held else {}),
        "searching": searching,
        **({"rowsLimit": most_frequent([each.cap for each in bounds])} if bounds else {}),
        **({"boundBy": most_frequent([each.bound_by for each in bounds])} if bounds else {}),
        **({"fit": _fit(fits)} if fits else {}),
        "publishedThroughput": round(sum(each.published_throughput for each in told)),
        "possibleThroughput": round(sum(each.possible_throughput for each in told)),
    }


def _fit(fits: Sequence[FitState]) -> Raw:
    return {
        "fixedMilliseconds": f"{median(each.fixed_milliseconds for each in fits):.2f}",
        "perRowMilliseconds": f"{median(each.per_row_milliseconds for each in fits):.3f}",
        "knee": most_frequent([each.knee for each in fits]),
    }


def most_frequent(values: Sequence[Any]) -> Any:
    """Among equally frequent values the largest."""
    return max(Counter(values).items(), key=lambda item: (item[1], item[0]))[0]
