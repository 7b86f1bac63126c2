"""Why a pod does not run, as a message that says what to do; pure. The one reader of it for every kind of pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from batchwright_operator.kube.conditions import find, shorten
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.pods.lifecycle import container_statuses

IMAGE_PULL_FAILED: Final = "ImagePullFailed"
IMAGE_REASONS: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
STARTING: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
"""Reasons of containers that only take their time. All others that are not told apart here (a hook that fails, a
sandbox that cannot be made, whatever a newer kubelet says) keep the container from starting."""
CRASH: Final = "CrashLoopBackOff"
VOLUMES_S: Final = 60.0
"""How long the volumes of a pod may take."""
CRASHES: Final = 3
"""This many restarts of a container that is not ready are a crash loop, also between two back-offs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a pod does not serve. `is_fault`: somebody may have to act, it does not only take its time; `weight` orders
    problems; `detail`: the kubelet's own message, where `message` leaves it out."""

    reason: str
    message: str
    is_fault: bool = False
    weight: int = 0
    detail: str = ""


def container_problem(pod: Raw, *, image_fields: str) -> Problem | None:
    """What keeps a container of this pod from running; None if nothing does.

    `image_fields` names what decides whether an image can be pulled, as whoever made this pod knows it: a model pod
    says `spec.pod.imagePullSecrets`, a runner `spec.runner.pod.imagePullSecrets`.
    """
    name = pod["metadata"]["name"]
    # Not the first one's: the sidecar may end again and again because the runtime beside it is killed for memory.
    found = (_of_container(name, each, image_fields) for each in container_statuses(pod))
    return worst([each for each in found if each is not None])


def volume_problem(pod: Raw, now: float) -> Problem | None:
    """A pod whose volumes are not there yet, long after it got its node: most often one that does not exist."""
    conditions = (pod.get("status") or {}).get("conditions")
    since = unix(find(conditions, "PodScheduled").get("lastTransitionTime"))
    prepared = find(conditions, "PodReadyToStartContainers").get("status")
    if prepared != "False" or since is None or now - since < VOLUMES_S:
        return None
    text = (
        f"pod {pod['metadata']['name']} waits for its volumes: a claim, ConfigMap or Secret that the spec names may be "
        "missing; kubectl describe pod says which"
    )
    return Problem(reason="VolumesNotReady", message=text, is_fault=True, weight=4)


def unschedulable(pod: Raw) -> str:
    """kube-scheduler's message if it found no node for the pod; empty otherwise."""
    scheduled = find((pod.get("status") or {}).get("conditions"), "PodScheduled")
    if scheduled.get("status") != "False" or scheduled.get("reason") != "Unschedulable":
        return ""
    return str(scheduled.get("message") or "the scheduler found no node")


def scheduling_problem(pod: Raw) -> Problem | None:
    """A pod that kube-scheduler finds no node for. How long that may last before it is a problem, the caller decides:
    a cluster autoscaler may be adding a node."""
    if not (message := unschedulable(pod)):
        return None
    text = f"pod {pod['metadata']['name']}: {shorten(message, 600)}"
    return Problem(reason="Unschedulable", message=text, is_fault=True, weight=3)


def _of_container(pod: str, container: Mapping[str, Any], image_fields: str) -> Problem | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason, name = str(waiting.get("reason") or ""), str(container.get("name"))
    where = f"pod {pod}, container {name}"
    if reason in IMAGE_REASONS:
        # The kubelet alternates between ErrImagePull and ImagePullBackOff: a message with its words would be another
        # status to write at every attempt.
        text = f"{where}: image {container.get('image')} cannot be pulled; correct {image_fields}"
        detail = f"{reason}: {waiting.get('message', '')}"
        return Problem(reason=IMAGE_PULL_FAILED, message=text, is_fault=True, weight=4, detail=detail)
    running_badly = int(container.get("restartCount") or 0) >= CRASHES and not container.get("ready")
    if reason == CRASH or running_badly:
        return _crash(where, name, container)
    if reason in STARTING:
        return None
    text = f"{where}: {shorten(str(waiting.get('message') or reason), 400)}"
    return Problem(reason="ContainerConfigFailed", message=text, is_fault=True, weight=4)


def _crash(where: str, name: str, container: Mapping[str, Any]) -> Problem:
    last = (container.get("lastState") or {}).get("terminated") or {}
    said = shorten(str(last.get("message") or "").strip(), 400)
    if last.get("reason") == "OOMKilled":
        text = f"{where} ran out of memory; raise its memory limit in spec.runtimes, or lower batching.maxSize"
        return Problem(reason="OutOfMemory", message=text, is_fault=True, weight=5)
    if name == "fetch":
        text = f"{where}: {said or 'a download failed'}; correct the artifact's uri, sha256 or secretRef"
        return Problem(reason="FetchFailed", message=text, is_fault=True, weight=5)
    code = last.get("exitCode")
    text = f"{where} ends again and again with status {code}{f': {said}' if said else ''}; see kubectl logs"
    return Problem(reason="CrashLooping", message=text, is_fault=True, weight=4)


def worst(problems: Sequence[Problem]) -> Problem | None:
    """The problem to show for all: the weightiest; among equals the first in the alphabet, so that it stays."""
    return min(problems, key=lambda each: (-each.weight, each.reason, each.message), default=None)
