"""Plan of one node: its AcceleratorProfile, and what each of its processors asks for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, RESOURCE_SLICE, Raw
from batchwright_operator.processors import benchmark_jobs, status
from batchwright_operator.processors.benchmark_outcome import is_finished
from batchwright_operator.processors.benchmarks import measure
from batchwright_operator.processors.node_class import class_of, estimated, siblings
from batchwright_operator.processors.node_pass import REQUEUE_S, NodePass, ObservedNode
from batchwright_operator.processors.processor import (
    KEPT_AWAY,
    OPTED_OUT,
    Processor,
    kinds_on,
    opted_out,
    processors_of,
    slots_on,
    slots_per_device,
)
from batchwright_operator.processors.resource_slice import resource_slice
from batchwright_operator.processors.spot_checks import watched
from batchwright_operator.processors.start import kept_away
from batchwright_operator.reconcile.decisions import Apply, Decision, Delete, StatusWrite
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import API_VERSION


def decide(observed: ObservedNode, settings: Settings, now: float) -> Decision:
    """The profile object, then per processor what its state and its Job ask for."""
    turn = NodePass(observed, settings, now)
    profile = observed.profile
    match _owner_of(profile, observed.node):
        case "nobody":
            turn.actions.append(Apply(resource=ACCELERATOR_PROFILE, body=_profile(observed.node)))
        case "another node":
            # Of a node that had this name: its numbers say nothing of the machine that has it now.
            assert profile is not None
            return Decision(actions=(Delete.of(ACCELERATOR_PROFILE, profile),), requeue_after_s=REQUEUE_S)
        case "somebody else":
            return Decision()
    if profile is None:  # its creation leads to the next pass, which has an object to write a status to
        return Decision(actions=tuple(turn.actions))
    known = processors_of(profile)
    kinds = kinds_on(observed.node)
    found = [_with_slots(turn, _processor(turn, kind, known.get(kind, Processor(kind=kind)))) for kind in kinds]
    view = status.View(
        profile=profile,
        processors=found,
        before={kind: None if each.estimated_from else each.capacity for kind, each in known.items()},
        samples=observed.use.samples,
        now=now,
        stale_s=settings.sample_stale_seconds,
        obstacle=_no_pods(turn),
    )
    if settings.publish_resource_slices and (published := resource_slice(profile, found)) is not None:
        # The last action: where the cluster does not take it, everything else is done.
        turn.actions.append(Apply(resource=RESOURCE_SLICE, body=published))
    if (turns_stale_s := status.next_change_s(view)) is not None:
        turn.requeue(turns_stale_s)
    return Decision(
        actions=tuple(turn.actions),
        status=StatusWrite(resource=ACCELERATOR_PROFILE, regarding=profile, status=status.render(view)),
        events=tuple(turn.events),
        requeue_after_s=turn.requeue_after_s,
        counts=turn.counts,
    )


def needs(node: Raw, profile: Raw | None, known: Mapping[str, Processor], settings: Settings) -> tuple[bool, bool]:
    """Is there something to measure on the node, something to estimate? What that takes is observed only then."""
    if profile is None:
        return False, False
    each = [(kind, known.get(kind, Processor(kind=kind))) for kind in kinds_on(node)]
    to_measure = not opted_out(node) and any(
        found.failures or found.benchmarked_as != benchmark_jobs.digest(node, kind, profile, settings)
        for kind, found in each
    )
    return to_measure, any(found.capacity is None or found.estimated_from for _, found in each)


def _processor(turn: NodePass, kind: str, written: Processor) -> Processor:
    """The profile's entry of this processor; what has to be made or deleted for it becomes an action."""
    digest = benchmark_jobs.digest(turn.observed.node, kind, turn.observed.profile, turn.settings)
    known = replace(written, node_class=class_of(turn.observed.node, kind, turn.settings))
    if known.benchmarked_as != digest and known.failures:
        known = replace(known, failures=0, retry_time="")  # of what it was before
    if known.benchmarked_as == digest and not known.failures:
        return watched(turn, kind, known, digest)
    known = estimated(known, siblings(known.node_class, turn.observed.siblings))
    job = turn.observed.jobs.get(kind)
    if turn.info.opted_out:
        return replace(known, reason=OPTED_OUT, message="the node's label opts out of benchmarks")
    if why := kept_away(turn.info, kind, turn.settings):
        if job is not None and not is_finished(job):
            turn.delete(job)
        return known if known.estimated_from else replace(known, reason=KEPT_AWAY, message=why)
    return measure(turn, kind, known, digest, job)


def _with_slots(turn: NodePass, processor: Processor) -> Processor:
    """With what the node says of it now: devices come and go (a broken one, another partitioning) at any time."""
    labelled = slots_per_device(turn.observed.node, processor.kind)
    return replace(
        processor,
        slots=slots_on(turn.observed.node, processor.kind),
        slots_per_device=processor.slots_per_device if labelled is None else labelled,
    )


def _no_pods(turn: NodePass) -> str:
    if not turn.info.ready:
        return "NodeNotReady"
    return "NodeCordoned" if turn.info.cordoned else ""


def _profile(node: Raw) -> Raw:
    """The object without its status; garbage collection deletes it with its node."""
    metadata = node["metadata"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": API_VERSION,
        "kind": ACCELERATOR_PROFILE.kind,
        "metadata": {"name": metadata["name"], "ownerReferences": [owner]},
    }


def _owner_of(profile: Raw | None, node: Raw) -> Literal["this node", "another node", "nobody", "somebody else"]:
    owners = (profile["metadata"].get("ownerReferences") or ()) if profile else ()
    if not owners:
        return "nobody"
    if any(each.get("uid") == node["metadata"]["uid"] for each in owners):
        return "this node"
    return "another node" if all(each.get("kind") == "Node" for each in owners) else "somebody else"
