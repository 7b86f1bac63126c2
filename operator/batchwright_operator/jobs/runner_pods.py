"""One runner pod as facts: when it worked, and what it left in its termination message; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from batchwright_operator.jobs.children import RUNNER
from batchwright_operator.kube.metadata import annotation, is_leaving, whole_number
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.pods.endings import ending
from batchwright_operator.pods.lifecycle import container_state
from batchwright_worker.api.messages import CommitResult, PlanResult, RunnerState

ANNOTATION_INDEX: Final = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPod:
    """A pod of the run Job: when its runner started and ended, and its state (None: not reported yet)."""

    name: str
    shard: int
    created: float
    start: float | None = None
    end: float | None = None
    exit_code: int | None = None
    leaving: bool = False
    state: RunnerState | None = None


def shard_of(pod: Raw) -> int:
    """The index of the run Job that the pod works on; -1 for a pod of another step."""
    index = whole_number(annotation(pod, ANNOTATION_INDEX))
    return -1 if index is None else index


def run_pod(pod: Raw, state: RunnerState | None) -> RunPod:
    """From a raw pod of the run Job."""
    metadata = pod["metadata"]
    runner = container_state(pod, RUNNER)
    ended = runner.get("terminated")
    times = ended or runner.get("running") or {}
    return RunPod(
        name=metadata["name"],
        shard=shard_of(pod),
        created=unix(metadata.get("creationTimestamp")) or 0.0,
        start=unix(times.get("startedAt")),
        end=unix(ended.get("finishedAt")) if ended else None,
        exit_code=int(ended.get("exitCode", -1)) if ended else None,
        leaving=is_leaving(pod),
        state=state if ended is None else _decoded(pod, RunnerState),
    )


def result_of(pods: Sequence[Raw], message: type[PlanResult] | type[CommitResult]) -> Any:
    """The newest result that a pod of a step left: of one that succeeded if there is one; None without any."""
    ended = [(each, found) for each in pods if (found := termination(each)) is not None]
    ended.sort(key=lambda item: (item[1][0] == 0, str(item[0]["metadata"].get("creationTimestamp", ""))), reverse=True)
    return next(filter(None, (_decoded(pod, message) for pod, _ in ended)), None)


def last_message(pods: Sequence[Raw]) -> str:
    """The termination message of the newest pod that failed, or why it was ended; empty without one."""
    found = [each for each in pods if _has_failed(each)]
    newest = max(found, key=lambda each: str(each["metadata"].get("creationTimestamp", "")), default=None)
    if newest is None:
        return ""
    ended = termination(newest)
    said = "" if ended is None else ended[1].strip()
    return said or ending(newest)


def _has_failed(pod: Raw) -> bool:
    """Also before its runner was made: a kubelet refuses pods that it has no room for."""
    ended = termination(pod)
    return bool(ending(pod)) if ended is None else ended[0] != 0


def termination(pod: Raw) -> tuple[int, str] | None:
    """Exit status and message of the runner's end; None while it has not ended."""
    ended = container_state(pod, RUNNER).get("terminated")
    return None if ended is None else (int(ended.get("exitCode", -1)), str(ended.get("message") or ""))


def succeeded_state(pod: Raw) -> RunnerState | None:
    """The final state of a runner that succeeded; None for others and for a message that is not one."""
    ended = termination(pod)
    if ended is None or ended[0] != 0:
        return None
    try:
        return msgspec.json.decode(ended[1], type=RunnerState)
    except msgspec.MsgspecError:
        return None


def _decoded(pod: Raw, kind: type[Any]) -> Any:
    ended = termination(pod)
    try:
        return msgspec.json.decode(ended[1], type=kind) if ended and ended[1] else None
    except msgspec.MsgspecError:
        return None
