"""What others have written into a part of an object that is ours alone, by the API server's accounts of who wrote what
(`metadata.managedFields`). Pure.

Server-side apply leaves what others added beside our fields. In the pod template of a Deployment that would be a pod
that nobody's spec describes: a node selector that placement knows nothing of, a container that a rollback would not
bring back. What an admission webhook adds is in nobody's account, and stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from batchwright_operator.kube.conditions import few
from batchwright_operator.kube.metadata import controller_of
from batchwright_operator.kube.objects import DEPLOYMENT, Raw, Resource
from batchwright_operator.reconcile.decisions import Event

OURS_ALONE: Final[Mapping[Resource, tuple[str, ...]]] = {DEPLOYMENT: ("spec", "template", "spec")}
"""By resource: the part that nobody else is to write in. Not the template's metadata: `kubectl rollout restart` and
meshes have their annotations there."""
Steps = tuple[str, ...]


def part_of(resource: Resource, obj: Raw) -> Any:
    """The part of an object that is ours alone; None of a resource without one."""
    found: Any = obj if resource in OURS_ALONE else None
    for step in OURS_ALONE.get(resource, ()):
        found = (found or {}).get(step)
    return found


def foreign_fields(resource: Resource, obj: Raw, manager: str) -> dict[str, tuple[str, ...]]:
    """Who wrote what there that `manager` does not apply: manager -> paths in that part, in order. An object as the API
    server answers it, with its accounts."""
    if resource not in OURS_ALONE:
        return {}
    mine: set[Steps] = set()
    others: dict[str, list[Steps]] = {}
    for entry in obj["metadata"].get("managedFields") or ():
        found = _leaves(_within(entry.get("fieldsV1") or {}, OURS_ALONE[resource]))
        if (entry.get("manager"), entry.get("operation")) == (manager, "Apply"):
            mine.update(steps[:number] for steps in found for number in range(1, len(steps) + 1))
        elif not entry.get("subresource"):
            others.setdefault(str(entry.get("manager")), []).extend(found)
    roots = {who: {_root(steps, mine) for steps in written} - {()} for who, written in others.items()}
    return {who: tuple(sorted(map(_text, found))) for who, found in roots.items() if found}


def owns(obj: Raw, manager: str, path: Steps) -> bool:
    """Whether `manager` applies the field at this path, by the object's accounts."""
    accounts = obj["metadata"].get("managedFields") or ()
    mine = [each for each in accounts if (each.get("manager"), each.get("operation")) == (manager, "Apply")]
    *above, name = path
    return any(f"f:{name}" in _within(each.get("fieldsV1") or {}, tuple(above)) for each in mine)


def restored(resource: Resource, body: Raw, found: Mapping[str, Sequence[str]], manager: str) -> Event | None:
    """What the owner of `body` is told where these were taken out; None where nobody else wrote them."""
    others, owner = sorted(found.keys() - {manager}), controller_of(body)
    if not others or owner is None:
        return None
    metadata = {"namespace": body["metadata"].get("namespace", ""), "name": owner["name"], "uid": owner["uid"]}
    written = few(sorted({path for who in others for path in found[who]}))
    text = (
        f"{resource.kind} {body['metadata']['name']}: {written} (by {few(others)}) was taken out of "
        f"{'.'.join(OURS_ALONE[resource])}, which is made from the {owner['kind']} alone: write it in spec.pod, "
        "spec.placement or spec.runtimes there"
    )
    regarding = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "metadata": metadata}
    return Event(regarding=regarding, reason="TemplateRestored", message=text, type="Warning")


def by_whom(obj: Raw, manager: str) -> str:
    """The newest manager of an object's fields besides `manager`, as a part of a sentence; empty where it cannot be
    told. Who only takes fields away has no account, nor has a second one of our name."""
    # By the subresource `scale` an autoscaler writes; by `status` only whoever runs the object.
    entries = [each for each in obj["metadata"].get("managedFields") or () if each.get("subresource") != "status"]
    others = [each for each in entries if each.get("manager") != manager]
    if others:
        return f" ({max(others, key=lambda each: str(each.get('time', '')))['manager']})"
    return " (nobody else has an account in it: is there a second operator?)" if entries else ""


def _within(fields: Raw, path: Steps) -> Raw:
    for step in path:
        fields = fields.get(f"f:{step}") or {}
    return fields


def _leaves(fields: Raw, path: Steps = ()) -> Iterator[Steps]:
    below = {step: fields[step] for step in fields if step != "."}
    if not below and path:
        yield path
    for step, more in below.items():
        yield from _leaves(more, (*path, step))


def _root(steps: Steps, mine: set[Steps]) -> Steps:
    """The first part of the path that is not ours; () where all of it is."""
    return next((steps[:number] for number in range(1, len(steps) + 1) if steps[:number] not in mine), ())


def _text(steps: Steps) -> str:
    """`containers[runtime].env[DEBUG]`."""
    text = ""
    for step in steps:
        sort, _, name = step.partition(":")
        text += f"{'.' if text else ''}{name}" if sort == "f" else f"[{_key(name) if sort == 'k' else name}]"
    return text


def _key(text: str) -> str:
    values = json.loads(text)
    return "/".join(str(value) for _, value in sorted(values.items()))
