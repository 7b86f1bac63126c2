"""Whose an object is that has the name of a child: ours only if its controller is the owner of ours, by uid. Pure.

A name proves nothing: users have Services, Secrets and policies of their own, and an object that was there before is
theirs, whatever it is called and however it is labelled.
"""

from __future__ import annotations

from batchwright_operator.errors import Conflict, NameTaken
from batchwright_operator.kube.metadata import controller_of, controller_uid, is_leaving, label
from batchwright_operator.kube.objects import MODEL_DEPLOYMENT, Raw, Resource
from batchwright_worker.api.names import LABEL_DEPLOYMENT

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"


def is_ours(existing: Raw, body: Raw) -> bool:
    """Whether `existing` has the controller that `body` names. A body without a controller (a profile, which belongs to
    its node) is of a kind that nobody else writes."""
    owner = controller_uid(body)
    return owner is None or controller_uid(existing) == owner


def require_ours(resource: Resource, existing: Raw, body: Raw) -> None:
    """Raises Conflict for an object that is being deleted, NameTaken for one of somebody else's."""
    what = f"{resource.kind} {body['metadata']['name']}"
    if is_leaving(existing):
        raise Conflict(f"{what} is being deleted", code=409)
    if is_ours(existing, body):
        return
    raise NameTaken(taken(what, existing), code=409)


def is_left_behind(existing: Raw, body: Raw) -> bool:
    """Whether its controller has the name of ours and another uid: so one of the two is deleted by now."""
    theirs, mine = controller_of(existing), controller_of(body)
    if theirs is None or mine is None or theirs["uid"] == mine["uid"]:
        return False
    return all(theirs.get(part) == mine.get(part) for part in ("apiVersion", "kind", "name"))


def is_orphan(existing: Raw, body: Raw) -> bool:
    """Whether it has no controller, and the labels of a child of the ModelDeployment that controls `body`. What an
    InferenceJob left is not taken over: runners of its may still be at work."""
    owner = controller_of(body) or {}
    if owner.get("kind") != MODEL_DEPLOYMENT.kind or controller_of(existing) is not None:
        return False
    return all(label(existing, name) == label(body, name) != "" for name in (LABEL_MANAGED_BY, LABEL_DEPLOYMENT))


def taken(what: str, existing: Raw | None) -> str:
    """What to tell the user; `existing` is None where it cannot be read."""
    return (
        f"there is another {what} in the namespace, {_whose(existing)}; it is left as it is: delete or rename it, or "
        "make this object under another name"
    )


def _whose(existing: Raw | None) -> str:
    if existing is None:
        return "which is not this object's"
    if (owner := controller_of(existing)) is not None:
        return f"which belongs to {owner['kind']} {owner['name']}"
    manager = label(existing, LABEL_MANAGED_BY)
    return f"which has no controller{f' (its label says: managed by {manager})' if manager else ''}"
