"""Parts of every pod template that the operator renders; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

import msgspec

from batchwright_operator.kube.objects import Raw
from batchwright_operator.settings import Settings
from batchwright_worker.api.deployment import PodOptions
from batchwright_worker.api.names import (
    ENV_CPU_MILLIS,
    ENV_NAMESPACE,
    ENV_NODE,
    ENV_POD,
)

USER: Final = 65532

PROGRAM: Final = "batchwright-worker"


def pod_options(options: PodOptions) -> Raw:
    """What the user may set about the pod as a whole, over restricted defaults; volumes and mounts apart."""
    security = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    body: Raw = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {**security, **deepcopy(options.security_context or {})},
    }
    optional = {
        "serviceAccountName": options.service_account_name,
        "priorityClassName": options.priority_class_name,
        "runtimeClassName": options.runtime_class_name,
        "imagePullSecrets": plain(options.image_pull_secrets),
    }
    return body | {name: value for name, value in optional.items() if value}


def container_security() -> Raw:
    """Pod Security restricted, and a read-only root on top."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def identity_env() -> list[Raw]:
    """Who and where the container is, from the downward API."""
    fields = {ENV_POD: "metadata.name", ENV_NODE: "spec.nodeName", ENV_NAMESPACE: "metadata.namespace"}
    milli = {"resource": "requests.cpu", "divisor": "1m"}
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        {"name": ENV_CPU_MILLIS, "valueFrom": {"resourceFieldRef": milli}},
    ]


def variables(values: Mapping[str, str]) -> list[Raw]:
    """Environment variables with these values, by name."""
    return [{"name": name, "value": value} for name, value in values.items()]


def merged_env(*lists: Iterable[Raw]) -> list[Raw]:
    """Environment variables, each name once: the last list that has it wins, the first place is kept."""
    merged: dict[str, Raw] = {}
    for each in lists:
        merged.update((variable["name"], variable) for variable in each)
    return list(merged.values())


def plain(values: Sequence[msgspec.Struct]) -> list[Raw]:
    """Structs as fresh JSON values, unset fields left out."""
    whole = deepcopy([msgspec.to_builtins(each) for each in values])
    return [{name: value for name, value in each.items() if value is not None} for each in whole]


def container(name: str, image: str, settings: Settings, **parts: Any) -> Raw:
    """A container under Pod Security restricted; without a termination message its last log lines become one."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security(),
        **parts,
    }


def fetch_env(settings: Settings) -> list[Raw]:
    """The administrator's environment of what fetches, and over it the rules about where data may come from."""
    rules = {
        "BATCHWRIGHT_ALLOWED_HOSTS": ",".join(settings.allowed_hosts),
        "BATCHWRIGHT_ALLOW_PRIVATE_ADDRESSES": "true" if settings.allow_private_addresses else "",
        "BATCHWRIGHT_ALLOW_HTTP": "true" if settings.allow_http else "",
    }
    given = {name: value for name, value in settings.fetch_env.items() if name not in rules}
    return variables(given | {name: value for name, value in rules.items() if value})
