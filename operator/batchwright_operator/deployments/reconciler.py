"""The domain of ModelDeployments: from the user's object to Deployments, Services and a status that tells all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from batchwright_operator.api.eligible_kinds import EligibleKinds, offer
from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.api.model_deployment import ModelDeployment, parse
from batchwright_operator.deployments.events import events_of
from batchwright_operator.deployments.plan import Children, actions, component_is_model, plan_slots, wanted_deployments
from batchwright_operator.deployments.replicas import PendingTimeouts, replica
from batchwright_operator.deployments.rollout import rollout
from batchwright_operator.deployments.status import ModelFacts, status_of
from batchwright_operator.kube.conditions import Truth
from batchwright_operator.kube.metadata import is_leaving, label
from batchwright_operator.kube.objects import (
    ACCELERATOR_PROFILE,
    CONFIG_MAP,
    DEPLOYMENT,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    PDB,
    POD,
    PVC,
    SERVICE,
    Raw,
)
from batchwright_operator.pods.problems import VOLUMES_S, Problem
from batchwright_operator.reconcile.decisions import Action, Decision, Key, StatusWrite
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_operator.reconcile.keys import MODEL_DEPLOYMENT_RECONCILER, label_keys, no_keys, own_keys
from batchwright_operator.reconcile.live_state import LiveState, Rejection
from batchwright_operator.settings import Settings
from batchwright_operator.status.invalid_spec import invalid_spec
from batchwright_operator.status.write_policy import WriteDecision, WritePolicy, compare
from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import COMPONENT_MODEL, LABEL_COMPONENT, LABEL_DEPLOYMENT, claim_of

CLAIM_RETRY_S: Final = 5.0
"""How often a claim that a URI names is looked for while there is none."""
INVALID: Final[dict[str, Truth]] = {
    "Ready": "False",
    "Reconciling": "False",
    "Stalled": "True",
    "LatencyTargetMet": "Unknown",
}
"""The conditions of a spec that cannot be parsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedModel:
    """One ModelDeployment and all that its decision needs."""

    raw: Raw
    settings: Settings
    token: str
    deployments: tuple[Raw, ...] = ()
    config_maps: tuple[Raw, ...] = ()
    pods: tuple[tuple[Raw, SidecarState | None], ...] = ()
    profiles: tuple[Raw, ...] = ()
    claims: frozenset[str] = frozenset()
    rejection: Rejection | None = None


class ModelDeploymentReconciler:
    """Reconciles ModelDeployments."""

    name = MODEL_DEPLOYMENT_RECONCILER

    def __init__(self, settings: Settings, live: LiveState) -> None:
        self._settings = settings
        self._live = live

    def watches(self) -> Iterable[Watch]:
        """Its objects, their children (by label), and what says where pods may go."""
        children = label_keys(self.name, LABEL_DEPLOYMENT)
        yield Watch(resource=MODEL_DEPLOYMENT, keys=own_keys(self.name))
        for resource in (DEPLOYMENT, CONFIG_MAP, SERVICE, PDB, NETWORK_POLICY):
            yield Watch(resource=resource, keys=children, label_selector=LABEL_DEPLOYMENT)
        yield Watch(resource=POD, keys=children, index_labels=(LABEL_COMPONENT, LABEL_DEPLOYMENT))
        yield Watch(resource=ACCELERATOR_PROFILE, keys=no_keys)
        yield Watch(resource=PVC, keys=no_keys)

    def observe(self, store: StoreView, key: Key) -> ObservedModel | None:
        """None: there is no such object, or it is being deleted (its children go with it)."""
        raw = store.get(MODEL_DEPLOYMENT, key.namespace, key.name)
        if raw is None or is_leaving(raw):
            return None
        uid = raw["metadata"]["uid"]
        pods = store.labelled(POD, LABEL_DEPLOYMENT, key.name, namespace=key.namespace)
        return ObservedModel(
            raw=raw,
            settings=self._settings,
            token=self._live.control_token(uid),
            deployments=tuple(each for each in store.owned(DEPLOYMENT, uid) if component_is_model(each)),
            config_maps=tuple(store.owned(CONFIG_MAP, uid)),
            pods=tuple(self._with_state(pods)),
            profiles=tuple(store.all(ACCELERATOR_PROFILE)),
            claims=frozenset(each["metadata"]["name"] for each in store.all(PVC, namespace=key.namespace)),
            rejection=self._live.rejections.get(key),
        )

    def _with_state(self, pods: Iterable[Raw]) -> Iterator[tuple[Raw, SidecarState | None]]:
        for pod in pods:
            if label(pod, LABEL_COMPONENT) == COMPONENT_MODEL:
                received = self._live.sidecars.get(pod["metadata"]["uid"])
                yield pod, received.state if received else None

    def decide(self, observed: ObservedModel, now: float) -> Decision:
        """Pure."""
        return decide(observed, now)


