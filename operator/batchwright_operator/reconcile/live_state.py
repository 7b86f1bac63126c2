"""Live state: what the operator knows from outside the API server, as samples and the states of sidecars and runners.

One `LiveState` is shared by all reconcilers and background tasks of a process. Backgrounds write it, `observe` reads
it and copies what the decision needs; nothing here is persisted. All of it lives in one event loop, so plain
dicts do. Times are Unix seconds by `now`.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from batchwright_operator.reconcile.decisions import Key
from batchwright_worker.api.messages import RunnerState, SidecarState

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """One device of a processor; shares in [0, 1]."""

    id: str
    utilization: float
    memory_utilization: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Method A3: live state of one processor. Shares in [0, 1]; `taken_at` is when it was read at its source."""

    utilization: float
    memory_utilization: float
    taken_at: float
    devices: tuple[DeviceSample, ...] = ()
    pods: Mapping[str, tuple[float, float]] | None = None
    """Pod uid -> its part of both utilizations, "": that of pods that have ended; None: not told by the source."""
    seconds: float = 0.0
    """Seconds that it is the mean of; 0: not known, or a moment."""
    until: float | None = None
    """When those seconds end, if before `taken_at`: what came later was left out."""
    left_out: float = 0.0
    """The mean utilization by pods that end by themselves, which is not in `utilization`."""

    @property
    def last_at(self) -> float:
        """When the seconds end that it is the mean of."""
        return self.taken_at if self.until is None else self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Received(Generic[T]):
    """A message of a pod, and when it was received."""

    state: T
    received_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """An action of a key was refused permanently: by the API server (invalid, forbidden by quota or policy), or by us,
    since it would touch somebody else's object."""

    what: str
    """Kind and name of the object, e.g. `Deployment ocr-cpu`."""
    message: str
    """The server's own message, or ours."""
    at: float
    reason: str = "Rejected"
    """As in conditions: Rejected, WebhookFailed, NameTaken, ChildContended."""
    is_final: bool = True
    """False: it may be allowed later, with nothing changed here (a quota, a missing permission)."""

    @property
    def text(self) -> str:
        """A sentence for a condition."""
        is_of_the_server = self.reason in ("Rejected", "WebhookFailed")
        return f"the API server refused {self.what}: {self.message}" if is_of_the_server else self.message


@dataclass(slots=True, kw_only=True)
class LiveState:
    """The tables. Each field says who writes it; everybody may read everything."""

    now: Callable[[], float] = time.time
    """The clock of every time in here: the cluster's, where there is one (`kube/cluster_clock`)."""
    control_key: bytes = b""
    """The operator's own key; set before any reconciler runs."""
    newest: dict[tuple[str, str], Sample] = field(default_factory=dict)
    """(node, accelerator kind) -> newest sample, everything included; written by telemetry."""
    samples: dict[tuple[str, str], Sample] = field(default_factory=dict)
    """(node, accelerator kind) -> what lasts of the samples of `Settings.placement_window_seconds`, by which pods are
    placed; missing while nothing but what ends was seen. Written by telemetry."""
    share_of_pod: Callable[[tuple[str, str], str], float | None] = field(default=lambda place, uid: None)
    """((node, kind), pod uid) -> the mean share of the processor that the pod used over the window; None where the
    source of samples does not tell. Set by telemetry."""
    sidecars: dict[str, Received[SidecarState]] = field(default_factory=dict)
    """Pod uid -> newest state; written (and removed when the pod is deleted) by the sidecar follower."""
    runners: dict[str, Received[RunnerState]] = field(default_factory=dict)
    """Pod uid -> newest state; written (and removed) by the runner follower."""
    terminations: dict[str, dict[int, RunnerState]] = field(default_factory=dict)
    """InferenceJob uid -> shard -> final state, kept when the pod is deleted; written by the runner follower."""
    rejections: dict[Key, Rejection] = field(default_factory=dict)
    """Key -> why its newest action was refused; written by the controller, which then decides once more so that
    the status can say so (condition Stalled), and removes it when a later pass succeeds."""

    def control_token(self, uid: str) -> str:
        """The token of a user's object, see `control_token`."""
        return control_token(self.control_key, uid)


def control_token(key: bytes, uid: str) -> str:
    """The token that the control port of an object's pods asks for: HMAC-SHA256(key, uid) in hex."""
    if not key:
        raise ValueError("the operator's control key is not loaded yet")
    return hmac.new(key, uid.encode(), hashlib.sha256).hexdigest()
