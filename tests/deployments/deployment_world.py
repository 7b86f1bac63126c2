"""A small world in which a ModelDeployment `ocr`, its children and pods come and go."""

from __future__ import annotations

from typing import Any

from batchwright_operator.deployments.reconciler import ModelDeploymentReconciler
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import MODEL_DEPLOYMENT, PVC, Raw
from batchwright_operator.reconcile.decisions import Event, Key
from batchwright_operator.reconcile.live_state import LiveState, Received
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import SidecarState
from tests.deployments.deployment_objects import NAMESPACE, deployment, state
from tests.deployments.tiny_api import SmallWorld

KEY = Key(reconciler="modeldeployment", namespace=NAMESPACE, name="ocr")


class World(SmallWorld):
    """A small API with one ModelDeployment `ocr`, its claim, and the reconciler."""

    def __init__(self, raw: Raw | None = None, *, claim: bool = True) -> None:
        self.live = LiveState(control_key=b"key")
        super().__init__(ModelDeploymentReconciler(Settings(), self.live), KEY)
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

    def reason(self) -> str:
        return str(find(self.status["conditions"], "Ready")["reason"])


def conditions(world: World) -> dict[str, str]:
    return {each["type"]: each["status"] for each in world.status["conditions"]}
