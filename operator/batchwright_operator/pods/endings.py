"""Why pods are over though nobody deleted them, and whether that goes on; pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from batchwright_operator.kube.conditions import shorten
from batchwright_operator.kube.objects import Raw
from batchwright_operator.pods.lifecycle import container_statuses
from batchwright_operator.pods.problems import Problem

AGAIN: Final = 3
LATELY_S: Final = 600.0
"""So many pods that ended within this time are no accident: whatever is made in their place ends, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A pod that is over. `created` is Unix seconds; `why` as `ending` has it."""

    name: str
    created: float
    why: str


def turned_away_by(pod: Raw) -> str:
    """The node whose kubelet refused this pod, or would not keep it: no healthy device, less of a resource than its
    Node says, disk pressure. Empty for a pod that ended in another way."""
    status = pod.get("status") or {}
    if status.get("phase") != "Failed" or not status.get("reason"):
        return ""
    return str((pod.get("spec") or {}).get("nodeName") or "")


def ending(pod: Raw) -> str:
    """Why a pod failed, in the words of the kubelet or the controller that ended it (evicted, preempted, refused for
    want of a device); empty where nobody says."""
    status = pod.get("status") or {}
    if status.get("phase") != "Failed":
        return ""
    if reason := str(status.get("reason") or ""):
        message = str(status.get("message") or "").strip()
        return f"{reason}: {shorten(message, 400)}" if message else reason
    for each in container_statuses(pod):
        if ((each.get("state") or {}).get("terminated") or {}).get("reason") == "OOMKilled":
            return f"container {each.get('name')} ran out of memory; raise its memory limit"
    return ""


def ended_again(ended: Collection[Ended], now: float) -> Problem | None:
    """What is to be said where pods end one after the other; None for one or two, as a node that restarts ends."""
    lately = [each for each in ended if now - each.created < LATELY_S]
    if len(lately) < AGAIN:
        return None
    last = max(lately, key=lambda each: (each.created, each.name))
    text = f"pods end one after the other, {last.name} last: {last.why}"
    return Problem(reason="PodsEnded", message=text, is_fault=True, weight=6)
