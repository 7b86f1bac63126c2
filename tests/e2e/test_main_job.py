"""The main job end to end: what the issue says must be shown, on the embedded cluster. Tests run in this order."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import aiohttp
import numpy as np
import pytest
import tritonclient.http as httpclient

from e2e.demo.kubectl import wait_for
from e2e.demo.report import placements
from tests.e2e.load import BODY, SteppedLoad
from tests.e2e.stage import SYSTEM, Stage, watch

RUNNERS = "batchwright.dev/inferencejob={},batchwright.dev/step=run"
MODELS = "batchwright.dev/deployment={},app.kubernetes.io/component=model"


def test_report_holds_what_it_promises(stage: Stage) -> None:
    report = stage.report
    assert report.pages >= 60
    assert report.pages_per_second > 0
    assert report.character_accuracy > 0.95
    assert set(report.batch_sizes) == {"detector", "recognizer"}
    assert all(placement["node"] in ("fast", "slow") and placement["load"] for placement in report.placements)
    assert all(placement["reason"] for placement in report.placements)


def test_capacities_differ_as_the_nodes_do(stage: Stage) -> None:
    fast, slow = (stage.report.capacities[node]["cpu"] for node in ("fast", "slow"))
    assert 1.5 < fast / slow < 2.7


def test_steady_state_writes_nothing(stage: Stage) -> None:
    falls_silent(stage, within_s=150)


def falls_silent(stage: Stage, within_s: float) -> None:
    """Twenty seconds without a write of the operator's. On a machine that others use a probe may come late and be told,
    so that the first twenty need not be those."""
    until = time.monotonic() + within_s
    while True:
        since = datetime.now(UTC)
        time.sleep(20)
        written = stage.operator_writes(since=since)
        if not written:
            return
        assert time.monotonic() < until, written


def test_job_survives_the_loss_of_operator_runner_and_model(stage: Stage) -> None:
    disturb(stage, "ocr-disturbed", folder="disturbed")


def test_nothing_is_written_after_the_kills(stage: Stage) -> None:
    stage.await_condition("modeldeployment", "ocr", "Ready", timeout_s=180)
    # Numbers alone are written a minute after they changed: the last ones of the job's end, or of the pods' restart.
    time.sleep(75)
    falls_silent(stage, within_s=150)


def test_a_loaded_node_is_passed_over(stage: Stage) -> None:
    with stage.loaded_node("fast"):
        time.sleep(75)  # the load of the whole window that placements look at (60 s), and the samples' own interval
        with stage.deployed(cpu_deployment("elsewhere"), timeout_s=180) as deployment:
            (placement,) = placements(deployment)
    assert placement["node"] == "slow"
    assert "fast lost by" in placement["reason"]


def test_batch_size_follows_a_stepped_load(stage: Stage) -> None:
    def size() -> int:
        return int((stage.get("modeldeployment", "stepped") or {})["status"]["models"][0]["batchSize"])

    with stage.deployed(emulated_deployment("stepped"), timeout_s=180):
        (pod,) = stage.all("pods", selector=MODELS.format("stepped"))
        with SteppedLoad(f"http://{pod['status']['podIP']}:8000", "echo") as load:
            before = size()
            load.offer(150)
            rising = watch(size, seconds=45)
            settled = size()
            load.offer(330)
            higher = watch(size, seconds=45)
            changes = [event for event in stage.events("stepped") if event.get("action") == "Tune"]
    print(f"in time at 330/s: {load.in_time_share(last_seconds=10, target_ms=100):.2f}")
    assert settled > before, rising
    assert all(late >= early for early, late in pairwise(rising)), rising
    assert higher[-1] >= settled, higher
    assert {answer.status for answer in load.answers} <= {200, 503}
    assert changes
    assert {event["reason"] for event in changes} <= {
        "RowsWaiting",
        "LatencyBelowTarget",
        "LoadChanged",
        "BatchTooSlow",
    }
    assert all("p95 is" in event["note"] for event in changes)


def test_two_models_share_an_accelerator_layer_by_layer(stage: Stage) -> None:
    took = {}
    for mode in ("Off", "Balanced"):
        name = f"pair-{mode.lower()}"
        with stage.deployed(layerwise_pair(name, mode), timeout_s=180):
            (pod,) = stage.all("pods", selector=MODELS.format(name))
            took[mode] = asyncio.run(serve_both(f"http://{pod['status']['podIP']}:8000", each=12))
            models = (stage.get("modeldeployment", name) or {})["status"]["models"]
            told = [model.get("layerwise", "")[:7] for model in models]
            assert told == (["", ""] if mode == "Off" else ["8 units", "8 units"])
    print(f"24 requests, layerwise off and on: {took}")


def test_two_real_networks_share_a_cpu_layer_by_layer(stage: Stage) -> None:
    """The demo's detector and recognizer with memory for fewer weights than they have: the same answers."""
    answers, took = {}, {}
    for mode in ("Off", "Balanced"):
        name = f"networks-{mode.lower()}"
        with stage.deployed(networks(stage, name, mode), timeout_s=300):
            (pod,) = stage.all("pods", selector=MODELS.format(name))
            answers[mode], took[mode] = ask_networks(f"{pod['status']['podIP']}:8000", each=6)
            models = (stage.get("modeldeployment", name) or {})["status"]["models"]
            assert [" units" in model.get("layerwise", "") for model in models] == [mode != "Off"] * 2
    print(f"12 requests to two networks, layerwise off and on: {took}")
    for model, outputs in answers["Off"].items():
        for output, wanted in outputs.items():
            np.testing.assert_allclose(answers["Balanced"][model][output], wanted, rtol=1e-3, atol=1e-3)


