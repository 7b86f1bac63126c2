"""Follows the state of every model pod's sidecar by one open long-poll each, and has those that serve by an old
configuration sent the newest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from batchwright_operator.deployments.live_configuration import LiveTexts
from batchwright_operator.deployments.pod_template import SIDECAR
from batchwright_operator.deployments.replicas import config_of
from batchwright_operator.kube.metadata import controller_uid, label
from batchwright_operator.kube.objects import DEPLOYMENT, MODEL_DEPLOYMENT, POD, REPLICA_SET, Resource
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
from batchwright_operator.reconcile.interfaces import Changes, Queue, StoreView
from batchwright_operator.reconcile.keys import MODEL_DEPLOYMENT_RECONCILER, key_of
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import COMPONENT_MODEL, LABEL_COMPONENT

Place = tuple[str, str]
"""(namespace, name)"""
NOTIFY_S: Final = 0.5
"""A sidecar may have news in every window, and replicas have them one after the other: one pass takes all of them."""


class SidecarFollower:
    """The `Background` that keeps `live.sidecars` true and reconciles a ModelDeployment when one changed."""

    def __init__(self, settings: Settings, live: LiveState, session_factory: SessionFactory) -> None:
        self._live = live
        self._texts = LiveTexts()
        self._changes: _ChainChanges | None = None
        self._found: list[FollowedPod] | None = None
        self._sender = ConfigurationSender(session_factory=session_factory)
        self._follower = StateFollower(
            targets=self._targets,
            message=SidecarState,
            states=live.sidecars,
            session_factory=session_factory,
            policy=PollPolicy(notify_s=NOTIFY_S),
            words=_words,
            now=live.now,
        )

    async def run(self, store: StoreView, queue: Queue) -> None:
        """Runs until cancelled; survives its own errors."""
        self._found = None  # of another time that this replica led: the tokens may be others
        async with self._sender:
            await self._follower.run(store, queue)

    def _targets(self, store: StoreView) -> list[FollowedPod]:
        """One look at the cache serves both; the same list until something changed that it depends on."""
        if self._changes is None:
            self._changes = _ChainChanges(store)
        if self._changes.take() or self._found is None:
            self._found = list(sidecar_targets(store, self._live.control_token))
        self._sender.look(self._behind(store, self._found))
        return self._found

    def _behind(self, store: StoreView, targets: list[FollowedPod]) -> Iterator[tuple[FollowedPod, ConfigurationText]]:
        self._texts.look_anew()
        for target in targets:
            received = self._live.sidecars.get(target.uid)
            if received is None or received.state.configuration is None:
                continue  # not known yet; or a sidecar that takes over nothing as it runs
            wanted = self._texts.of(store, target.key, target.config)
            if wanted is not None and wanted.digest != received.state.configuration.digest:
                yield target, wanted


class _ChainChanges:
    """Whether anything changed that says which pods are replicas of whom. Most changes do not: statuses, pods of
    others."""

    def __init__(self, store: StoreView) -> None:
        self._store = store
        self._feeds = [(each, store.changes(each)) for each in (POD, REPLICA_SET, DEPLOYMENT, MODEL_DEPLOYMENT)]
        self._owners: dict[tuple[Resource, Place], tuple[str, str | None]] = {}
        """Own uid and that of the controller."""

    def take(self) -> bool:
        """Since the last call."""
        return any([self._has_changed(resource, feed) for resource, feed in self._feeds])  # noqa: C419 - each is read

    def _has_changed(self, resource: Resource, feed: Changes) -> bool:
        changed = feed.take()
        if changed is None:
            return True
        return any([self._matters(resource, place) for place in changed])  # noqa: C419 - each is remembered

    def _matters(self, resource: Resource, place: Place) -> bool:
        raw = self._store.get(resource, *place)
        if resource == POD:
            return raw is None or label(raw, LABEL_COMPONENT) == COMPONENT_MODEL
        before = self._owners.pop((resource, place), None)
        if raw is None:
            return True
        self._owners[resource, place] = now = (raw["metadata"]["uid"], controller_uid(raw))
        return now != before


def _words(state: SidecarState) -> object:
    models = [(each.name, each.state, each.message, each.mode, each.latency_target_met) for each in state.models]
    return state.ready, state.message, state.configuration, models


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
