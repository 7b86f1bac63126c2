"""The CRDs, generated from the typed manifests: `python -m batchwright_operator.crds.generate --write | --check`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from batchwright_operator.crds.conditions import CONDITIONS
from batchwright_operator.crds.schema import Schema, structural
from batchwright_operator.crds.status_types import AcceleratorProfileStatus, InferenceJobStatus, ModelDeploymentStatus
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, INFERENCE_JOB, MODEL_DEPLOYMENT, Raw, Resource
from batchwright_worker.api.deployment import ModelDeployment, ModelDeploymentSpec
from batchwright_worker.api.job import InferenceJob, InferenceJobSpec
from batchwright_worker.api.rules.deployment import RULES as DEPLOYMENT_RULES
from batchwright_worker.api.rules.job import RULES as JOB_RULES
from batchwright_worker.api.rules.model import RULES as MODEL_RULES
from batchwright_worker.api.rules.rule import Rule
from batchwright_worker.api.rules.text_task import RULES as TASK_RULES

RULES: tuple[Rule, ...] = (*DEPLOYMENT_RULES, *MODEL_RULES, *TASK_RULES, *JOB_RULES)
ROOT = Path(__file__).resolve().parents[3]
FOLDERS = (ROOT / "crds", ROOT / "worker" / "batchwright_worker" / "crds")
HEADER = "# Generated from worker/batchwright_worker/api by `make generate`; do not edit.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A printer column."""

    name: str
    path: str
    type: str = "string"
    description: str
    priority: int = 0

    def as_dict(self) -> dict[str, Any]:
        column = {"name": self.name, "type": self.type, "jsonPath": self.path, "description": self.description}
        return {**column, **({"priority": self.priority} if self.priority else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Everything that a CRD says besides the schemas of spec and status."""

    resource: Resource
    short_name: str
    description: str
    status: type[msgspec.Struct]
    columns: tuple[Column, ...]
    root: type[msgspec.Struct] | None = None
    """Its rules stand at the root of the schema, where `self.metadata.name` is known."""
    spec: type[msgspec.Struct] | None = None
    scale: bool = False
    selectable: tuple[str, ...] = (".status.summary.reason",)
    """What `kubectl get --field-selector` takes besides metadata."""


def _condition(name: str, what: str) -> Column:
    return Column(name=name, path=f'.status.conditions[?(@.type=="{name}")].status', description=what)


AGE = Column(name="Age", path=".metadata.creationTimestamp", type="date", description="Time since it was created.")
REASON = Column(name="Reason", path=".status.summary.reason", description="Why it is in this state.")

KINDS = (
    Kind(
        resource=MODEL_DEPLOYMENT,
        short_name="mdep",
        description="Models that are served together: placed on the processors that are least loaded, with batch sizes "
        "tuned to the latency they really get.",
        root=ModelDeployment,
        spec=ModelDeploymentSpec,
        status=ModelDeploymentStatus,
        scale=True,
        columns=(
            _condition("Ready", "Whether all replicas answer requests."),
            REASON,
            Column(
                name="Replicas", path=".status.readyReplicas", type="integer", description="Pods that answer requests."
            ),
            Column(name="Batch", path=".status.summary.batch", description="Batch size per model."),
            Column(name="P95(ms)", path=".status.summary.p95", type="integer", description="Highest p95 of any model."),
            Column(name="Rows/s", path=".status.summary.throughput", type="integer", description="Rows per second."),
            Column(name="Nodes", path=".status.summary.nodes", description="Nodes that the pods are on."),
            AGE,
        ),
    ),
    Kind(
        resource=INFERENCE_JOB,
        short_name="infjob",
        description="A data set taken through a graph of CPU and model tasks, shard by shard.",
        root=InferenceJob,
        spec=InferenceJobSpec,
        status=InferenceJobStatus,
        selectable=(".spec.suspend", ".status.summary.reason"),
        columns=(
            REASON,
            Column(name="Progress", path=".status.summary.progress", description="Share of the items that are done."),
            Column(name="Items/s", path=".status.summary.throughput", description="Items per second."),
            Column(
                name="Failed", path=".status.summary.failed", type="integer", description="Items with an error record."
            ),
            Column(name="ETA", path=".status.summary.eta", description="Time to the end at the measured rate."),
            AGE,
        ),
    ),
    Kind(
        resource=ACCELERATOR_PROFILE,
        short_name="accel",
        description="What one node's processors can do, as measured there. Written by the operator, one per node.",
        status=AcceleratorProfileStatus,
        selectable=(".status.summary.kinds",),
        columns=(
            Column(name="Kinds", path=".status.summary.kinds", description="Kinds of accelerators on the node."),
            Column(name="Product", path=".status.summary.products", description="Their products."),
            Column(name="Images/s", path=".status.summary.imagesPerSecond", description="Their capacities."),
            _condition("Benchmarked", "Whether every processor was measured."),
            _condition("Fresh", "Whether its samples are recent."),
            AGE,
        ),
    ),
)


def _root_schema(kind: Kind) -> Schema:
    properties: Schema = {
        "apiVersion": {"type": "string", "description": f"{kind.resource.api_version}."},
        "kind": {"type": "string", "description": f"{kind.resource.kind}."},
        "metadata": {"type": "object"},
    }
    schema: Schema = {"description": kind.description, "type": "object", "properties": properties}
    if kind.spec is not None:
        properties["spec"] = structural(kind.spec, RULES)
        schema["required"] = ["spec"]
    properties["status"] = _status_schema(kind)
    rules = [{"rule": rule.cel, "message": rule.message} for rule in RULES if rule.on is kind.root]
    return schema | ({"x-kubernetes-validations": rules} if rules else {})


def _status_schema(kind: Kind) -> Schema:
    schema = structural(kind.status)
    properties = {**schema["properties"], "conditions": CONDITIONS}
    return {**schema, "properties": properties, "default": {"observedGeneration": -1}}


def _subresources(kind: Kind) -> dict[str, Any]:
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    return {"status": {}, **({"scale": scale} if kind.scale else {})}


def definition(kind: Kind) -> Raw:
    """The CustomResourceDefinition of one kind."""
    resource = kind.resource
    version = {
        "name": resource.version,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [column.as_dict() for column in kind.columns],
        "selectableFields": [{"jsonPath": path} for path in kind.selectable],
        "subresources": _subresources(kind),
        "schema": {"openAPIV3Schema": _root_schema(kind)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [kind.short_name],
                "categories": ["batchwright"],
            },
            "versions": [version],
        },
    }


class _Plain(yaml.SafeDumper):
    """No anchors: a reader of the file should not have to follow them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def files() -> dict[str, str]:
    """File name -> text, of each CRD."""
    return {
        f"{kind.resource.plural}.yaml": HEADER
        + yaml.dump(definition(kind), Dumper=_Plain, sort_keys=False, width=110, allow_unicode=True)
        for kind in KINDS
    }


def differences(folder: Path) -> Iterable[str]:
    """Lines of a diff between what lies in a folder and what should."""
    for name, text in files().items():
        path = folder / name
        found = path.read_text() if path.exists() else ""
        yield from difflib.unified_diff(found.splitlines(), text.splitlines(), str(path), "generated", lineterm="")


@click.command()
@click.option("--write", "action", flag_value="write", help="Write the files.")
@click.option("--check", "action", flag_value="check", default=True, help="Compare them, exit 1 if they differ.")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path, file_okay=False))
def main(action: str, folders: tuple[Path, ...]) -> None:
    """Write or check the CRDs in FOLDERS (default: crds/ and the worker's copy)."""
    for folder in folders or FOLDERS:
        if action == "write":
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files().items():
                (folder / name).write_text(text)
        elif lines := list(differences(folder)):
            click.echo("\n".join(lines))
            raise click.ClickException("the CRDs differ from the typed manifests: run `make generate`")


if __name__ == "__main__":
    main()
