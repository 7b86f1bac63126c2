"""Status of an AcceleratorProfile: processors, conditions, summary. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batchwright_operator.kube import conditions
from batchwright_operator.kube.conditions import Condition, as_written, find
from batchwright_operator.kube.objects import Raw
from batchwright_operator.processors.processor import (
    AWAITING,
    BENCHMARKED,
    ESTIMATED,
    RUNNING,
    Processor,
    decimal,
    render_entry,
)
from batchwright_operator.reconcile.live_state import Sample

FELL: Final = 0.85
"""A capacity below this share of the one measured before is worth a condition. Two measurements of one processor may
differ by 15 % with nothing wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the status is made of."""

    profile: Raw
    processors: Sequence[Processor]
    before: Mapping[str, float | None]
    """Kind -> capacity in the profile until now."""
    samples: Mapping[str, Sample]
    now: float
    stale_s: float
    obstacle: str = ""
    """Why the node takes no pods, CamelCase; empty: it does."""


def render(view: View) -> Raw:
    """The whole status."""
    metadata, written = view.profile["metadata"], view.profile.get("status") or {}
    wanted = (
        _benchmarked(view.processors),
        _fresh(view),
        _degraded(view, written.get("conditions")),
        _schedulable(view),
    )
    generation = metadata.get("generation", 1)
    return {
        "observedGeneration": generation,
        "conditions": conditions.render(wanted, written.get("conditions") or (), generation=generation, now=view.now),
        "processors": [render_entry(each) for each in view.processors],
        "summary": {
            "kinds": ",".join(each.kind for each in view.processors),
            "products": ",".join(dict.fromkeys(each.product for each in view.processors if each.product)),
            "imagesPerSecond": ",".join(_capacity(each) for each in view.processors),
        },
    }


def next_change_s(view: View) -> float | None:
    """Seconds until a fresh sample is stale if no newer one comes; None when none is fresh."""
    ages = [view.now - each.taken_at for each in view.samples.values()]
    left = [view.stale_s - age for age in ages if age <= view.stale_s]
    return min(left) + 0.1 if left else None


def _capacity(processor: Processor) -> str:
    return "-" if processor.capacity is None else decimal(processor.capacity)


def _benchmarked(found: Sequence[Processor]) -> Condition:
    """True: all are benchmarked. Unknown: one is still to come. False: one will not be, for the reason given."""
    sound = (BENCHMARKED, AWAITING, RUNNING, ESTIMATED)
    waiting = [each for each in found if each.awaiting]
    failed = [each for each in found if each.reason not in sound]
    without = [each for each in failed if each.capacity is None]
    # True with such a reason: the load table of an earlier benchmark, or a seeded one, still holds.
    for truth, concerned in ((None, waiting), (False, without), (True, failed)):
        if concerned:
            message = "; ".join(f"{each.kind}: {each.message}" for each in concerned)
            status = conditions.truth(truth)
            return Condition(type="Benchmarked", status=status, reason=concerned[0].reason, message=message)
    message = ", ".join(f"{each.kind}: {_capacity(each)} images/s{_by_class(each)}" for each in found)
    by_class = any(each.estimated_from for each in found)
    return Condition(type="Benchmarked", status="True", reason=ESTIMATED if by_class else BENCHMARKED, message=message)


def _by_class(processor: Processor) -> str:
    return f" (as {processor.estimated_from}, of its class)" if processor.estimated_from else ""


def _fresh(view: View) -> Condition:
    """Whether there is a sample of every processor that is young enough."""
    ages = {each.kind: view.samples.get(each.kind) for each in view.processors}
    missing = [kind for kind, sample in ages.items() if sample is None]
    stale = [kind for kind, sample in ages.items() if sample and view.now - sample.taken_at > view.stale_s]
    if stale:
        message = f"no sample of {', '.join(stale)} for more than {view.stale_s:.0f} s; is the node's agent running?"
        return Condition(type="Fresh", status="False", reason="SamplesStale", message=message)
    if missing:
        message = f"no sample of {', '.join(missing)} yet; is an agent or exporter running on the node?"
        return Condition(type="Fresh", status="False", reason="NoSamples", message=message)
    return Condition(type="Fresh", status="True", reason="SamplesFresh", message="every processor is sampled")


def _schedulable(view: View) -> Condition:
    """Whether pods may be placed on the node at all: its devices are counted only where they may."""
    if view.obstacle:
        message = f"the node takes no pods ({view.obstacle}); its devices are not counted meanwhile"
        return Condition(type="Schedulable", status="False", reason=view.obstacle, message=message)
    return Condition(type="Schedulable", status="True", reason="NodeReady", message="the node takes pods")


def _degraded(view: View, written: object) -> Condition:
    """Whether a benchmark came out much lower than the one before; stays until the next result. Unknown without one."""
    fallen, measured = [], False
    for each in view.processors:
        before = view.before.get(each.kind)
        # The status holds the last result only: that it differs is the sign that a new one has just come.
        measured |= each.capacity is not None and each.capacity != before
        if each.capacity is not None and before and each.capacity < before * FELL:
            fallen.append(f"{each.kind}: {_capacity(each)} images/s after {decimal(before)}")
    if fallen:
        message = f"{'; '.join(fallen)}; look for throttling, neighbours or a changed driver"
        return Condition(type="Degraded", status="True", reason="CapacityFell", message=message)
    earlier = find(written, "Degraded")
    if earlier.get("status") == "True" and not measured:
        return as_written(earlier)
    if all(each.capacity is None or each.estimated_from for each in view.processors):
        return Condition(
            type="Degraded", status="Unknown", reason="NoMeasurement", message="nothing was measured here yet"
        )
    return Condition(type="Degraded", status="False", reason="AsMeasured", message="no benchmark came out much lower")
