"""A ModelDeployment's children, pods and surroundings as facts; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from batchwright_operator.api.eligible_kinds import EligibleKinds
from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.deployments.profiles import Profiles
from batchwright_operator.deployments.replicas import Replica
from batchwright_operator.deployments.revision import Revision
from batchwright_operator.kube.objects import Raw
from batchwright_operator.placement.moves import move_of
from batchwright_operator.reconcile.live_state import Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFacts:
    """Everything that a decision about one ModelDeployment needs."""

    deployment: ModelDeployment
    kinds: EligibleKinds
    deployments: tuple[Raw, ...] = ()
    """The apps/v1 Deployments that it owns."""
    config_maps: tuple[Raw, ...] = ()
    revisions: tuple[Revision, ...] = ()
    revision_objects: tuple[Raw, ...] = ()
    may_upgrade: bool = False
    """Is it its turn to be brought to the templates of this operator, if they are others?"""
    policies: tuple[Raw, ...] = ()
    """The NetworkPolicies that it owns."""
    budgets: tuple[Raw, ...] = ()
    """The PodDisruptionBudgets that it owns."""
    old_headless: tuple[Raw, ...] = ()
    """The headless Service under its name before 0.1.0, if it is there."""
    has_namesake: bool = False
    """Is there a ModelDeployment of that name?"""
    replicas: tuple[Replica, ...] = ()
    profiles: Profiles = field(default_factory=Profiles)
    taken: Mapping[str, int] = field(default_factory=dict)
    """Kind -> devices that model pods of other deployments hold or wait for; asked only where replicas may move."""
    missing_claims: tuple[str, ...] = ()
    rejection: Rejection | None = None
    present: tuple[Replica, ...] = field(init=False, repr=False, compare=False)
    """Replicas that are not on their way out, by name. A field, as a pass asks for them a dozen times: sorted anew each
    time, a thousand took a third of a pass."""

    def __post_init__(self) -> None:
        present = (each for each in self.replicas if not each.terminating)
        object.__setattr__(self, "present", tuple(sorted(present, key=lambda each: each.name)))

    @property
    def old(self) -> Raw:
        """The status that is written."""
        return self.deployment.raw.get("status") or {}

    @property
    def is_moving(self) -> bool:
        """Is a replica on its way to another node? That is no roll-out, though there is a pod more for a while."""
        moves = (move_of(each) for each in self.deployments)
        return any(each is not None and not each.is_over for each in moves)
