"""The Helm chart, written from manifests/base: `python -m e2e.release.chart --write | --check`.

Each template is a manifest as it is, comments included, with some texts exchanged for values. A text that is no longer
in the manifest is an error, so that the chart follows the manifests or says that it cannot. What is not of the base
(`values.yaml`, `_helpers.tpl`, `crds.yaml`, `settings.yaml`, `monitoring.yaml`, `NOTES.txt`) is written by hand.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from e2e.release.generated import Generated
from e2e.release.values import schema

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "batchwright"
BASE = ROOT / "manifests" / "base"
HEADER = "{{- /* Generated from %s by `make generate`; do not edit. */ -}}\n"
KUBERNETES = ">=1.33.0-0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A text of a manifest that is a value in the chart; it stands there once."""

    text: str
    value: str


def version() -> str:
    """Of the product; the chart has the same."""
    return str(_project()["version"])


def _project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def _field(workload: str, name: str, indent: int = 6) -> str:
    """A field of a pod from the values, left out where it is empty."""
    space = " " * indent
    return (
        f"{space}{{{{- with .Values.{workload}.{name} }}}}\n{space}{name}:\n"
        f"{space}  {{{{- toYaml . | nindent {indent + 2} }}}}\n{space}{{{{- end }}}}\n"
    )


def _word(workload: str, name: str) -> str:
    """The same of a field that is one word."""
    return f"      {{{{- with .Values.{workload}.{name} }}}}\n      {name}: {{{{ . }}}}\n      {{{{- end }}}}\n"


def _workload(name: str, image: str, resources: str) -> tuple[Exchange, ...]:
    """What both workloads take from the values."""
    pod = _field(name, "nodeSelector") + _field(name, "affinity") + _word(name, "priorityClassName")
    pod += _field("image", "pullSecrets").replace("pullSecrets:", "imagePullSecrets:")
    notes = (
        f"        {{{{- with .Values.{name}.podAnnotations }}}}\n"
        "        {{- toYaml . | nindent 8 }}\n        {{- end }}\n"
    )
    return (
        Exchange(
            text=f"        image: batchwright-{image}:{version()}\n",
            value=f'        image: {{{{ include "batchwright.image" (dict "root" . "of" .Values.image.{image}) }}}}\n'
            "        imagePullPolicy: {{ .Values.image.pullPolicy }}\n",
        ),
        Exchange(text="      nodeSelector:\n        kubernetes.io/os: linux\n", value=pod),
        Exchange(text="      annotations:\n", value=f"      annotations:\n{notes}"),
        Exchange(
            text=f"        resources:\n          requests: {resources}\n",
            value=f"        resources:\n          {{{{- toYaml .Values.{name}.resources | nindent 10 }}}}\n",
        ),
    )


EXCHANGES: dict[str, tuple[Exchange, ...]] = {
    "operator.yaml": (
        *_workload("operator", "operator", "{cpu: 100m, memory: 128Mi}\n          limits: {memory: 512Mi}"),
        Exchange(text="  replicas: 1 ", value="  replicas: {{ .Values.operator.replicas }} "),
        Exchange(
            text="      serviceAccountName: batchwright-operator\n",
            value="      serviceAccountName: batchwright-operator\n" + _field("operator", "tolerations"),
        ),
        Exchange(
            text='        prometheus.io/port: "8080"\n',
            value='        prometheus.io/port: "8080"\n'
            '        checksum/settings: {{ include "batchwright.settings" . | sha256sum }}\n',
        ),
    ),
    "agent.yaml": (
        *_workload("agent", "worker", "{cpu: 20m, memory: 64Mi}\n          limits: {memory: 256Mi}"),
        Exchange(
            text="      tolerations:\n      - operator: Exists   # every node that can run pods is measured\n",
            value=_field("agent", "tolerations") + _word("agent", "runtimeClassName"),
        ),
    ),
    "rbac.yaml": (),
    "rbac-users.yaml": (),
    "admission.yaml": (),
    "flowcontrol.yaml": (),
    "networkpolicies.yaml": (),
    "namespaces.yaml": (),
}
ONLY_IF = {
    "rbac-users.yaml": ".Values.userRoles.enabled",
    "admission.yaml": ".Values.admissionPolicy.enabled",
    "flowcontrol.yaml": ".Values.flowControl.enabled",
    "networkpolicies.yaml": ".Values.networkPolicies.enabled",
    "namespaces.yaml": ".Values.agent.createNamespace",
}
"""Templates that a value turns off."""
EVERYWHERE = (
    ("name: batchwright-agent\n  labels:\n    app.kubernetes.io/part-of: batchwright\n    pod-security",
     "name: {{ .Values.agent.namespace }}\n  labels:\n    app.kubernetes.io/part-of: batchwright\n    pod-security"),
    ("namespace: batchwright-agent", "namespace: {{ .Values.agent.namespace }}"),
    ("batchwright-system", "{{ .Release.Namespace }}"),
)  # fmt: skip
_PART_OF = re.compile(r"^( *)app\.kubernetes\.io/part-of: batchwright$", flags=re.M)
_NAME = re.compile(
    r"^( *(?:- )?[\w./-]+: \[?)\{\{ (\$?\.(?:Values\.agent\.namespace|Release\.(?:Namespace|Name)|)) \}\}(\]?)$",
    flags=re.M,
)
"""A name of the user's as a whole value: namespaces may be called 123 or true, which YAML takes for something else."""
_LABELS = (
    r"\g<0>\n\1app.kubernetes.io/managed-by: {{ $.Release.Service }}\n"
    r"\1app.kubernetes.io/instance: {{ $.Release.Name }}"
)


