"""A small world in which a ModelDeployment `ocr`, its children and pods come and go."""

from __future__ import annotations

from typing import Any

import pytest

from batchwright_operator.deployments.reconciler import ModelDeploymentReconciler
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import MODEL_DEPLOYMENT, PVC, Raw
from batchwright_operator.reconcile.decisions import Decision, Event, Key
from batchwright_operator.reconcile.live_state import LiveState, Received
from batchwright_operator.settings import Settings
from batchwright_operator.status.progress_deadline import PROGRESS_DEADLINE_S
from batchwright_worker.api.messages import SidecarState
from tests.deployments.deployment_objects import NAMESPACE, deployment, state
from tests.deployments.tiny_api import TinyApi

KEY = Key(reconciler="modeldeployment", namespace=NAMESPACE, name="ocr")


class World:
    """A small API with one ModelDeployment `ocr`, its claim, and the reconciler."""

    def __init__(self, raw: Raw | None = None, *, claim: bool = True) -> None:
        self.api = TinyApi()
        self.live = LiveState(control_key=b"key")
        self.reconciler = ModelDeploymentReconciler(Settings(), self.live)
        self.api.put(MODEL_DEPLOYMENT, raw or deployment())
        for name in ("models", "models.v2") if claim else ():
            self.api.put(PVC, {"metadata": {"name": name, "namespace": NAMESPACE}})

    @property
    def raw(self) -> Raw:
        found = self.api.get(MODEL_DEPLOYMENT, NAMESPACE, "ocr")
        assert found is not None
        return found

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.raw["status"])

    def decide(self) -> Decision:
        observed = self.reconciler.observe(self.api, KEY)
        assert observed is not None
        return self.reconciler.decide(observed, self.api.now)

    def settle(self) -> list[Event]:
        """Decide and perform until nothing is written any more; the events on the way."""
        events: list[Event] = []
        for _ in range(10):
            decision = self.decide()
            events += decision.events
            if not self.api.perform(decision):
                return events
        pytest.fail("does not settle")

    def change(self, **spec: Any) -> None:
        """The user edits the spec."""
        self.api.put(MODEL_DEPLOYMENT, self.raw | {"spec": self.raw["spec"] | spec})

    def serve(self, said: SidecarState | None = None) -> list[Event]:
        """Everything is rolled out, placed and ready, and every sidecar says so."""
        self.settle()
        self.api.roll_out()
        for pod in list(self.api.pods()):
            ready = self.api.start(self.api.place(pod, "node-a"))
            self.hear(ready, said or state())
        return self.settle()

    def hear(self, pod: Raw, said: SidecarState) -> None:
        self.live.sidecars[pod["metadata"]["uid"]] = Received(state=said, received_at=self.api.now)

    def later(self) -> list[Event]:
        """What pods report is written a while after the last write."""
        self.api.now += 60
        return self.settle()

    def late(self) -> list[Event]:
        """Nothing moves until the progress deadline is over."""
        self.api.now += PROGRESS_DEADLINE_S
        return self.settle()

    def reason(self) -> str:
        return str(find(self.status["conditions"], "Ready")["reason"])


def conditions(world: World) -> dict[str, str]:
    return {each["type"]: each["status"] for each in world.status["conditions"]}
