"""The reconciler of ModelDeployments: from the user's object to Deployments, Services and a status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.api.model_deployment import ModelDeployment, parse
from batchwright_operator.deployments.children import COMPONENT_REVISION, old_headless_name
from batchwright_operator.deployments.events import events_of
from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.known_replicas import KnownReplicas
from batchwright_operator.deployments.live_configuration import configured
from batchwright_operator.deployments.metrics import metrics_of
from batchwright_operator.deployments.observe import ObservedDeployment, facts_of
from batchwright_operator.deployments.phase import CLAIM_NOT_FOUND, DeploymentPhase, phase_of
from batchwright_operator.deployments.plan import actions, component_is_model, desired
from batchwright_operator.deployments.profiles import Profiles
from batchwright_operator.deployments.revision import parse_revision
from batchwright_operator.deployments.rollout import rollout
from batchwright_operator.deployments.scale_down import deletion_costs
from batchwright_operator.deployments.status import status_of
from batchwright_operator.deployments.upgrades import LOOK_AGAIN_S, UpgradeTurns, is_held, up_to_date, wants_upgrade
from batchwright_operator.kube.conditions import Condition, Truth, holds
from batchwright_operator.kube.metadata import annotation, controller_uid, is_leaving, label
from batchwright_operator.kube.objects import (
    ACCELERATOR_PROFILE,
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    PDB,
    POD,
    PVC,
    SERVICE,
    Raw,
)
from batchwright_operator.kube.quantities import amount
from batchwright_operator.pods.lifecycle import is_over
from batchwright_operator.pods.owner_chain import OwnerChains, chain_watches
from batchwright_operator.pods.problems import VOLUMES_S
from batchwright_operator.reconcile.decisions import Decision, Key, StatusWrite
from batchwright_operator.reconcile.interfaces import Changes, StoreView, Watch
from batchwright_operator.reconcile.keys import MODEL_DEPLOYMENT_RECONCILER, key_of, label_keys, no_keys, own_keys
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.settings import Settings
from batchwright_operator.status.invalid_spec import invalid_spec
from batchwright_operator.status.write_policy import WritePolicy, write_decision
from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import (
    ANNOTATION_KIND,
    COMPONENT_MODEL,
    KIND_CPU,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
)

CLAIM_RETRY_S: Final = 5.0
"""How often a claim that a URI names is looked for while there is none."""
MANY: Final = 200
"""Replicas of which a pass takes more than 5 ms; the first one, which reads all of them, 30 microseconds of each."""
MOVE_S: Final = 60.0
"""How often it is looked whether a kind that the user prefers has room by now."""
INVALID: Final[dict[str, Truth]] = {
    "Ready": "False",
    "Reconciling": "False",
    "Stalled": "True",
    "Available": "Unknown",
    "Progressing": "False",
    "ModelsReady": "Unknown",
    "LatencyTargetMet": "Unknown",
}
"""The conditions of a spec that cannot be parsed."""


class ModelDeploymentReconciler:
    """Reconciles ModelDeployments."""

    name = MODEL_DEPLOYMENT_RECONCILER

    def __init__(self, settings: Settings, live: LiveState) -> None:
        self._settings = settings
        self._live = live
        self._turns = UpgradeTurns(settings.upgrades_at_once)
        self._profiles = Profiles()
        self._profiles_changed: Changes | None = None
        self._replicas: dict[Key, KnownReplicas] = {}
        self._under_way: set[Key] = set()

    def watches(self) -> Iterable[Watch]:
        """Its objects, their children (by label), and what says where pods may go."""
        children = label_keys(self.name, LABEL_DEPLOYMENT)
        yield Watch(resource=MODEL_DEPLOYMENT, keys=own_keys(self.name))
        yield Watch(resource=MODEL_DEPLOYMENT, keys=_namesake_keys)
        yield from chain_watches(children)
        yield Watch(resource=DEPLOYMENT, keys=self._turns.next_keys, label_selector=LABEL_DEPLOYMENT)
        for resource in (CONFIG_MAP, SERVICE, PDB, NETWORK_POLICY):
            yield Watch(resource=resource, keys=children, label_selector=LABEL_DEPLOYMENT)
        yield Watch(
            resource=CONTROLLER_REVISION, keys=children, label_selector=LABEL_DEPLOYMENT,
            index_labels=(LABEL_DEPLOYMENT,),
        )  # fmt: skip
        yield Watch(resource=POD, keys=children, index_labels=(LABEL_COMPONENT, LABEL_DEPLOYMENT))
        yield Watch(resource=ACCELERATOR_PROFILE, keys=no_keys)
        yield Watch(resource=PVC, keys=no_keys)

    def observe(self, store: StoreView, key: Key) -> ObservedDeployment | None:
        """None: there is no such object, or it is being deleted (its children go with it)."""
        raw = store.get(MODEL_DEPLOYMENT, key.namespace, key.name)
        if raw is None or is_leaving(raw):
            self._turns.done(key)
            self._replicas.pop(key, None)
            self._under_way.discard(key)
            return None
        uid = raw["metadata"]["uid"]
        deployments = tuple(each for each in store.owned(DEPLOYMENT, uid) if component_is_model(each))
        revisions = tuple(_revisions_of(uid, store.labelled(
            CONTROLLER_REVISION, LABEL_DEPLOYMENT, key.name, namespace=key.namespace)))  # fmt: skip
        pods = store.labelled(POD, LABEL_DEPLOYMENT, key.name, namespace=key.namespace)
        return ObservedDeployment(
            raw=raw,
            settings=self._settings,
            token=self._live.control_token(uid),
            objects=len(store.all(MODEL_DEPLOYMENT)),
            under_way=self._count_under_way(key, raw),
            deployments=deployments,
            revisions=revisions,
            may_upgrade=self._may_upgrade(store, key, raw, deployments, revisions),
            config_maps=tuple(store.owned(CONFIG_MAP, uid)),
            policies=tuple(store.owned(NETWORK_POLICY, uid)),
            budgets=tuple(store.owned(PDB, uid)),
            services=tuple(store.owned(SERVICE, uid)),
            has_namesake=store.get(MODEL_DEPLOYMENT, key.namespace, old_headless_name(key.name)) is not None,
            pods=tuple(self._with_state(_of(uid, pods, OwnerChains(store)))),
            known_replicas=self._replicas.get(key, KnownReplicas()),
            profiles=self._profiles_of(store),
            taken=_taken(raw, store),
            claims=frozenset(each["metadata"]["name"] for each in store.all(PVC, namespace=key.namespace)),
            rejection=self._live.rejections.get(key),
        )

    def _count_under_way(self, key: Key, raw: Raw) -> int:
        """How many there are, this one counted as its status says."""
        conditions = (raw.get("status") or {}).get("conditions")
        if conditions and not holds(conditions, "Reconciling"):
            self._under_way.discard(key)
        else:
            self._under_way.add(key)
        return len(self._under_way)

    def _profiles_of(self, store: StoreView) -> Profiles:
        """The same object until one of them changes."""
        if self._profiles_changed is None:
            self._profiles_changed = store.changes(ACCELERATOR_PROFILE)
        changed = self._profiles_changed.take()
        if changed is None or changed:
            self._profiles = Profiles(store.all(ACCELERATOR_PROFILE))
        return self._profiles

    def _may_upgrade(
        self, store: StoreView, key: Key, raw: Raw, deployments: tuple[Raw, ...], revisions: tuple[Raw, ...]
    ) -> bool:
        found = [each for raw in revisions if (each := parse_revision(raw)) is not None]
        if is_held(raw) or not wants_upgrade(found, deployments, self._settings):
            self._turns.done(key)
            return False
        return self._turns.ask(key, store.all(DEPLOYMENT))

    def _with_state(self, pods: Iterable[Raw]) -> Iterator[tuple[Raw, SidecarState | None]]:
        for pod in pods:
            received = self._live.sidecars.get(pod["metadata"]["uid"])
            yield pod, received.state if received else None

    def takes_long(self, observed: ObservedDeployment) -> bool:
        """See `reconcile.interfaces.Detached`."""
        return len(observed.pods) > MANY

    def decide(self, observed: ObservedDeployment, now: float) -> Decision:
        """See `decide_on`; what was read of the pods is kept for the next pass."""
        read = observed.read(now)
        self._replicas[key_of(self.name, observed.raw)] = read.known_replicas
        return decide_on(read, now)


def _of(uid: str, pods: Iterable[Raw], chains: OwnerChains) -> Iterator[Raw]:
    """The pods among these that are replicas of the ModelDeployment with this uid."""
    for pod in pods:
        owner = chains.model_deployment_of(pod)
        if owner is not None and owner["metadata"]["uid"] == uid:
            yield pod


def _revisions_of(uid: str, revisions: Iterable[Raw]) -> Iterator[Raw]:
    """Those of the ModelDeployment with this uid, and those that have lost their owner: see `retention.left_behind`."""
    for each in revisions:
        owner = controller_uid(each)
        if owner == uid or (owner is None and label(each, LABEL_COMPONENT) == COMPONENT_REVISION):
            yield each


def _taken(raw: Raw, store: StoreView) -> dict[str, int]:
    """See `DeploymentFacts.taken`."""
    if not ((raw.get("spec") or {}).get("placement") or {}).get("preference"):
        return {}
    uid, chains = raw["metadata"]["uid"], OwnerChains(store)
    found: Counter[str] = Counter()
    for pod in store.labelled(POD, LABEL_COMPONENT, COMPONENT_MODEL):
        kind = annotation(pod, ANNOTATION_KIND)
        if not kind or kind == KIND_CPU or is_over(pod):
            continue
        owner = chains.model_deployment_of(pod)  # whoever may make a pod gives it any label, and any kind
        if owner is None or owner["metadata"]["uid"] == uid:
            continue
        for container in pod["spec"]["containers"]:
            found[kind] += int(amount(((container.get("resources") or {}).get("limits") or {}).get(kind, 0)))
    return dict(found)


def _namesake_keys(raw: Raw) -> Iterator[Key]:
    """`x-replicas` concerns `x`, which may have a Service of that name from before 0.1.0 and is to give it up."""
    metadata = raw["metadata"]
    base = metadata["name"].removesuffix("-replicas")
    if base != metadata["name"] and base:
        yield Key(reconciler=MODEL_DEPLOYMENT_RECONCILER, namespace=metadata["namespace"], name=base)


def decide(observed: ObservedDeployment, now: float) -> Decision:
    """See `decide_on`."""
    return decide_on(observed.read(now), now)


def decide_on(observed: ObservedDeployment, now: float) -> Decision:
    """All actions, the status if it is worth a write, and the events that go with that write; pure. `observed` was
    read."""
    try:
        deployment = parse(observed.raw)
    except InvalidSpec as error:
        return invalid_spec(MODEL_DEPLOYMENT, observed.raw, error, conditions=INVALID, now=now)
    facts = facts_of(observed, deployment)
    settings = observed.settings
    wanted = desired(facts, settings, now)
    rolled = rollout(wanted.deployments, facts.deployments)
    found = configured(facts, wanted.revisions, wanted.configurations)
    phase, upgrade = phase_of(facts, rolled, found, now), up_to_date(facts, wanted.revisions, rolled, settings)
    new = status_of(facts, phase, upgrade, found, now)
    policy = WritePolicy(
        words_s=settings.status_min_interval_seconds,
        numbers_s=settings.status_metric_interval_seconds,
        threshold=settings.status_metric_threshold,
        objects=observed.objects,
        under_way=observed.under_way,
    )
    write = write_decision(facts.old, new, now, policy)
    return Decision(
        actions=(
            *deletion_costs(facts, wanted.deployments),
            *actions(facts, wanted, settings, token=observed.token),
        ),
        status=None if write.status is None else _write(deployment, write.status),
        events=events_of(facts, phase, new) if write.status is not None else (),
        requeue_after_s=_requeue_after_s(facts, phase, upgrade, write.due_in_s, now, settings.unfit_seconds),
        metrics=metrics_of(facts, phase, upgrade),
    )


def _write(deployment: ModelDeployment, status: Raw) -> StatusWrite:
    return StatusWrite(resource=MODEL_DEPLOYMENT, regarding=deployment.raw, status=status)


def _requeue_after_s(
    facts: DeploymentFacts, phase: DeploymentPhase, upgrade: Condition, due_s: float | None, now: float, no_fit_s: float
) -> float | None:
    """When time alone changes something: a pod has waited long enough, or a write is due."""
    due = [each for each in (due_s, phase.due_in_s) if each is not None]
    waiting = (no_fit_s - (now - each.created) for each in facts.present if each.waits_for_place)
    due += [max(left, 1.0) for left in waiting if left > -1.0]
    if any(each.node and each.problem is not None and not each.problem.is_fault for each in facts.present):
        due.append(VOLUMES_S)
    if facts.deployment.spec.placement.preference and len(facts.kinds.plans) > 1:
        due.append(MOVE_S)
    if phase.reason == CLAIM_NOT_FOUND:
        due.append(CLAIM_RETRY_S)
    if upgrade.reason == "WaitsForItsTurn":
        due.append(LOOK_AGAIN_S)
    return min(due, default=None)
