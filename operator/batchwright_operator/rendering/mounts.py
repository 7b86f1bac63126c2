"""Names and mounts of volumes; pure."""

from __future__ import annotations

from batchwright_operator.kube.objects import Raw
from batchwright_operator.rendering.objects import digest
from batchwright_worker.api.names import (
    child_name,
)


def mount(name: str, path: str, *, read_only: bool = True) -> Raw:
    """A volume mount."""
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}


def secret_volume(volume: str, secret: str, *keys: str) -> Raw:
    """A volume with these keys of a Secret alone."""
    return {"name": volume, "secret": {"secretName": secret, "items": [{"key": key, "path": key} for key in keys]}}


def volume_name(role: str, name: str) -> str:
    """A DNS label for the volume of an object with this name."""
    label = name.replace(".", "-")
    return child_name(role, *([label] if label == name else [label, digest(name)]))
