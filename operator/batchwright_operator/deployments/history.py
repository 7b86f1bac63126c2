"""The history of a ModelDeployment: what its revisions changed, and the spec that goes back to one; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.deployments.revision import Revision
from batchwright_operator.deployments.shape import NOT_OF_THE_TEMPLATE, PLACED, overlaid
from batchwright_operator.deployments.template_choice import matching
from batchwright_operator.kube.objects import Raw

KEYS: Final = ("name", "accelerator")
"""What tells the elements of a list apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One number of the history: its revisions, one per kind of accelerator that it concerns, and what differs from the
    step before (paths; nothing: an upgrade, or a restart that was asked for)."""

    number: int
    revisions: tuple[Revision, ...]
    changes: tuple[str, ...]
    is_current: bool


def steps(deployment: ModelDeployment, revisions: Iterable[Revision]) -> list[Step]:
    """The history, oldest first."""
    by_number: dict[int, list[Revision]] = {}
    for each in sorted(revisions, key=lambda each: (each.number, each.kind)):
        by_number.setdefault(each.number, []).append(each)
    every = [each for found in by_number.values() for each in found]
    matches = [matching(deployment, every, kind) for kind in {each.kind for each in every}]
    current = {each.name for each in matches if each is not None}
    result: list[Step] = []
    before: Raw | None = None
    for number, found in by_number.items():
        spec = found[0].spec
        changes = () if before is None else tuple(sorted(set(differences(before, spec))))
        is_current = any(each.name in current for each in found)
        result.append(Step(number=number, revisions=tuple(found), changes=changes, is_current=is_current))
        before = spec
    return result


def previous(history: Sequence[Step]) -> Step | None:
    """The newest step that is another spec than the current one's; None without one."""
    newest = next((step for step in reversed(history) if step.is_current), None)
    specs = [each.spec for each in newest.revisions] if newest is not None else []
    return next(
        (step for step in reversed(history) if not step.is_current and step.revisions[0].spec not in specs), None
    )


def restored(current: Raw, revision: Revision) -> Raw:
    """The spec with which pods are made as of this revision. What no pod is made from stays as it is, and so do the
    values that pods take over as they run."""
    kept = {name: value for name, value in current.items() if name in NOT_OF_THE_TEMPLATE}
    spec = {name: value for name, value in revision.spec.items() if name not in NOT_OF_THE_TEMPLATE} | kept
    now = {model["name"]: model for model in current.get("models") or ()}
    spec["models"] = [overlaid(each, now.get(each["name"], each), revision.live) for each in spec["models"]]
    placement = {name: value for name, value in (current.get("placement") or {}).items() if name not in PLACED}
    placement |= {name: value for name, value in (revision.spec.get("placement") or {}).items() if name in PLACED}
    if placement:
        spec["placement"] = placement
    return spec


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Paths at which two specs differ, elements of lists by their names."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            yield from differences(before.get(name), after.get(name), f"{path}.{name}" if path else name)
        return
    ours, theirs = _named(before), _named(after)
    if ours is None or theirs is None:
        yield path
        return
    for name in {**ours, **theirs}:
        yield from differences(ours.get(name), theirs.get(name), f"{path}[{name}]")


def _named(value: Any) -> dict[str, Any] | None:
    """The elements of a list of named things; None for anything else."""
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        return None
    key = next((key for key in KEYS if all(key in each for each in value)), None)
    return None if key is None else {str(each[key]): each for each in value}
