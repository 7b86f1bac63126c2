"""When each pod was made, lost its gate, was bound and ran, as a watch of the API server tells."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from e2e.cluster import ControlPlane

PODS = "/api/v1/pods"


class _Metadata(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = msgspec.field(default="", name="resourceVersion")


class _Spec(msgspec.Struct, frozen=True):
    node_name: str = msgspec.field(default="", name="nodeName")
    gates: list[dict[str, str]] = msgspec.field(default_factory=list, name="schedulingGates")


class _Status(msgspec.Struct, frozen=True):
    phase: str = ""


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: _Pod


@dataclass(slots=True, kw_only=True)
class PodTimes:
    """Seconds of the monotonic clock at which the watch told so; 0: not yet. `gated`: it was made with a gate."""

    namespace: str
    name: str
    made: float
    gated: bool
    opened: float = 0.0
    bound: float = 0.0
    ran: float = 0.0
    gone: bool = False


@dataclass(slots=True, kw_only=True)
class Timeline:
    """A watch of all pods in a thread. A context manager; `pods` is by uid."""

    plane: ControlPlane
    pods: dict[str, PodTimes] = field(default_factory=dict)
    _version: str = ""
    _connection: http.client.HTTPSConnection | None = None
    _thread: threading.Thread | None = None
    _stopped: bool = False

    def __enter__(self) -> Timeline:
        listed = self.plane.api.get(f"{PODS}?limit=1")
        self._version = listed["metadata"]["resourceVersion"]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(2)
        assert self._thread is not None
        self._thread.join(5)

    def until(self, met: Callable[[], bool], within_s: float) -> bool:
        """Waits until it is so; whether it became so in time."""
        deadline = time.monotonic() + within_s
        while not met():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def count(self, of: Callable[[PodTimes], float | bool]) -> int:
        """Present pods for which it is so."""
        return sum(bool(of(each)) and not each.gone for each in list(self.pods.values()))

    def moments(self, of: Callable[[PodTimes], float]) -> list[float]:
        """The moments at which it became so, in order."""
        return sorted(found for each in list(self.pods.values()) if (found := of(each)))

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._watch()
            except (OSError, http.client.HTTPException, msgspec.MsgspecError, ValueError):
                time.sleep(0.1)

    def _watch(self) -> None:
        self._connection = connection = self.plane.api.connect()
        connection.timeout = 60
        query = f"watch=true&resourceVersion={self._version}&allowWatchBookmarks=true"
        connection.request("GET", f"{PODS}?{query}", headers={"Accept": "application/json"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise ValueError(answer.read())
        rest = b""
        while chunk := answer.read1(1 << 20):
            *lines, rest = (rest + chunk).split(b"\n")
            now = time.monotonic()
            for line in lines:
                self._see(msgspec.json.decode(line, type=_Event), now)

    def _see(self, event: _Event, now: float) -> None:
        pod = event.object
        self._version = pod.metadata.resource_version or self._version
        if event.type == "BOOKMARK":
            return
        at = self.pods.get(pod.metadata.uid)
        if at is None:
            at = self.pods[pod.metadata.uid] = PodTimes(
                namespace=pod.metadata.namespace, name=pod.metadata.name, made=now, gated=bool(pod.spec.gates)
            )
        if event.type == "DELETED":
            at.gone = True
        if not pod.spec.gates and not at.opened:
            at.opened = now
        if pod.spec.node_name and not at.bound:
            at.bound = now
        if pod.status.phase == "Running" and not at.ran:
            at.ran = now


def rate(moments: list[float]) -> float:
    """Per second between the first and the last."""
    span = moments[-1] - moments[0] if len(moments) > 1 else 0.0
    return (len(moments) - 1) / span if span > 0 else 0.0


def percentile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))] if ordered else 0.0
