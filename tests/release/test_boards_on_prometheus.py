"""Every query of every panel and rule, on a real Prometheus that scrapes an operator, an agent and a served model: none
is empty, and every metric that an alert asks for is there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchwright_operator.kube.client import path_of
from batchwright_operator.kube.objects import INFERENCE_JOB, MODEL_DEPLOYMENT, Resource
from e2e.cluster import ControlPlane, kubectl_path
from e2e.cluster.machine.ports import free_port
from e2e.cluster.machine.waiting import wait_until
from e2e.debian import program
from e2e.release.boards import BOARDS
from tests.protocol.serving import Served, emulated_model, manifest, serving
from tests.release.test_alerts import ROOT, RULES

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]
ENDED = {
    "observedGeneration": 1,
    "conditions": [
        {"type": "Complete", "status": "True", "reason": "Completed", "message": "",
         "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ],
    "items": {"total": 60, "succeeded": 58, "failed": 2},
    "shards": {"total": 4, "completedIndexes": "0-3"},
    "throughput": "12.5",
    "estimatedRemainingSeconds": 0,
    "tasks": [
        {"name": "t", "kind": "Model", "succeeded": 58, "failed": 2, "meanBatchSize": "7.5", "p95Milliseconds": 80}
    ],
}  # fmt: skip
NODE = {
    "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
    "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
    "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
    "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}],
}


@contextlib.contextmanager
def running(log: Path, *command: str, **environ: str) -> Iterator[None]:
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environ})
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def make(plane: ControlPlane, resource: Resource, name: str, spec: Any) -> None:
    body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec}
    plane.api.request("POST", path_of(resource, "default"), body)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server with a node on paper, a ModelDeployment, and an InferenceJob that is complete."""
    with ControlPlane.start("boards", scheduler=False) as plane:
        for folder in ("crds", "manifests/base"):
            command = [str(kubectl_path()), "--kubeconfig", str(plane.kubeconfig), "apply", "--server-side"]
            subprocess.run([*command, "-k", str(ROOT / folder)], check=True, capture_output=True)
        assert wait_until(lambda: plane.api.exists(path_of(INFERENCE_JOB, "default")), timeout_s=60, interval_s=0.2)
        plane.api.request("POST", "/api/v1/nodes", {"metadata": {"name": "n", "labels": {"kubernetes.io/os": "linux"}}})
        plane.api.patch("/api/v1/nodes/n/status", {"status": NODE})
        model = {"name": "m", "artifacts": [{"format": "onnx", "uri": "pvc://m/x.onnx"}]}
        make(plane, MODEL_DEPLOYMENT, "d", {"models": [model]})
        job = {"input": {"uri": "pvc://a/b", "format": "text"}, "output": {"uri": "pvc://a/c"},
               "tasks": [{"name": "t", "model": {"deployment": "d", "model": "m"}}]}  # fmt: skip
        make(plane, INFERENCE_JOB, "j", job)
        plane.api.patch(f"{path_of(INFERENCE_JOB, 'default', 'j')}/status", {"status": ENDED})
        yield plane


@pytest.fixture(scope="module")
def prometheus(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """It scrapes every second, with the labels that the PodMonitors give; its URL."""
    folder = tmp_path_factory.mktemp("prometheus")
    operator, agent, exporter, port = (free_port() for _ in range(4))
    models = [emulated_model("m", 5.0, 0.5) | {"targets": {"latencyMilliseconds": 500}}]
    python = (sys.executable, "-m")
    with serving(folder, manifest("d", models)) as served, contextlib.ExitStack() as stack:
        labels = {"namespace": "default", "modeldeployment": "d", "pod": "d-0"}
        scrapes = {
            "models": (served.http, labels), "agent": (agent, {"pod": "agent-0"}), "node": (exporter, {}),
            "operator": (operator, {"namespace": "batchwright-system", "pod": "operator-0"}),
        }  # fmt: skip
        jobs = [
            {"job_name": name, "honor_labels": name == "operator",
             "static_configs": [{"targets": [f"127.0.0.1:{at}"], "labels": of}]}
            for name, (at, of) in scrapes.items()
        ]  # fmt: skip
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                  "rule_files": ["rules.yaml"], "scrape_configs": jobs}  # fmt: skip
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        (folder / "rules.yaml").write_text(yaml.safe_dump(RULES))
        url = f"http://127.0.0.1:{port}"
        for command in (
            (program("prometheus-node-exporter"), f"--web.listen-address=127.0.0.1:{exporter}",
             "--collector.disable-defaults", "--collector.cpu", "--collector.meminfo"),
            (program("prometheus"), f"--config.file={folder / 'prometheus.yaml'}",
             f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"),
            (*python, "batchwright_worker", "agent", f"--port={agent}", "--host=127.0.0.1", "--node=n"),
            (*python, "batchwright_operator", "run", "--namespace=batchwright-system", f"--metrics-port={operator}",
             f"--kubeconfig={plane.kubeconfig}"),
        ):  # fmt: skip
            name = f"{Path(command[0]).name}-{command[-1].rpartition('/')[2][:20].strip('-')}.log"
            stack.enter_context(running(
                folder / name, *command, BATCHWRIGHT_PROMETHEUS_URL=url, BATCHWRIGHT_SCRAPE_INTERVAL_SECONDS="1",
                BATCHWRIGHT_BENCHMARK_SCHEDULE_SECONDS="1", BATCHWRIGHT_BENCHMARK_IDLE_THRESHOLD="1.1",
                BATCHWRIGHT_RESYNC_SECONDS="2",
            ))  # fmt: skip
        stack.enter_context(asked_all_the_time(served))
        yield url


@contextlib.contextmanager
def asked_all_the_time(served: Served) -> Iterator[None]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 8], "data": list(range(8))}
    body = json.dumps({"inputs": [tensor]}).encode()
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            served.get("/v2/models/m/infer", body)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def answer(url: str, path: str, **query: str) -> Any:
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=60) as found:
            return json.load(found)["data"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{query}: {error.read().decode()}") from error
    except OSError:
        return None  # it starts


def queries() -> dict[str, str]:
    """Where each query stands -> the query, as Grafana would ask it with everything selected."""
    found = {
        f"{board.name}: {panel.title}: {legend}": re.sub(r"\$(namespace|modeldeployment|model|name)\b", ".*", query)
        for board in BOARDS
        for panel in board.panels
        for legend, query in panel.queries.items()
    }
    found = {where: query.replace("$__rate_interval", "15s") for where, query in found.items()}
    records = [rule for group in RULES["groups"] for rule in group["rules"] if "record" in rule]
    return found | {rule["record"]: rule["record"] for rule in records}


def test_no_query_is_empty(prometheus: str) -> None:
    waiting = queries()
    assert len(waiting) > 50
    until = time.monotonic() + 120
    while waiting and time.monotonic() < until:
        time.sleep(1)
        waiting = {where: query for where, query in waiting.items()
                   if not (answer(prometheus, "query", query=query) or {}).get("result")}  # fmt: skip
    assert waiting == {}


def test_alerts_ask_for_what_there_is(prometheus: str) -> None:
    rules = [rule["expr"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
    asked = {name for rule in rules for name in re.findall(r"\b(?:batchwright|nv|placement)[:_][a-z0-9_:]+", rule)}
    assert len(asked) > 15
    assert asked - set(answer(prometheus, "label/__name__/values")) == set()


def test_the_rules_are_evaluated_without_an_error(prometheus: str) -> None:
    groups = answer(prometheus, "rules")["groups"]
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"] == []
