"""The pod template of a ModelDeployment for one kind of accelerator; docs/design/0001 has the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from batchwright_operator.api.eligible_kinds import RuntimePlan
from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.deployments.children import own_labels
from batchwright_operator.deployments.device_claims import container_claims, pod_claims
from batchwright_operator.deployments.volumes import (
    CLIENT_CA,
    TLS_CERT,
    TLS_KEY,
    asks_clients,
    cache_of,
    certificate_mounts,
    common_mounts,
    fetch_mounts,
    needs_fetch,
    pull_secrets,
    script_mounts,
    sidecar_weight_mounts,
    volumes,
    weight_mounts,
)
from batchwright_operator.kube.objects import Raw
from batchwright_operator.rendering.mounts import mount
from batchwright_operator.rendering.pod_parts import (
    PROGRAM,
    container,
    fetch_env,
    identity_env,
    merged_env,
    plain,
    pod_options,
    variables,
)
from batchwright_operator.settings import Settings
from batchwright_worker.api.deployment import Artifact
from batchwright_worker.api.names import (
    ANNOTATION_EMULATED_DEVICE,
    ANNOTATION_KIND,
    ANNOTATION_LOAD_TABLE,
    CACHE_DIR,
    CLIENT_CA_DIR,
    COMPONENT_MODEL,
    CONTROL_PORT,
    DEPLOYMENT_FILE,
    ENV_CACHE,
    ENV_CACHE_BYTES,
    ENV_CACHE_KEEP_FREE,
    ENV_EMULATED_DEVICE,
    ENV_KIND,
    ENV_LOAD_TABLE,
    ENV_MEMORY_BUDGET,
    ENV_WAS_READY,
    GRPC_PORT,
    HTTP_PORT,
    IPC_DIR,
    KIND_CPU,
    KIND_EMULATED,
    LABEL_COMPONENT,
    LABEL_KIND,
    SCHEDULING_GATE,
    TLS_DIR,
    TOKEN_FILE,
    kind_slug,
    runtime_live_path,
)

SIDECAR: Final = "sidecar"
RUNTIME: Final = "runtime"
FETCH: Final = "fetch"
TERMINATION_GRACE_S: Final = 60
WAS_READY_FILE: Final = "/tmp/batchwright-was-ready"  # noqa: S108 - the pod's own emptyDir
"""Outlives the containers, also over a restart of the node; a new pod has none."""


def pod_template(deployment: ModelDeployment, plan: RuntimePlan, settings: Settings) -> Raw:
    """The whole template: scheduling gate, fetch, native sidecar, runtimes, volumes, restricted security."""
    spec = deployment.spec
    labels = own_labels(deployment.name) | {LABEL_KIND: kind_slug(plan.kind), LABEL_COMPONENT: COMPONENT_MODEL}
    metadata = {
        "labels": {**spec.pod.labels, **labels},
        "annotations": {**spec.pod.annotations, ANNOTATION_KIND: plan.kind},
    }
    artifacts = deployment.artifacts_for(plan.kind)
    fetch = [_fetch(deployment, plan, artifacts, settings)] if needs_fetch(artifacts) else []
    body: Raw = {
        "schedulingGates": [{"name": SCHEDULING_GATE}],
        "terminationGracePeriodSeconds": TERMINATION_GRACE_S,
        **pod_options(spec.pod),
        "initContainers": [*fetch, _sidecar(deployment, plan, artifacts, settings)],
        "containers": _runtimes(deployment, plan, artifacts, settings),
        "volumes": [*volumes(deployment, plan.kind, artifacts, settings), *plain(spec.pod.volumes)],
    }
    named = [each["name"] for each in body.get("imagePullSecrets", ())]
    if secrets := dict.fromkeys([*named, *pull_secrets(artifacts)]):
        body["imagePullSecrets"] = [{"name": name} for name in secrets]
    if spec.placement.node_selector:
        body["nodeSelector"] = dict(spec.placement.node_selector)
    if spec.placement.tolerations:
        body["tolerations"] = plain(spec.placement.tolerations)
    if claims := pod_claims(deployment, plan):
        body["resourceClaims"] = claims
    return {"metadata": metadata, "spec": body}


def _env(plan: RuntimePlan) -> list[Raw]:
    env = [{"name": ENV_KIND, "value": plan.kind}, *identity_env()]
    budget = plan.runtime.memory_budget_bytes
    if budget is not None:
        env.append({"name": ENV_MEMORY_BUDGET, "value": str(budget)})
    elif plan.kind == KIND_CPU and "memory" in plan.resources.get("limits", {}):
        limit = {"containerName": RUNTIME, "resource": "limits.memory", "divisor": "1"}
        env.append({"name": ENV_MEMORY_BUDGET, "valueFrom": {"resourceFieldRef": limit}})
    if plan.kind == KIND_EMULATED:
        env.append(_from_annotation(ENV_EMULATED_DEVICE, ANNOTATION_EMULATED_DEVICE))
    return env


def _tls_options(deployment: ModelDeployment) -> list[str]:
    tls = deployment.spec.tls
    if tls is None:
        return []
    options = ["--tls-cert", f"{TLS_DIR}/{TLS_CERT}", "--tls-key", f"{TLS_DIR}/{TLS_KEY}"]
    return [*options, "--tls-client-ca", f"{CLIENT_CA_DIR}/{CLIENT_CA}"] if asks_clients(tls) else options


def _from_annotation(name: str, annotation: str) -> Raw:
    """What only placement knows: the template names the annotation that it will write."""
    path = f"metadata.annotations['{annotation}']"
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _sidecar(deployment: ModelDeployment, plan: RuntimePlan, artifacts: Sequence[Artifact], settings: Settings) -> Raw:
    ports = {"http": HTTP_PORT, "grpc": GRPC_PORT, "control": CONTROL_PORT}
    return container(
        SIDECAR,
        settings.worker_image,
        settings,
        restartPolicy="Always",
        command=[PROGRAM, "sidecar", *_tls_options(deployment)],
        env=merged_env(
            variables(settings.otlp_env),
            variables(settings.sidecar_env),
            variables({ENV_WAS_READY: WAS_READY_FILE}),
            [*_env(plan), _from_annotation(ENV_LOAD_TABLE, ANNOTATION_LOAD_TABLE)],
            _cache_env(deployment, artifacts, settings),
        ),
        ports=[{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()],
        resources=settings.sidecar_resources.as_dict(),
        startupProbe=_probe("/v2/health/live", period_s=1, failures=120),
        livenessProbe=_probe("/v2/health/live", period_s=10, failures=3),
        readinessProbe=_probe("/v2/health/ready", period_s=2, failures=3),
        lifecycle={"preStop": {"httpGet": {"path": "/v1/drain", "port": CONTROL_PORT}}},
        volumeMounts=[
            *common_mounts(),
            mount("control", _directory(TOKEN_FILE)),
            *certificate_mounts(deployment),
            *script_mounts(artifacts),
            *sidecar_weight_mounts(deployment, artifacts, deployment.sidecar_artifacts_for(plan.kind), settings),
        ],
    )


def _probe(path: str, *, period_s: int, failures: int, port: str | int = "control") -> Raw:
    """Of the sidecar by default: its control port has a thread of its own, which no request can keep busy."""
    request = {"path": path, "port": port}
    return {"httpGet": request, "periodSeconds": period_s, "timeoutSeconds": 5, "failureThreshold": failures}


def _runtimes(
    deployment: ModelDeployment, plan: RuntimePlan, artifacts: Sequence[Artifact], settings: Settings
) -> list[Raw]:
    """One container per device, each with a device of its own; a server of the user's gets all of them."""
    count = 1 if plan.is_server else plan.runtime.count
    return [_runtime(index, deployment, plan, artifacts, settings) for index in range(count)]


