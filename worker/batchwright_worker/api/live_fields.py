"""What a sidecar can take over as it runs (names.LIVE_FIELDS), told from what needs another pod; pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from batchwright_worker.api.deployment import ModelDeployment
from batchwright_worker.api.model import Model
from batchwright_worker.api.names import LIVE_FIELDS

_PARTS: Final = {field.encode_name: field for field in msgspec.structs.fields(Model)}


def _live_defaults() -> dict[str, dict[str, Any]]:
    """Attribute of a model -> attribute of that part -> its default, of all that is live."""
    found: dict[str, dict[str, Any]] = {}
    for part, _, name in (path.partition(".") for path in LIVE_FIELDS):
        outer = _PARTS[part]
        inner = {field.encode_name: field.name for field in msgspec.structs.fields(type(outer.default))}[name]
        found.setdefault(outer.name, {})[inner] = getattr(outer.default, inner)
    return found


_LIVE: Final = _live_defaults()


def fixed_differences(one: ModelDeployment, other: ModelDeployment) -> list[str]:
    """Where two configurations differ in what no sidecar takes over as it runs, as paths."""
    named = [] if (one.name, one.namespace) == (other.name, other.namespace) else ["metadata"]
    return [*named, *_differing(one.spec, other.spec, "spec", besides="models"), *_of_models(one, other)]


def _of_models(one: ModelDeployment, other: ModelDeployment) -> Iterator[str]:
    ours = {model.name: _fixed(model) for model in one.spec.models}
    theirs = {model.name: _fixed(model) for model in other.spec.models}
    for name in {**ours, **theirs}:
        path = f"spec.models[{name}]"
        if name in ours and name in theirs:
            yield from _differing(ours[name], theirs[name], path)
        else:
            yield path


def _differing(one: msgspec.Struct, other: msgspec.Struct, path: str, besides: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(one):
        if field.name != besides and getattr(one, field.name) != getattr(other, field.name):
            yield f"{path}.{field.encode_name}"


def _fixed(model: Model) -> Model:
    """The model with the default of everything that is live."""
    return msgspec.structs.replace(
        model,
        **{part: msgspec.structs.replace(getattr(model, part), **values) for part, values in _LIVE.items()},
    )
