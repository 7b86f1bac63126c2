"""Follows the state of every model pod's sidecar by one open long-poll each, and has those that serve by an old
configuration sent the newest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from batchwright_operator.deployments.live_configuration import LiveTexts
from batchwright_operator.deployments.pod_template import SIDECAR
from batchwright_operator.deployments.replicas import config_of
from batchwright_operator.kube.objects import POD
from batchwright_operator.pods.configuration_sender import ConfigurationSender, ConfigurationText
from batchwright_operator.pods.lifecycle import is_running
from batchwright_operator.pods.owner_chain import OwnerChains
from batchwright_operator.pods.state_follower import (
    FollowedPod,
    PollPolicy,
    SessionFactory,
    StateFollower,
    control_address,
)
from batchwright_operator.reconcile.interfaces import Queue, StoreView
from batchwright_operator.reconcile.keys import MODEL_DEPLOYMENT_RECONCILER, key_of
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import COMPONENT_MODEL, LABEL_COMPONENT

NOTIFY_S: Final = 0.5
"""A sidecar may have news in every window, and replicas have them one after the other: one pass takes all of them."""


class SidecarFollower:
    """The `Background` that keeps `live.sidecars` true and reconciles a ModelDeployment when one changed."""

    def __init__(self, settings: Settings, live: LiveState, session_factory: SessionFactory) -> None:
        self._live = live
        self._texts = LiveTexts()
        self._sender = ConfigurationSender(session_factory=session_factory)
        self._follower = StateFollower(
            targets=self._targets,
            message=SidecarState,
            states=live.sidecars,
            session_factory=session_factory,
            policy=PollPolicy(notify_s=NOTIFY_S),
        )

    async def run(self, store: StoreView, queue: Queue) -> None:
        """Runs until cancelled; survives its own errors."""
        async with self._sender:
            await self._follower.run(store, queue)

    def _targets(self, store: StoreView) -> list[FollowedPod]:
        """One look at the cache serves both."""
        found = list(sidecar_targets(store, self._live.control_token))
        self._sender.look(self._behind(store, found))
        return found

    def _behind(self, store: StoreView, targets: list[FollowedPod]) -> Iterator[tuple[FollowedPod, ConfigurationText]]:
        self._texts.look_anew()
        for target in targets:
            received = self._live.sidecars.get(target.uid)
            if received is None or received.state.configuration is None:
                continue  # not known yet; or a sidecar that takes over nothing as it runs
            wanted = self._texts.of(store, target.key, target.config)
            if wanted is not None and wanted.digest != received.state.configuration.digest:
                yield target, wanted


def sidecar_targets(store: StoreView, token: Callable[[str], str]) -> Iterator[FollowedPod]:
    """Every model pod whose sidecar runs; `token` maps the uid of a ModelDeployment to its control token."""
    tokens: dict[str, str] = {}
    chains = OwnerChains(store)
    for pod in store.labelled(POD, LABEL_COMPONENT, COMPONENT_MODEL):
        address = control_address(pod)
        if address is None or not is_running(pod, SIDECAR):
            continue
        deployment = chains.model_deployment_of(pod)
        if deployment is None:
            continue  # it only says that it is a model pod: it must not be sent a token
        uid = deployment["metadata"]["uid"]
        if uid not in tokens:
            tokens[uid] = token(uid)
        key = key_of(MODEL_DEPLOYMENT_RECONCILER, deployment)
        yield FollowedPod(
            uid=pod["metadata"]["uid"], address=address, token=tokens[uid], key=key, config=config_of(pod["spec"])
        )