def _runtime(
    index: int, deployment: ModelDeployment, plan: RuntimePlan, artifacts: Sequence[Artifact], settings: Settings
) -> Raw:
    table = [{"name": name, "value": value} for name, value in plan.table_env]
    parts: Raw = {
        "env": merged_env(table, plain(plan.runtime.env), _env(plan)),
        "resources": _device_resources(plan, index),
        "volumeMounts": [
            *common_mounts(),
            *weight_mounts(deployment, artifacts, settings),
            *script_mounts(artifacts),
            *plain(deployment.spec.pod.volume_mounts),
        ],
        "lifecycle": {"preStop": {"httpGet": {"path": "/v1/drained", "port": CONTROL_PORT}}},
        # Asked of the sidecar, which is what the runtime answers: a server of the user's may listen on 127.0.0.1 alone,
        # and whether a runtime still does its work shows in its calls, not in an open port. Ten minutes, because a
        # sidecar that is started anew does not answer meanwhile.
        "livenessProbe": _probe(runtime_live_path(index), period_s=30, failures=20, port=CONTROL_PORT),
    }
    if plan.is_server:
        given = {"command": list(plan.runtime.command), "args": list(plan.runtime.args)}
        parts |= {name: value for name, value in given.items() if value}
    else:
        parts["command"] = [PROGRAM, "runtime", "--socket", f"{IPC_DIR}/runtime-{index}.sock"]
    return container(f"{RUNTIME}-{index}" if index else RUNTIME, plan.image, settings, **parts)


