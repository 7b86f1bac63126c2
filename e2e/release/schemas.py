"""JSON schemas of the kinds that users write: for editors, and for kubeconform, which checks without a cluster.

They are the CRDs' own, with unknown fields refused; rules across fields (CEL) are the API server's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from batchwright_worker.api.documents import KINDS
from batchwright_worker.api.names import API_VERSION
from batchwright_worker.api.validation import closed_schema
from e2e.release.chart import ROOT

Schema = dict[str, Any]


def write(folder: Path) -> None:
    """Each as KIND_VERSION.json, as catalogues of such schemas call them."""
    for name, schema in schemas():
        (folder / name).write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n")


def schemas() -> Iterator[tuple[str, Schema]]:
    """File name, schema."""
    for kind, plural in KINDS.items():
        crd = yaml.safe_load((ROOT / "crds" / f"{plural}.yaml").read_text())
        (version,) = crd["spec"]["versions"]
        found = _without_extensions(closed_schema(version["schema"]["openAPIV3Schema"]))
        found["properties"] |= {"apiVersion": {"const": API_VERSION}, "kind": {"const": kind}}
        found["required"] = ["apiVersion", "kind", "metadata", "spec"]
        head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": kind}
        yield f"{kind.lower()}_{version['name']}.json", head | found


def _without_extensions(part: Any) -> Any:
    """Kubernetes' own keywords say nothing to others."""
    if isinstance(part, dict):
        return {
            name: _without_extensions(value) for name, value in part.items() if not name.startswith("x-kubernetes-")
        }
    return [_without_extensions(each) for each in part] if isinstance(part, list) else part
