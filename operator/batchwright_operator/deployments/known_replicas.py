"""The replicas of one ModelDeployment as they were last read: a pass of 5,000 reads those that are others by now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from batchwright_operator.deployments.replicas import PendingTimeouts, Replica, has_failed_models, replica
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.pods.problems import VOLUMES_S
from batchwright_worker.api.messages import SidecarState


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A replica, what it was read from, and from when until when time alone makes it no other one."""

    pod: Raw
    replica: Replica
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class KnownReplicas:
    """Gives what `replicas.replica` gives. Objects of the cache are never mutated: the same one is the same version."""

    _read: Mapping[str, _Read] = field(default_factory=dict)
    """By the uid of its pod, in the order that the pods were given in."""

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """In the order of their pods."""
        return tuple(each.replica for each in self._read.values())

    def after(self, pods: Iterable[tuple[Raw, SidecarState | None]], timeouts: PendingTimeouts) -> KnownReplicas:
        """The replicas of these pods as they are now; what was read of others is left out."""
        found = {}
        for pod, state in pods:
            uid = pod["metadata"]["uid"]
            found[uid] = _read(pod, state, timeouts, self._read.get(uid))
        return KnownReplicas(found)


def _read(pod: Raw, state: SidecarState | None, timeouts: PendingTimeouts, before: _Read | None) -> _Read:
    now = timeouts.now
    if before is not None and before.pod is pod and before.since <= now < before.until:
        known = before.replica
        if known.state is state:
            return before
        # Most states differ in numbers alone, of which nothing else of a replica follows.
        if known.ready and known.problem is None and not has_failed_models(state):
            return _Read(pod=pod, replica=replace(known, state=state), since=before.since, until=before.until)
    return _Read(pod=pod, replica=replica(pod, state, timeouts), since=now, until=_until(pod, timeouts))


def _until(pod: Raw, timeouts: PendingTimeouts) -> float:
    """When time alone makes it another one: it has waited for a node, or for its volumes, for too long."""
    created = unix(pod["metadata"].get("creationTimestamp"))
    if created is None:
        return timeouts.now
    scheduled = unix(find((pod.get("status") or {}).get("conditions"), "PodScheduled").get("lastTransitionTime"))
    moments = (created + timeouts.no_fit_s, inf if scheduled is None else scheduled + VOLUMES_S)
    return min((each for each in moments if each > timeouts.now), default=inf)