def test_delete_leaves_no_child(stage: Stage) -> None:
    stage.kubectl.run(
        "delete", "modeldeployment,inferencejob", "--all", "-n", stage.namespace, "--timeout=120s", timeout_s=150
    )

    def children() -> list[str]:
        kinds = "deployments,replicasets,pods,jobs,services,configmaps,secrets,poddisruptionbudgets,networkpolicies"
        found = stage.all(kinds, selector="app.kubernetes.io/managed-by=batchwright")
        return [f"{child['kind']}/{child['metadata']['name']}" for child in found]

    wait_for(
        lambda: True if not children() else None,
        what="no child left",
        timeout_s=120,
        seen=lambda: ", ".join(children()),
    )


# --- objects and comparisons ---------------------------------------------------------------------


def disturb(stage: Stage, name: str, *, folder: str) -> None:
    """The demo's job again, with operator, a runner and a model pod killed on the way: the same records come out."""
    stage.apply(disturbed_job(stage, name, folder))
    stage.await_progress(name, 5)
    stage.kill_one("app.kubernetes.io/component=operator", namespace=SYSTEM)
    stage.await_progress(name, 20)
    stage.kill_one(RUNNERS.format(name))
    stage.await_progress(name, 40)
    stage.kill_one(MODELS.format("ocr"))
    job = stage.await_condition("inferencejob", name, "Complete", timeout_s=900)
    assert job["status"]["items"]["failed"] == 0
    assert_equal_records(stage.records("ocr-data", folder), stage.records("ocr-data", "results"))


def disturbed_job(stage: Stage, name: str, folder: str) -> dict[str, Any]:
    """The demo's job under another name and output."""
    job = stage.get("inferencejob", "ocr-pages") or {}
    spec = copy.deepcopy(job["spec"])
    spec["output"]["uri"] = spec["output"]["uri"].replace("/results", f"/{folder}")
    return {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "metadata": {"name": name, "namespace": stage.namespace},
        "spec": spec,
    }


def _deployment(name: str, accelerator: str, **more: Any) -> dict[str, Any]:
    model = {
        "name": "echo",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [4]}],
        "outputs": [{"name": "argmax", "datatype": "INT64", "shape": [1]}],
        "artifacts": [
            {
                "accelerator": accelerator,
                "format": "emulated",
                "emulated": {"fixedMicroseconds": 10_000, "perRowMicroseconds": 2_000, "weightsBytes": 1 << 20},
            }
        ],
        **more,
    }
    small = {"requests": {"cpu": "20m", "memory": "64Mi"}}
    runtime = {"accelerator": accelerator, "resources": small}
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": "ocr"},
        "spec": {"models": [model], "runtimes": [runtime]},
    }


def cpu_deployment(name: str) -> dict[str, Any]:
    """A small deployment that may go to either node's CPU."""
    return _deployment(name, "cpu")


def emulated_deployment(name: str) -> dict[str, Any]:
    """One model on the emulated accelerator, 10 + 2n ms, target 100 ms, starting at batches of one row."""
    batching = {"minSize": 1, "initialSize": 1, "maxSize": 64, "step": 1, "windowMilliseconds": 1000}
    return _deployment(name, "batchwright.dev/emulated", targets={"latencyMilliseconds": 100}, batching=batching)


