"""Rules between the fields of a ModelDeployment; see `manifest_rules`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from batchwright_worker.api.deployment import (
    DisruptionBudget,
    Layerwise,
    Model,
    ModelDeployment,
    ModelDeploymentSpec,
    NetworkAccess,
    Runtime,
    Strategy,
    Tls,
    Weights,
)
from batchwright_worker.api.rules.model import distinct, kind_of, kinds_of
from batchwright_worker.api.rules.rule import Rule, or_default

SIDECAR_PORTS: Final = (8000, 8001, 8090)
SERVICE_NAME: Final = r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"


def _kinds(model: Model) -> set[str]:
    return {artifact.accelerator for artifact in model.artifacts}


def _served_somewhere(spec: ModelDeploymentSpec) -> bool:
    return bool(spec.runtimes) or bool(set.intersection(*(_kinds(model) for model in spec.models)))


def _of_clients(name: str, value: Callable[[Tls], object]) -> Rule:
    """A field of `tls` that means something only where clients show certificates."""
    return Rule(
        on=Tls,
        names=name,
        cel=f"!has(self.{name}) || self.clientAuth == 'Required'",
        holds=lambda tls: value(tls) is None or tls.client_auth == "Required",
        wrong="it goes with clientAuth Required",
        remedy="write clientAuth: Required, or remove it",
    )


RULES: Final = (
    Rule(
        on=NetworkAccess,
        names="from",
        cel="!has(self.from) || (self.mode == 'Managed' && size(self.from) > 0)",
        holds=lambda access: access.sources is None or (access.mode == "Managed" and len(access.sources) > 0),
        wrong="it lists who may call, and so goes with mode Managed and is not empty",
        remedy='write at least one of podSelector, namespaceSelector and ipBlock; remove from with mode "None"',
    ),
    Rule(
        on=DisruptionBudget,
        names="maxUnavailable",
        cel="!has(self.maxUnavailable) || self.mode == 'Managed'",
        holds=lambda budget: budget.max_unavailable is None or budget.mode == "Managed",
        wrong="it is the bound of the PodDisruptionBudget that is made with mode Managed",
        remedy="remove it, or write mode: Managed",
    ),
    _of_clients("clientCaSecretRef", lambda tls: tls.client_ca_secret_ref),
    _of_clients("jobsSecretRef", lambda tls: tls.jobs_secret_ref),
    Rule(
        on=ModelDeployment,
        cel=f"self.metadata.name.matches('{SERVICE_NAME}')",
        holds=lambda deployment: re.match(SERVICE_NAME, deployment.name) is not None,
        wrong="metadata.name: it becomes the name of a Service",
        remedy="write at most 63 lower-case letters, digits and -, starting with a letter",
    ),
    Rule(
        on=ModelDeploymentSpec,
        names="models",
        cel="",
        holds=lambda spec: distinct([model.name for model in spec.models]),
        wrong="two models have one name",
        remedy="give each a name of its own; requests name it (/v2/models/NAME/infer)",
    ),
    Rule(
        on=ModelDeploymentSpec,
        at="runtimes",
        cel="",
        holds=lambda runtimes: distinct([runtime.accelerator for runtime in runtimes]),
        wrong="two runtimes for one kind of accelerator",
        remedy="keep one per accelerator",
    ),
    Rule(
        on=ModelDeploymentSpec,
        names="runtimes",
        cel=f"!has(self.runtimes) || self.runtimes.all(r, self.models.all(m, r.accelerator in {kinds_of('m')}))",
        holds=lambda spec: all(
            runtime.accelerator in _kinds(model) for runtime in spec.runtimes for model in spec.models
        ),
        wrong="there is a kind of accelerator that some model has no artifact for",
        remedy="add an artifact with that accelerator to every model, or remove the runtime",
    ),
    Rule(
        on=ModelDeploymentSpec,
        names="models",
        cel="(has(self.runtimes) && size(self.runtimes) > 0) || "
        f"self.models[0].artifacts.exists(a, self.models.all(m, {kind_of('a')} in {kinds_of('m')}))",
        holds=_served_somewhere,
        wrong="no kind of accelerator that all models have an artifact for, so that no pod could serve them",
        remedy="add artifacts for one common accelerator, or make several ModelDeployments",
    ),
    Rule(
        on=ModelDeploymentSpec,
        names="layerwise.mode",
        cel="self.layerwise.mode == 'Off' || size(self.models) > 1",
        holds=lambda spec: spec.layerwise.mode == "Off" or len(spec.models) > 1,
        wrong="layerwise interleaves the layers of several models, and there is one",
        remedy='add a model or write mode: "Off"',
    ),
    Rule(
        on=Layerwise,
        names="memoryBudgetBytes",
        cel="self.mode == 'Off' || has(self.memoryBudgetBytes)",
        holds=lambda layerwise: layerwise.mode == "Off" or layerwise.memory_budget_bytes is not None,
        wrong="needed unless mode is Off",
        remedy="write the memory for streamed weights, for example 536870912",
    ),
    Rule(
        on=Runtime,
        names="count",
        cel=f"self.accelerator != 'cpu' || {or_default('self.?count', Runtime, 'count')} == 1",
        holds=lambda runtime: runtime.accelerator != "cpu" or runtime.count == 1,
        wrong="cpu is one device",
        remedy="write count: 1 and ask for cores in resources.requests.cpu",
    ),
    Rule(
        on=Runtime,
        names="deviceClaim",
        cel="!has(self.deviceClaim) || self.accelerator != 'cpu'",
        holds=lambda runtime: runtime.device_claim is None or runtime.accelerator != "cpu",
        wrong="the CPU is no device that can be claimed",
        remedy="remove deviceClaim, or write the kind of accelerator whose libraries the runtime is to use",
    ),
    Rule(
        on=Runtime,
        names="protocol",
        cel="!has(self.protocol) || self.protocol != 'open-inference' || (has(self.image) && has(self.port))",
        holds=lambda runtime: (
            runtime.protocol != "open-inference" or (runtime.image is not None and runtime.port is not None)
        ),
        wrong="an open-inference server needs image and port",
        remedy="write image: YOUR_SERVER and port: the one it serves HTTP on, for example 9000",
    ),
    Rule(
        on=Runtime,
        names="protocol",
        cel="(has(self.protocol) && self.protocol == 'open-inference') || "
        "!(has(self.port) || has(self.grpcPort) || has(self.command) || has(self.args))",
        holds=lambda runtime: (
            runtime.protocol == "open-inference"
            or not (runtime.port or runtime.grpc_port or runtime.command or runtime.args)
        ),
        wrong="port, grpcPort, command and args are those of an open-inference server",
        remedy="write protocol: open-inference or remove them",
    ),
    Rule(
        on=Runtime,
        at="port",
        cel="!(self in [8000, 8001, 8090])",
        holds=lambda port: port not in SIDECAR_PORTS,
        wrong="8000, 8001 and 8090 are the sidecar's own",
        remedy="let the server listen on another port, for example 9000",
    ),
    Rule(
        on=Runtime,
        at="grpc_port",
        cel="!(self in [8000, 8001, 8090])",
        holds=lambda port: port not in SIDECAR_PORTS,
        wrong="8000, 8001 and 8090 are the sidecar's own",
        remedy="let the server listen on another port, for example 9001",
    ),
    Rule(
        on=Runtime,
        names="grpcPort",
        cel="!(has(self.port) && has(self.grpcPort)) || self.port != self.grpcPort",
        holds=lambda runtime: runtime.port is None or runtime.port != runtime.grpc_port,
        wrong="port and grpcPort are the same",
        remedy="write the port that the server serves HTTP on and the one that it serves gRPC on",
    ),
    Rule(
        on=Weights,
        cel=" + ".join(f"double(self.{name})" for name in Weights.__struct_fields__) + " > 0.0",
        holds=lambda weights: sum(map(float, msgspec.structs.astuple(weights))) > 0,
        wrong="all weights are 0",
        remedy='write at least one above 0, for example utilization: "1"',
    ),
    Rule(
        on=Strategy,
        names="rollingUpdate",
        cel="self.type == 'RollingUpdate' || !has(self.rollingUpdate)",
        holds=lambda strategy: strategy.type == "RollingUpdate" or strategy.rolling_update is None,
        wrong="it goes with type RollingUpdate",
        remedy="remove it or write type: RollingUpdate",
    ),
    Rule(
        on=Strategy,
        at="rolling_update",
        cel="!(has(self.maxSurge) && has(self.maxUnavailable)) || "
        "!(string(self.maxSurge) in ['0', '0%'] && string(self.maxUnavailable) in ['0', '0%'])",
        holds=lambda bounds: not {str(bounds.max_surge), str(bounds.max_unavailable)} <= {"0", "0%"},
        wrong="maxSurge and maxUnavailable are both 0, so that no pod could be replaced",
        remedy="write one of them as 1 or more",
    ),
)
