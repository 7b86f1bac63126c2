"""The demo's closing report: collected from the cluster, written as JSON, printed for people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `build/demo/report.json` holds (camelCase there). Batch sizes are rows per model."""

    pages: int
    pages_per_second: float
    character_accuracy: float
    batch_sizes: dict[str, int]
    placements: list[dict[str, str]] = field(default_factory=list)
    capacities: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The report with the field names of report.json."""
        return {_camel(key): value for key, value in asdict(self).items()}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def job_seconds(job: dict[str, Any]) -> float:
    """Wall time of an InferenceJob from its status, in seconds (at least 1: the API's times are whole seconds)."""
    status = job["status"]
    start, end = (datetime.fromisoformat(status[key].replace("Z", "+00:00")) for key in ("startTime", "completionTime"))
    return max(1.0, (end - start).total_seconds())


def capacities(profiles: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Node -> processor kind -> images per second, from AcceleratorProfiles."""
    return {
        profile["metadata"]["name"]: {
            processor["kind"]: float(processor.get("capacityImagesPerSecond") or 0)
            for processor in profile.get("status", {}).get("processors") or []
        }
        for profile in profiles
    }


def placements(deployment: dict[str, Any]) -> list[dict[str, str]]:
    """Pod, node, processor, load and reason of the pods of one ModelDeployment, from its status."""
    return [
        {key: str(entry.get(key, "")) for key in ("pod", "node", "processor", "load", "reason")}
        for entry in deployment.get("status", {}).get("placements") or []
    ]


def batch_sizes(deployment: dict[str, Any]) -> dict[str, int]:
    """Model -> batch size that most replicas use."""
    return {model["name"]: int(model["batchSize"]) for model in deployment.get("status", {}).get("models") or []}


def save(report: Report, path: Path) -> None:
    """Write report.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_json(), indent=2) + "\n")


def load(path: Path) -> Report:
    """The report that `save` wrote."""
    told = json.loads(path.read_text())
    return Report(**{field.name: told[_camel(field.name)] for field in fields(Report)})


def explained(kubeconfig: Path | None) -> list[str]:
    """The plugin's commands for what the demo made; `kubeconfig` None: the user's own."""
    plugin = ".venv/bin/kubectl-batchwright" + (f" --kubeconfig {kubeconfig}" if kubeconfig else "")
    return [
        f"{plugin} dashboard           # all of it as a live page",
        f"{plugin} top                 # each node's processor: measured speed, live load",
        f"{plugin} -n ocr why ocr      # why its pod is where it is, and why batches are as large as they are",
        f"{plugin} -n ocr plan ocr --replicas 3    # where more replicas would go",
    ]


def as_text(report: Report, *, kubectl: str, kubeconfig: Path | None = None) -> str:
    """The report in words, with the commands to look further."""
    lines = [
        "",
        "Report",
        f"  pages               {report.pages}",
        f"  pages per second    {report.pages_per_second:.2f}",
        f"  character accuracy  {report.character_accuracy:.2%}",
        "  batch sizes         " + ", ".join(f"{name} {size}" for name, size in report.batch_sizes.items()),
        "  capacities          "
        + ", ".join(
            f"{node} {kind} {value:.2f} images/s"
            for node, kinds in sorted(report.capacities.items())
            for kind, value in kinds.items()
        ),
        "  placements",
        *(f"    {p['pod']} on {p['node']} ({p['processor']}): {p['reason'] or p['load']}" for p in report.placements),
        "",
        "Look further:",
        f"  {kubectl} get mdep,infjob,accel -A",
        f"  {kubectl} describe mdep ocr -n ocr",
        f"  {kubectl} get infjob ocr-pages -n ocr -o yaml",
        f"  {kubectl} get events -n ocr --field-selector involvedObject.kind=ModelDeployment",
        "",
        "Why things are as they are:",
        *(f"  {line}" for line in explained(kubeconfig)),
        "",
    ]
    return "\n".join(lines)
