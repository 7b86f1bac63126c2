"""What is wrong in a cluster, and what to do about it; pure. The conditions' messages say what to do; here it is said
which of them matter, how much, and which command looks closer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from batchwright_operator.kube.conditions import few, find, holds
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.plugin.overview import deployments, jobs
from batchwright_operator.plugin.overview.facts import ClusterFacts
from batchwright_operator.plugin.overview.processors import STALE_S
from batchwright_worker.dashboard.overview import WORST_FIRST, Finding, Level, ProcessorView, WaitingView

PLUGIN: Final = "kubectl batchwright"
FOR_ALL: Final = ("Cluster", "Operator")
"""Kinds of findings that concern everything, and come before others of their level."""
FULL: Final = 0.95
"""A processor from this share on has no room."""
SAME_TO_NAME: Final = 3
"""So many processors of one reason are named; of more the finding says how many."""


def findings(facts: ClusterFacts, processors: Sequence[ProcessorView], waiting: Sequence[WaitingView]) -> list[Finding]:
    """Worst first."""
    found = [
        *_silence(facts),
        *_operator(facts),
        *(one for raw in facts.deployments for one in _deployment(raw)),
        *(one for raw in facts.jobs for one in _job(raw)),
        *_waiting(waiting),
        *_processors(processors, facts),
    ]
    return sorted(
        found,
        key=lambda one: (WORST_FIRST.index(one.level), one.kind not in FOR_ALL, one.kind, one.namespace, one.name),
    )


def _silence(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.silence:
        yield Finding(
            level="error",
            kind="Cluster",
            name=facts.title,
            reason="NoAnswer",
            text=f"what is shown is of {rfc3339(facts.silent_since)}: {facts.silence}; this goes on by itself when the "
            "API server answers, and where your credentials have ended, once you have logged in anew",
            command="kubectl get --raw /readyz",
        )


def _operator(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.operator_missing:
        yield Finding(
            level="error",
            kind="Operator",
            name="batchwright-operator",
            reason="NoLeader",
            text="no operator leads: nothing is placed, and what is shown here may be old; "
            "see why its pods do not run, or name its namespace with --system",
            command="kubectl get pods -A -l app.kubernetes.io/component=operator",
        )


def _about(raw: Raw, kind: str, level: Level, condition: Any, command: str) -> Finding:
    metadata = raw["metadata"]
    return Finding(
        level=level,
        kind=kind,
        namespace=str(metadata.get("namespace", "")),
        name=str(metadata["name"]),
        reason=str(condition.get("reason") or ""),
        text=str(condition.get("message") or ""),
        command=command,
    )


def _deployment(raw: Raw) -> Iterator[Finding]:
    level, conditions = deployments.level(raw), (raw.get("status") or {}).get("conditions")
    metadata = raw["metadata"]
    command = f"{PLUGIN} -n {metadata.get('namespace', '')} why {metadata['name']}"
    if level in ("error", "busy"):
        condition = find(conditions, "Ready") or {"reason": "NotSeenYet", "message": "the operator has not seen it yet"}
        yield _about(raw, "ModelDeployment", level, condition, command)
    if level != "warning":
        return
    if (models := find(conditions, "ModelsReady")).get("reason") == "ModelLoadFailed":
        yield _about(raw, "ModelDeployment", "warning", models, command)
    if (latency := find(conditions, "LatencyTargetMet")).get("status") == "False":
        text = f"{latency.get('message')}; {_remedy(raw)}"
        yield _about(raw, "ModelDeployment", "warning", {**latency, "message": text}, command)
    ready = find(conditions, "Ready")
    if not str(ready.get("message", "")).startswith(_all_ready(raw)):
        yield _about(raw, "ModelDeployment", "warning", ready, command)


def _all_ready(raw: Raw) -> str:
    wanted = (raw.get("spec") or {}).get("replicas", 1)
    return f"{wanted} of {wanted} "


def _remedy(raw: Raw) -> str:
    """What helps where latency targets are missed: it depends on what holds the batch size."""
    models = (raw.get("status") or {}).get("models") or ()
    held = {str((each.get("tuning") or {}).get("heldBecause") or "") for each in models}
    if "Overloaded" in held:
        return "more is offered than any batch size serves: add replicas, or let an autoscaler do it"
    if any((each.get("tuning") or {}).get("searching") for each in models):
        return "the batch size is still being tuned"
    return "add replicas, or raise the target"


def _job(raw: Raw) -> Iterator[Finding]:
    level, status, metadata = jobs.level(raw), raw.get("status") or {}, raw["metadata"]
    conditions = status.get("conditions")
    command = f"kubectl describe infjob -n {metadata.get('namespace', '')} {metadata['name']}"
    if level == "error":
        failed = find(conditions, "Failed")
        yield _about(raw, "InferenceJob", "error", failed or find(conditions, "Stalled"), command)
    elif level == "warning":
        for kind in ("WaitingForModels", "DeadlineAtRisk"):
            if holds(conditions, kind):
                yield _about(raw, "InferenceJob", "warning", find(conditions, kind), command)
        if failed_items := (status.get("items") or {}).get("failed"):
            first: Raw = next(iter(status.get("failures") or ()), {})
            text = f"{failed_items} items failed, first {first.get('item', '?')}: {first.get('message', '')}"
            yield _about(raw, "InferenceJob", "warning", {"reason": "ItemsFailed", "message": text}, command)


def _waiting(waiting: Sequence[WaitingView]) -> Iterator[Finding]:
    """One for each namespace and reason: a hundred pods that wait for the same are one thing to know."""
    groups: dict[tuple[str, str], list[WaitingView]] = {}
    for each in waiting:
        groups.setdefault((each.namespace, each.reason), []).append(each)
    for (namespace, reason), pods in groups.items():
        first = pods[0]
        yield Finding(
            level="warning",
            kind="Pod",
            namespace=namespace,
            name=first.name if len(pods) == 1 else f"{len(pods)} pods",
            reason=reason,
            text=f"{first.text}" if len(pods) == 1 else f"{few([pod.name for pod in pods], most=2)}: {first.text}",
            command=f"{PLUGIN} -n {namespace} why {first.name}",
        )


def _processors(processors: Sequence[ProcessorView], facts: ClusterFacts) -> Iterator[Finding]:
    nodes: set[str] = set()
    troubled = []
    for each in processors:
        # A node that is away is one thing to know, however many kinds of accelerators it has.
        if each.level in ("warning", "error") and not (_is_away(each) and each.node in nodes):
            nodes.add(each.node)
            troubled.append(each)
    by_reason = Counter(each.reason for each in troubled)
    for reason, count in by_reason.items():
        these = [each for each in troubled if each.reason == reason]
        level: Level = "error" if any(each.level == "error" for each in these) else "warning"
        if count <= SAME_TO_NAME:
            for each in these:
                yield Finding(
                    level=each.level, kind="Node" if _is_away(each) else "Processor",
                    name=each.node if _is_away(each) else each.id, reason=reason,
                    text=each.message, command=_look(each),
                )  # fmt: skip
        else:
            names = few([each.node if _is_away(each) else each.id for each in these], most=2)
            yield Finding(
                level=level, kind="Processor", reason=reason,
                name=f"{count} {'nodes' if _is_away(these[0]) else 'processors'}",
                text=f"{names}: {these[0].message}", command=f"{PLUGIN} top",
            )  # fmt: skip
    sampled = [each.utilization for each in processors if each.utilization is not None]
    if sampled and min(sampled) >= FULL and facts.deployments:
        yield Finding(
            level="warning", kind="Processor", name=f"{len(sampled)} processors", reason="AllBusy",
            text="every processor is busy: new replicas slow down those that are there; add nodes",
            command=f"{PLUGIN} top",
        )  # fmt: skip
    stale = [each for each in processors if each.sampled_at is not None and facts.now - each.sampled_at > STALE_S]
    if stale:
        yield Finding(
            level="warning", kind="Processor", name=f"{len(stale)} processors", reason="OldSamples",
            text=f"{few([each.id for each in stale], most=2)}: no sample for a minute; see the agent's pods",
            command="kubectl get pods -A -l app.kubernetes.io/component=agent -o wide",
        )  # fmt: skip


def _look(each: ProcessorView) -> str:
    """The command that says more of one processor."""
    return f"kubectl describe node {each.node}" if _is_away(each) else f"{PLUGIN} bench {each.node}"


def _is_away(each: ProcessorView) -> bool:
    return each.reason in ("NodeNotReady", "Cordoned")