def templates() -> Iterator[tuple[str, str]]:
    """(path below the chart, text) of every file that is generated."""
    for name, exchanges in EXCHANGES.items():
        yield f"templates/{name}", _template(name, exchanges)
    yield "templates/rbac-namespaced.yaml", _in_some_namespaces()
    yield "templates/rbac-resource-slices.yaml", _resource_slices()
    yield "values.schema.json", json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
    yield "Chart.yaml", _chart()


def _template(name: str, exchanges: tuple[Exchange, ...]) -> str:
    text = (BASE / name).read_text()
    if name == "namespaces.yaml":  # the release's own is made by `helm install --create-namespace`
        text = text.partition("---\n")[2]
    for each in exchanges:
        found = text.count(each.text)
        if found != 1:
            raise click.ClickException(f"manifests/base/{name} has {each.text!r} {found} times: correct {__file__}")
        text = text.replace(each.text, each.value)
    if name == "rbac.yaml":
        text = _bound_where_it_works(text)
    return _released(text, f"manifests/base/{name}", ONLY_IF.get(name))


def _released(manifest: str, source: str, condition: str | None) -> str:
    """A manifest as a template: in the release's namespaces, with its labels."""
    for before, after in EVERYWHERE:
        manifest = manifest.replace(before, after)
    return HEADER % source + _guarded(_quoted(_PART_OF.sub(_LABELS, manifest)), condition)


def _quoted(text: str) -> str:
    return _NAME.sub(r"\1{{ \2 | quote }}\3", text)


def _guarded(text: str, condition: str | None) -> str:
    return text if condition is None else f"{{{{- if {condition} }}}}\n{text.rstrip()}\n{{{{- end }}}}\n"


def _bound_where_it_works(rbac: str) -> str:
    """The rights in namespaces of users: everywhere, unless the settings name some of them."""
    documents = rbac.split("---\n")
    for number, each in enumerate(documents):
        if "kind: ClusterRoleBinding" in each and "name: batchwright-operator-namespaced" in each:
            documents[number] = _guarded(each, "not .Values.settings.watchNamespaces")
            return "---\n".join(documents)
    raise click.ClickException("manifests/base/rbac.yaml binds batchwright-operator-namespaced nowhere")


def _in_some_namespaces() -> str:
    """overlays/namespaced: the operator's rights in the namespaces that its settings name, and in its own."""
    system = (ROOT / "manifests/overlays/namespaced/system.yaml").read_text()
    tenant = (ROOT / "manifests/tenant/rolebinding.yaml").read_text()
    tenant = tenant.replace("metadata:\n  name:", "metadata:\n  namespace: {{ . }}\n  name:", 1)
    for before, after in EVERYWHERE:
        system, tenant = (text.replace(before, after.replace(" .", " $.")) for text in (system, tenant))
    every = f"{{{{- range .Values.settings.watchNamespaces }}}}\n---\n{tenant.rstrip()}\n{{{{- end }}}}\n"
    body = _quoted(_PART_OF.sub(_LABELS, system.rstrip() + "\n" + every))
    return HEADER % "manifests/overlays/namespaced" + _guarded(body, ".Values.settings.watchNamespaces")


def _resource_slices() -> str:
    """components/resource-slices: a right that only a setting needs."""
    source = "manifests/components/resource-slices/rbac.yaml"
    return _released((ROOT / source).read_text(), source, ".Values.settings.publishResourceSlices")


def _chart() -> str:
    project = _project()
    return (
        "# Generated from pyproject.toml by `make generate`; do not edit.\n"
        f"apiVersion: v2\nname: batchwright\ntype: application\nversion: {version()}\nappVersion: {version()}\n"
        f"kubeVersion: '{KUBERNETES}'\ndescription: {json.dumps(project['description'])}\n"
        "keywords: [inference, batch, gpu, operator, machine-learning]\n"
        "annotations:\n  artifacthub.io/license: Apache-2.0\n"
    )


GENERATED = Generated(
    what="the files of charts/batchwright", source="the manifests", folder=CHART, files=lambda: dict(templates())
)

if __name__ == "__main__":
    GENERATED.command()()
