"""From the raw objects of a ModelDeployment to what they mean; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from batchwright_operator.api.eligible_kinds import EligibleKinds, eligible_kinds
from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.deployments.children import old_headless_name
from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.known_replicas import KnownReplicas
from batchwright_operator.deployments.profiles import Profiles
from batchwright_operator.deployments.replicas import PendingTimeouts
from batchwright_operator.deployments.revision import parse_revision
from batchwright_operator.deployments.volumes import cache_of
from batchwright_operator.kube.objects import Raw
from batchwright_operator.reconcile.live_state import Rejection
from batchwright_operator.rendering.objects import headless_name
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import claim_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedDeployment:
    """One ModelDeployment and everything that its decision needs."""

    raw: Raw
    settings: Settings
    token: str
    objects: int = 1
    """How many ModelDeployments there are,"""
    under_way: int = 0
    """and of how many the status says that they are on their way."""
    deployments: tuple[Raw, ...] = ()
    config_maps: tuple[Raw, ...] = ()
    revisions: tuple[Raw, ...] = ()
    may_upgrade: bool = False
    policies: tuple[Raw, ...] = ()
    budgets: tuple[Raw, ...] = ()
    services: tuple[Raw, ...] = ()
    has_namesake: bool = False
    """Is there a ModelDeployment with the name that our headless Service had before 0.1.0?"""
    pods: tuple[tuple[Raw, SidecarState | None], ...] = ()
    """Each with the newest state of its sidecar (None: not reported yet)."""
    known_replicas: KnownReplicas = field(default_factory=KnownReplicas)
    """What an earlier pass read of them; `read` has what they are now."""
    profiles: Profiles = field(default_factory=Profiles)
    taken: Mapping[str, int] = field(default_factory=dict)
    """As in DeploymentFacts."""
    claims: frozenset[str] = frozenset()
    rejection: Rejection | None = None

    def read(self, now: float) -> ObservedDeployment:
        """The same with its pods read as of now."""
        timeouts = PendingTimeouts(now=now, no_fit_s=self.settings.unfit_seconds)
        return replace(self, known_replicas=self.known_replicas.after(self.pods, timeouts))


def facts_of(observed: ObservedDeployment, deployment: ModelDeployment) -> DeploymentFacts:
    """What the raw objects mean; `observed` was read."""
    kinds = eligible_kinds(deployment, observed.settings)
    old_name = old_headless_name(deployment.name)
    if old_name == headless_name(deployment.name):  # a long one, which was cut and so had a digest
        old_name = ""
    return DeploymentFacts(
        deployment=deployment,
        kinds=kinds,
        deployments=observed.deployments,
        config_maps=observed.config_maps,
        revisions=tuple(found for each in observed.revisions if (found := parse_revision(each)) is not None),
        revision_objects=observed.revisions,
        may_upgrade=observed.may_upgrade,
        policies=observed.policies,
        budgets=observed.budgets,
        old_headless=tuple(each for each in observed.services if each["metadata"]["name"] == old_name),
        has_namesake=observed.has_namesake,
        replicas=observed.known_replicas.replicas,
        profiles=observed.profiles,
        taken=observed.taken,
        missing_claims=tuple(sorted(_named_claims(deployment, kinds, observed.settings) - observed.claims)),
        rejection=observed.rejection,
    )


def _named_claims(deployment: ModelDeployment, kinds: EligibleKinds, settings: Settings) -> set[str]:
    artifacts = [each for kind in kinds.kinds for each in deployment.artifacts_for(kind) if each.uri]
    cache = cache_of(deployment, artifacts, settings)
    of_cache = {cache.claim_name} if cache is not None and cache.claim_name else set()
    return of_cache | {claim for each in artifacts if (claim := claim_of(each.uri or ""))}
