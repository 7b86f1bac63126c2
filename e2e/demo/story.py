"""The demo's steps, the same on every kind of cluster: each says what it does, waits, and shows what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.demo import report as reporting
from e2e.demo.kubectl import Kubectl, condition, wait_for
from e2e.demo.report import Report

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "ocr"
SYSTEM = "batchwright-system"


def say(text: str) -> None:
    """One line to the user, at once."""
    print(text, flush=True)


@dataclass(slots=True)
class Story:
    """One telling: the cluster, the namespace of the example, and how long each step took."""

    kubectl: Kubectl
    overlay: Path
    build: str = ""
    example: Path = EXAMPLE
    namespace: str = "ocr"
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Times a step under `name` and says `text`."""
        say(f"== {text}")
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)
        say(f"   {self.seconds[name]:.0f} s")

    def tell(self) -> Report:
        """Everything after the cluster is up: install, benchmark, serve, run the job, report."""
        with self.step("install", "installing CRDs, operator and agents"):
            self.install()
        with self.step("data", "rendering the pages and copying the two networks into the shared volume"):
            self.prepare_data()
        with self.step("benchmark", "benchmarking every node's processor (method A1: ResNet-50, growing batches)"):
            self.await_benchmarks()
        with self.step("deploy", "placing and starting the ModelDeployment"):
            self.deploy()
        with self.step("job", "running the InferenceJob"):
            self.run_job()
        with self.step("evaluate", "comparing the recognized text with the known one"):
            evaluation = self.evaluate()
        return self.report(evaluation)

    # --- steps -----------------------------------------------------------------------------------

    def install(self) -> None:
        """CRDs, operator and agents; returns when the operator answers."""
        self.kubectl.apply_folder(self.overlay)
        for workload in (
            "deployment/batchwright-operator -n batchwright-system",
            "daemonset/batchwright-agent -n batchwright-agent",
        ):
            self._mark(*workload.split())
        self.kubectl.run(
            "rollout", "status", "-n", SYSTEM, "deployment/batchwright-operator", "--timeout=180s", timeout_s=200
        )

    def prepare_data(self) -> None:
        """The example's volumes and its data Job, to the end."""
        self.kubectl.apply_folder(self.example / "data")
        self._await_job("ocr-prepare", timeout_s=240)

    def await_benchmarks(self) -> None:
        """Every node's profile has been benchmarked; shows the load tables."""
        nodes = [item["metadata"]["name"] for item in self.kubectl.json("get", "nodes")["items"]]

        def done() -> list[dict[str, Any]] | None:
            profiles = self.kubectl.json("get", "acceleratorprofiles")["items"]
            measured = [p for p in profiles if condition(p, "Benchmarked").get("status") == "True"]
            return profiles if len(measured) >= len(nodes) else None

        profiles = wait_for(done, what="AcceleratorProfiles with condition Benchmarked", timeout_s=420, every_s=1.0)
        for profile in profiles:
            for processor in profile["status"]["processors"]:
                say(f"   {profile['metadata']['name']:8} {processor['kind']}: {_table(processor)}")

    def deploy(self) -> None:
        """The ModelDeployment is Ready; shows where its pods went and why."""
        self.kubectl.apply_folder(self.example / "serve")
        deployment = wait_for(
            self._ready_deployment,
            what="ModelDeployment ocr with condition Ready",
            timeout_s=240,
            seen=lambda: str(condition(self._deployment(), "Ready")),
        )
        for placement in reporting.placements(deployment):
            say(f"   {placement['pod']} -> {placement['reason'] or placement['node']}")

    def run_job(self) -> None:
        """The InferenceJob ends; shows its progress as its status tells it."""
        self.kubectl.apply_folder(self.example / "job")
        shown = ""

        def ended() -> dict[str, Any] | None:
            nonlocal shown
            job = self._job()
            line = _progress(job)
            if line != shown:
                shown = line
                say(f"   {line}")
            over = any(condition(job, kind).get("status") == "True" for kind in ("Complete", "Failed"))
            return job if over else None

        job = wait_for(ended, what="InferenceJob ocr-pages", timeout_s=900, every_s=1.0)
        if condition(job, "Complete").get("status") != "True":
            raise RuntimeError(f"the InferenceJob failed: {condition(job, 'Failed').get('message')}")

    def evaluate(self) -> dict[str, Any]:
        """Pages and character accuracy, computed in the cluster from the job's outputs."""
        self.kubectl.apply_folder(self.example / "evaluate")
        self._await_job("ocr-evaluate", timeout_s=180)
        text = self.kubectl.run("logs", "-n", self.namespace, "job/ocr-evaluate")
        result: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
        return result

    def report(self, evaluation: dict[str, Any]) -> Report:
        """All of it as one value."""
        job, deployment = self._job() or {}, self._deployment() or {}
        pages = int(job["status"]["items"]["succeeded"])
        return Report(
            pages=pages,
            pages_per_second=round(pages / reporting.job_seconds(job), 3),
            character_accuracy=float(evaluation["characterAccuracy"]),
            batch_sizes=reporting.batch_sizes(deployment),
            placements=reporting.placements(deployment),
            capacities=reporting.capacities(self.kubectl.json("get", "acceleratorprofiles")["items"]),
            seconds=dict(self.seconds),
        )

    # --- looks -----------------------------------------------------------------------------------

    def _deployment(self) -> dict[str, Any] | None:
        return self.kubectl.find("modeldeployment", "ocr", "-n", self.namespace)

    def _job(self) -> dict[str, Any] | None:
        return self.kubectl.find("inferencejob", "ocr-pages", "-n", self.namespace)

    def _mark(self, *workload: str) -> None:
        """Images keep their tag from build to build: a pod template that names the build rolls out a new one."""
        template = {"metadata": {"annotations": {"batchwright.dev/build": self.build}}}
        self.kubectl.run("patch", *workload, "--type=merge", "-p", json.dumps({"spec": {"template": template}}))

    def _ready_deployment(self) -> dict[str, Any] | None:
        deployment = self._deployment()
        return deployment if condition(deployment, "Ready").get("status") == "True" else None

    def _await_job(self, name: str, *, timeout_s: float) -> None:
        def ended() -> str | None:
            job = self.kubectl.find("job", name, "-n", self.namespace)
            kinds = [c["type"] for c in (job or {}).get("status", {}).get("conditions") or [] if c["status"] == "True"]
            return next((kind for kind in kinds if kind in ("Complete", "Failed")), None)

        if wait_for(ended, what=f"Job {name}", timeout_s=timeout_s) == "Failed":
            log = self.kubectl.run("logs", "-n", self.namespace, f"job/{name}", "--tail=20")
            raise RuntimeError(f"Job {name} failed:\n{log}")


def _table(processor: dict[str, Any]) -> str:
    rows = [f"{row['batchSize']}: {row['imagesPerSecond']}" for row in processor.get("loadTable") or []]
    return f"{processor.get('capacityImagesPerSecond', '?')} images/s (batch: images/s {', '.join(rows)})"


def _progress(job: dict[str, Any] | None) -> str:
    status = (job or {}).get("status") or {}
    summary = status.get("summary") or {}
    items = status.get("items") or {}
    return (
        f"{summary.get('reason', 'Pending'):20} {summary.get('progress', '0%'):>5} "
        f"{items.get('succeeded', 0)}/{items.get('total', '?')} items, {items.get('failed', 0)} failed, "
        f"{summary.get('throughput', '-')} items/s, ETA {summary.get('eta', '-')}"
    )
