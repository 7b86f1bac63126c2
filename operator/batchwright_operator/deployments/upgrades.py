"""Whose turn it is to be brought to the templates of this operator: so many ModelDeployments at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from batchwright_operator.deployments.children import ANNOTATION_UPGRADE
from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.revision import Revision
from batchwright_operator.deployments.rollout import Rollout, is_available
from batchwright_operator.deployments.template_choice import is_outdated
from batchwright_operator.kube.conditions import Condition
from batchwright_operator.kube.metadata import annotation, controller_of, label
from batchwright_operator.kube.objects import MODEL_DEPLOYMENT, Raw
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.keys import MODEL_DEPLOYMENT_RECONCILER
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import ANNOTATION_HOLD_UPGRADES, ANNOTATION_KIND, LABEL_DEPLOYMENT

UP_TO_DATE: Final = "UpToDate"
LOOK_AGAIN_S: Final = 60.0
"""How often one that waits for its turn asks, beside what it is told."""


def wants_upgrade(revisions: Sequence[Revision], deployments: Sequence[Raw], settings: Settings) -> bool:
    """Whether some Deployment runs a revision that is outdated, or is about to get the one that replaces it."""
    there = {annotation(each, ANNOTATION_KIND): annotation(each, ANNOTATION_UPGRADE) for each in deployments}
    newest = {each.kind: each for each in sorted(revisions, key=lambda each: each.number) if each.kind in there}
    return any(
        is_outdated(each, settings) or (each.by_upgrade and there[each.kind] != each.name) for each in newest.values()
    )


def up_to_date(
    facts: DeploymentFacts, revisions: Sequence[Revision], rollout: Rollout, settings: Settings
) -> Condition:
    """The condition that says whether an upgrade is still to reach the pods, and what it waits for."""
    outdated = [each.kind for each in revisions if is_outdated(each, settings)]
    if outdated and is_held(facts.deployment.raw):
        text = f"the annotation {ANNOTATION_HOLD_UPGRADES} keeps the pods as they are"
        return Condition(type=UP_TO_DATE, status="False", reason="Held", message=text)
    if outdated and not settings.upgrades_at_once:
        text = "the operator's setting upgradesAtOnce is 0: no pods are replaced because of an upgrade"
        return Condition(type=UP_TO_DATE, status="False", reason="Paused", message=text)
    if outdated:
        text = f"as many ModelDeployments as may be ({settings.upgrades_at_once}) are rolled out at present"
        return Condition(type=UP_TO_DATE, status="False", reason="WaitsForItsTurn", message=text)
    if not rollout.complete and any(each.by_upgrade for each in revisions):
        text = "the pods are replaced by those that this version of the operator makes"
        return Condition(type=UP_TO_DATE, status="False", reason="Upgrading", message=text)
    text = "no pod has to be replaced because of an upgrade"
    return Condition(type=UP_TO_DATE, status="True", reason="UpToDate", message=text)


def is_held(raw: Raw) -> bool:
    """Whether its user wants no upgrade of its pods."""
    return annotation(raw, ANNOTATION_HOLD_UPGRADES) == "true"


class UpgradeTurns:
    """Hands out turns. One that was handed out counts until the upgrade that it was for is seen and all its pods are
    available; one that never gets there holds up the others, as it should."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._given: dict[Key, None] = {}
        self._waiting: dict[Key, None] = {}

    def ask(self, key: Key, deployments: Iterable[Raw]) -> bool:
        """Whether it is this one's turn. `deployments`: those of all ModelDeployments."""
        going = self._going(deployments)
        if key in going or len(going) < self._at_once:
            self._given[key] = None
            self._waiting.pop(key, None)
            return True
        self._waiting[key] = None
        return False

    def done(self, key: Key) -> None:
        """It wants no turn, or no longer."""
        self._given.pop(key, None)
        self._waiting.pop(key, None)

    def next_keys(self, raw: Raw) -> Iterator[Key]:
        """Whom a change of this Deployment may give a turn."""
        if annotation(raw, ANNOTATION_UPGRADE):
            yield from list(self._waiting)[: max(1, self._at_once)]

    def _going(self, deployments: Iterable[Raw]) -> set[Key]:
        going = {
            Key(reconciler=MODEL_DEPLOYMENT_RECONCILER, namespace=each["metadata"]["namespace"],
                name=label(each, LABEL_DEPLOYMENT))
            for each in deployments
            if annotation(each, ANNOTATION_UPGRADE) and not is_available(each) and _is_ours(each)
        }  # fmt: skip
        return going | self._given.keys()


def _is_ours(deployment: Raw) -> bool:
    owner = controller_of(deployment)
    return owner is not None and owner.get("kind") == MODEL_DEPLOYMENT.kind
