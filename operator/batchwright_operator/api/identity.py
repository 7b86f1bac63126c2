"""The identity of an object of our own kinds: what decisions need of its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Metadata that decisions need. `deleting`: a deletion timestamp is set."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str = ""
    deleting: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


def identity(raw: Raw) -> Identity:
    """From a raw object; fields that only the API server sets may be absent (tests, local mode)."""
    metadata: Mapping[str, Any] = raw["metadata"]
    return Identity(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        resource_version=metadata.get("resourceVersion", ""),
        deleting=is_leaving(raw),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """An object of our own kinds, with short names for its identity."""

    identity: Identity

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def namespace(self) -> str:
        return self.identity.namespace

    @property
    def uid(self) -> str:
        return self.identity.uid

    @property
    def generation(self) -> int:
        return self.identity.generation

    @property
    def deleting(self) -> bool:
        return self.identity.deleting