def _device_resources(plan: RuntimePlan, index: int) -> Raw:
    resources = {name: dict(values) for name, values in plan.resources.items() if values}
    if plan.runtime.device_claim is not None:
        return {**resources, "claims": container_claims(index)}
    if plan.kind != KIND_CPU:
        devices = str(plan.runtime.count if plan.is_server else 1)
        for name in ("requests", "limits"):
            resources[name] = {**resources.get(name, {}), plan.kind: devices}
    return resources


def _fetch(deployment: ModelDeployment, plan: RuntimePlan, artifacts: Sequence[Artifact], settings: Settings) -> Raw:
    return container(
        FETCH,
        settings.worker_image,
        settings,
        command=[PROGRAM, "fetch", "--deployment", DEPLOYMENT_FILE],
        # Ours twice: they go before the administrator's, and keep the first place, or all templates would be new ones.
        env=merged_env(_env(plan), fetch_env(settings), _env(plan), _cache_env(deployment, artifacts, settings)),
        resources=settings.fetch_resources.as_dict(),
        volumeMounts=fetch_mounts(deployment, artifacts, settings),
    )


def _cache_env(deployment: ModelDeployment, artifacts: Sequence[Artifact], settings: Settings) -> list[Raw]:
    """Where the cache is and what it may hold; nothing without one."""
    if (cache := cache_of(deployment, artifacts, settings)) is None:
        return []
    return variables(
        {
            ENV_CACHE: CACHE_DIR,
            ENV_CACHE_BYTES: str(cache.max_bytes),
            ENV_CACHE_KEEP_FREE: str(cache.keep_free_percent),
        }
    )


def _directory(path: str) -> str:
    return path.rsplit("/", 1)[0]


def strategy_of(deployment: ModelDeployment, kind: str) -> Raw:
    """The user's strategy; else rolling, without surge where devices are exclusive."""
    if deployment.spec.strategy is not None:
        given: Raw = msgspec.to_builtins(deployment.spec.strategy)
        bounds = {name: value for name, value in (given.get("rollingUpdate") or {}).items() if value is not None}
        return {"type": given["type"], **({"rollingUpdate": bounds} if bounds else {})}
    surge, unavailable = (1, 0) if kind == KIND_CPU else (0, 1)
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
