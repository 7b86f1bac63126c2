"""How a child is brought back that server-side apply cannot bring back; pure.

Server-side apply leaves what others wrote beside our fields, and the two together may be nothing that the API server
takes: a second port of the same name, `minAvailable` beside our `maxUnavailable`, two sources of one volume. The object
would stay as it is for ever, and its owner with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from batchwright_operator.errors import Invalid
from batchwright_operator.kube.objects import CONFIG_MAP, DEPLOYMENT, NETWORK_POLICY, PDB, SERVICE, Raw, Resource

_WHOLE: Final[Mapping[Resource, tuple[str, ...]]] = {
    DEPLOYMENT: ("spec.strategy", "spec.template.spec"),
    NETWORK_POLICY: ("spec",),
    PDB: ("spec",),
    SERVICE: (),
}
"""Kinds that can be mended, and the parts of them that are ours alone: what others wrote there goes. Elsewhere it is
only lists that become as we have them."""


def patch_of(resource: Resource, body: Raw, live: Raw) -> Raw | None:
    """The JSON merge patch that makes `live` what `body` says, lists as a whole; None for a kind that cannot be mended
    by a patch."""
    if resource not in _WHOLE:
        return None
    patch = {name: value for name, value in body.items() if name not in ("apiVersion", "kind", "metadata")}
    for path in _WHOLE[resource]:
        patch = _alone(patch, live, path.split("."))
    return patch


def may_help(refusal: Invalid) -> bool:
    """Whether what was refused is the object as a whole; not a field that the server does not know, which a merge patch
    would leave out without a word."""
    return refusal.code == 422 and "not declared in schema" not in refusal.message


def has_to_go(resource: Resource, live: Raw) -> bool:
    """Whether nothing but another object of this name helps: somebody has made its data immutable."""
    return resource == CONFIG_MAP and bool(live.get("immutable"))


def _alone(patch: Raw, live: Raw, path: list[str]) -> Raw:
    name, *rest = path
    if name not in patch:
        return patch
    there = live.get(name) or {}
    return {**patch, name: _alone(patch[name], there, rest) if rest else _without_others(patch[name], there)}


def _without_others(ours: Any, live: Any) -> Any:
    """Ours, and null for what only `live` has: that is what removes it."""
    if not isinstance(ours, dict) or not isinstance(live, dict):
        return ours
    others = {name: None for name in live if name not in ours}
    return {**{name: _without_others(value, live.get(name)) for name, value in ours.items()}, **others}