def decide(observed: ObservedModel, now: float) -> Decision:
    """All actions, the status if it is worth a write, and the events that go with that write."""
    try:
        wanted = parse(observed.raw)
    except InvalidSpec as error:
        return invalid_spec(MODEL_DEPLOYMENT, observed.raw, error, conditions=INVALID, now=now)
    settings = observed.settings
    patience = PendingTimeouts(now=now, no_fit_s=settings.unfit_seconds)
    children = Children(
        deployments=observed.deployments,
        config_maps=observed.config_maps,
        replicas=tuple(replica(pod, state, patience) for pod, state in observed.pods),
    )
    offered = offer(wanted, settings)
    planned: tuple[Action, ...] = ()
    deployments = list(observed.deployments)
    if offered.plans:
        plan = plan_slots(wanted, offered, children, observed.profiles, now, settings.unfit_seconds)
        deployments = wanted_deployments(wanted, offered, plan, settings)
        planned = actions(wanted, deployments, children, settings, observed.token)
    trouble = _trouble(wanted, offered, observed)
    facts = ModelFacts(
        deployment=wanted,
        replicas=children.replicas,
        rollout=rollout(deployments, observed.deployments),
        trouble=trouble,
    )
    return _decision(facts, planned, observed, now)


def _decision(facts: ModelFacts, planned: tuple[Action, ...], observed: ObservedModel, now: float) -> Decision:
    settings, raw = observed.settings, observed.raw
    new = status_of(facts, now)
    pace = WritePolicy(interval_s=settings.status_min_interval_seconds, threshold=settings.status_metric_threshold)
    verdict = compare(raw.get("status") or {}, new, now, pace)
    labels = f'{{namespace="{facts.deployment.namespace}",name="{facts.deployment.name}"}}'
    return Decision(
        actions=planned,
        status=_write(raw, verdict),
        events=events_of(facts, new) if verdict.status is not None else (),
        requeue_after_s=_look_again(facts, verdict, now, settings.unfit_seconds),
        metrics={
            f"batchwright_modeldeployment_replicas_wanted{labels}": float(facts.deployment.spec.replicas),
            f"batchwright_modeldeployment_replicas_ready{labels}": float(new["readyReplicas"]),
        },
    )


def _write(raw: Raw, verdict: WriteDecision) -> StatusWrite | None:
    if verdict.status is None:
        return None
    return StatusWrite(resource=MODEL_DEPLOYMENT, regarding=raw, status=verdict.status)


def _look_again(facts: ModelFacts, verdict: WriteDecision, now: float, no_fit_s: float) -> float | None:
    """When time alone changes something: a pod has waited long enough, or a write is due."""
    due = [] if verdict.due_in_s is None else [verdict.due_in_s]
    waiting = (no_fit_s - (now - each.created) for each in facts.present if each.waits_for_place)
    due += [max(left, 1.0) for left in waiting if left > -1.0]
    if any(each.node and each.problem is not None and not each.problem.stalled for each in facts.present):
        due.append(VOLUMES_S)
    if facts.trouble is not None and facts.trouble.reason == "ClaimNotFound":
        due.append(CLAIM_RETRY_S)
    return min(due, default=None)


def _trouble(wanted: ModelDeployment, offered: EligibleKinds, observed: ObservedModel) -> Problem | None:
    """What makes the spec impossible as it stands."""
    if observed.rejection is not None:
        text = f"the API server refused {observed.rejection.what}: {observed.rejection.message}"
        return Problem(reason="Rejected", message=text, stalled=True)
    if not offered.plans:
        text = (
            "there is no accelerator that every model has an artifact and a runtime for: "
            f"{'; '.join(offered.refusals)}; add artifacts, or split the models into several deployments"
        )
        return Problem(reason="NoCommonAccelerator", message=text, stalled=True)
    return _missing_claims(wanted, offered, observed)


def _missing_claims(wanted: ModelDeployment, offered: EligibleKinds, observed: ObservedModel) -> Problem | None:
    uris = [artifact.uri for kind in offered.kinds for artifact in wanted.artifacts_for(kind) if artifact.uri]
    named = {claim for uri in uris if (claim := claim_of(uri))}
    if not (missing := sorted(named - observed.claims)):
        return None
    text = (
        f"PersistentVolumeClaim {', '.join(missing)} does not exist in namespace {wanted.namespace}; create it, or "
        "correct the pvc:// URI of the artifact"
    )
    return Problem(reason="ClaimNotFound", message=text, stalled=True)
