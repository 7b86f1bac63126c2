"""A revision: what the pods of one kind of accelerator were made from, kept as it was; pure.

It is an apps/v1 ControllerRevision with the user's spec and the pod template, as they were when the template was
rendered. docs/design/0006 has the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from batchwright_operator.deployments.children import COMPONENT_REVISION, own_labels
from batchwright_operator.kube.metadata import annotation
from batchwright_operator.kube.objects import CONTROLLER_REVISION, Raw
from batchwright_operator.rendering.objects import child, copied, digest
from batchwright_worker.api.names import ANNOTATION_KIND, LABEL_COMPONENT, LABEL_KIND, child_name, kind_slug


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One revision of one kind. `number` orders the revisions of a ModelDeployment."""

    name: str
    kind: str
    number: int
    spec: Raw
    """The user's spec as the API server served it, without `replicas`."""
    template: Raw
    live: tuple[str, ...] = ()
    """Fields of a model that its pods take over as they run."""
    config: str = ""
    """The immutable configuration of pods from before 0.1.0, as text; of all others it follows from the spec."""
    version: int = 0
    """The TEMPLATE_VERSION of the operator that rendered it."""
    platform: str = ""
    """`platform` of the settings that it was rendered with."""
    restarted_at: str = ""
    """ANNOTATION_RESTARTED_AT of the ModelDeployment then."""
    by_upgrade: bool = False
    """It replaced one of the same shape, because that was outdated."""


def parse_revision(raw: Raw) -> Revision | None:
    """None for an object that is no revision of ours (any longer)."""
    data = raw.get("data") or {}
    try:
        return Revision(
            name=raw["metadata"]["name"],
            kind=annotation(raw, ANNOTATION_KIND),
            number=int(raw.get("revision", 0)),
            spec=data["spec"],
            template=data["template"],
            live=tuple(data["live"]),
            config=data["config"],
            version=data["version"],
            platform=data["platform"],
            restarted_at=data["restartedAt"],
            by_upgrade=data["byUpgrade"],
        )
    except KeyError:
        return None


def revision_object(owner: Raw, revision: Revision) -> Raw:
    """The ControllerRevision. Its data never change: its name has their digest."""
    labels = own_labels(owner["metadata"]["name"])
    labels |= {LABEL_KIND: kind_slug(revision.kind), LABEL_COMPONENT: COMPONENT_REVISION}
    notes = {ANNOTATION_KIND: revision.kind}
    return child(
        CONTROLLER_REVISION, owner, revision.name, labels, annotations=notes, data=copied(_data(revision)),
        revision=revision.number,
    )  # fmt: skip


def _data(revision: Revision) -> Raw:
    return {
        "spec": revision.spec,
        "template": revision.template,
        "live": list(revision.live),
        "config": revision.config,
        "version": revision.version,
        "platform": revision.platform,
        "restartedAt": revision.restarted_at,
        "byUpgrade": revision.by_upgrade,
    }


def named(owner: str, revision: Revision) -> Revision:
    """The revision under the name that its content gives it."""
    name = child_name(owner, kind_slug(revision.kind), digest(_data(revision)))
    return replace(revision, name=name)