def layerwise_pair(name: str, mode: str) -> dict[str, Any]:
    """One model that computes for 160 ms and fetches for 20, one the other way round, and memory for one of them."""
    budget = 4000
    pair = _deployment(name, "batchwright.dev/emulated", batching={"maxSize": 1})
    pair["spec"]["runtimes"][0]["memoryBudgetBytes"] = budget
    pair["spec"]["layerwise"] = {"mode": mode} if mode == "Off" else {"mode": mode, "memoryBudgetBytes": budget}
    (model,) = pair["spec"]["models"]
    pair["spec"]["models"] = []
    for own, (weights, load_ms, fixed_us) in {"compute": (2400, 20, 160_000), "weights": (3200, 160, 20_000)}.items():
        emulated = {
            "fixedMicroseconds": fixed_us,
            "perRowMicroseconds": 0,
            "weightsBytes": weights,
            "loadMilliseconds": load_ms,
        }
        artifact = {**model["artifacts"][0], "emulated": emulated}
        pair["spec"]["models"].append({**model, "name": own, "artifacts": [artifact]})
    return pair


def networks(stage: Stage, name: str, mode: str) -> dict[str, Any]:
    """The demo's models once more; but for mode Off with memory for two thirds of their weights (15 MB)."""
    ocr = stage.get("modeldeployment", "ocr") or {}
    spec = copy.deepcopy(ocr["spec"])
    spec["layerwise"] = {"mode": mode} if mode == "Off" else {"mode": mode, "memoryBudgetBytes": 10_000_000}
    metadata = {"name": name, "namespace": stage.namespace}
    return {"apiVersion": ocr["apiVersion"], "kind": ocr["kind"], "metadata": metadata, "spec": spec}


def ask_networks(address: str, *, each: int) -> tuple[dict[str, dict[str, Any]], float]:
    """Each model's outputs for one picture, and the seconds that so many requests to both at a time took."""
    pictures = {"detector": (1, 3, 320, 320), "recognizer": (1, 3, 48, 320)}
    outputs: dict[str, dict[str, Any]] = {}

    def ask(model: str) -> None:
        tensor = httpclient.InferInput("x", list(pictures[model]), "UINT8")
        tensor.set_data_from_numpy(np.random.default_rng(5).integers(0, 256, pictures[model], np.uint8))
        with contextlib.closing(httpclient.InferenceServerClient(address, network_timeout=120)) as client:
            for _ in range(each):
                answer = client.infer(model, [tensor])
                names = [output["name"] for output in answer.get_response()["outputs"]]
                outputs[model] = {name: answer.as_numpy(name) for name in names}

    begin = time.monotonic()
    with ThreadPoolExecutor(2) as callers:
        list(callers.map(ask, pictures))
    return outputs, time.monotonic() - begin


async def serve_both(base: str, *, each: int) -> float:
    """Seconds until so many requests per model, from two clients per model, have their right answers."""
    left = Counter({"compute": each, "weights": each})

    async def client(session: aiohttp.ClientSession, model: str) -> None:
        while left[model] > 0:
            left[model] -= 1
            async with session.post(f"{base}/v2/models/{model}/infer", json=BODY) as answer:
                assert answer.status == 200, await answer.text()
                assert (await answer.json())["outputs"][0]["data"] == [2]

    begin = time.monotonic()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as clients:
        for model in ("compute", "weights"):
            for _ in range(2):
                clients.create_task(client(session, model))
    return time.monotonic() - begin


def assert_equal_records(given: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """The same records in the same order; floats within 1e-3, all else byte for byte (jobs.md)."""
    assert [record["id"] for record in given] == [record["id"] for record in wanted]
    assert len({record["id"] for record in given}) == len(given)
    for one, other in zip(given, wanted, strict=True):
        assert_close(one, other, at=str(one["id"]))


def assert_close(one: Any, other: Any, *, at: str) -> None:
    """Equal, floats within 1e-3."""
    if isinstance(one, float) and isinstance(other, float | int):
        assert math.isclose(one, other, abs_tol=1e-3, rel_tol=1e-3), at
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), at
        for key in one:
            assert_close(one[key], other[key], at=f"{at}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), at
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_close(left, right, at=f"{at}[{index}]")
    else:
        assert one == other, at


@pytest.mark.soak
def test_two_minutes_without_a_write_after_the_kills(stage: Stage) -> None:
    disturb(stage, "ocr-disturbed-again", folder="disturbed-again")
    stage.await_condition("modeldeployment", "ocr", "Ready", timeout_s=180)
    since = datetime.now(UTC) + timedelta(seconds=15)
    time.sleep(135)
    assert stage.operator_writes(since=since) == []
