"""What to do about what a cluster refuses: from the words of who refused it; pure."""

from __future__ import annotations

from typing import Final

from batchwright_operator.kube.conditions import shorten

_NO_IMAGE_VOLUMES: Final = (
    "this cluster has no image volumes (feature gate ImageVolume, on from Kubernetes 1.35): "
    "write another uri than oci://"
)
_LIMIT: Final = (
    "ask for less, or raise that limit (where the spec has none it is a LimitRange's default: set limits, too)"
)
REMEDIES: Final = (
    # First: what a webhook or a policy says is anybody's text, with the words of all others perhaps.
    ("failed calling webhook", "whoever runs that webhook has to repair it, or to leave out this namespace"),
    ("denied the request", "change what that webhook names, or ask who runs it"),
    ("denied request", "change what that policy names, or ask who made it"),
    ("exceeded quota", "raise the ResourceQuota that it names, or ask for less"),
    # Which of them comes: the server knows the field and its feature gate is off, or it does not know the field.
    ("must specify a volume type", _NO_IMAGE_VOLUMES),
    ("image: field not declared in schema", _NO_IMAGE_VOLUMES),
    ("must specify", "the ResourceQuota wants these amounts: set them in the spec, or by a LimitRange's defaults"),
    ("violates PodSecurity", "correct the securityContext in the spec, or the level that the namespace enforces"),
    ("usage per", "keep the amounts in the spec within the namespace's LimitRange, or change that"),
    ("limit to request ratio", "keep the amounts in the spec within the namespace's LimitRange, or change that"),
    ("must be less than or equal to memory limit", _LIMIT),
    ("must be less than or equal to cpu limit", _LIMIT),
    ("duplicate entries for key", "the spec has a name twice, or one that the operator uses itself: choose another"),
    ("error looking up service account", "create the ServiceAccount, or correct serviceAccountName"),
    ("no PriorityClass with name", "create the PriorityClass, or correct priorityClassName"),
    ('RuntimeClass "', "create the RuntimeClass, or correct runtimeClassName"),
)
"""Words of Kubernetes' own admission -> what helps; the first that are there count."""


def with_remedy(message: str) -> str:
    """The message, cut to a length that leaves room for more, and what helps where that is known."""
    said = shorten(message, 600)
    found = next((remedy for words, remedy in REMEDIES if words in said), "")
    return f"{said}; {found}" if found else said
