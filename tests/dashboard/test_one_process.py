"""The page of one process: what sidecars and runners say, as an overview; and the page of a real `run`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import msgspec
import pytest

from batchwright_worker.api.messages import (
    BoundsState,
    ChangeState,
    DeviceState,
    HoldState,
    ModelState,
    SidecarState,
    TuningState,
)
from batchwright_worker.dashboard.overview import TaskView
from batchwright_worker.local.overview import JobHere, ServedHere, overview_here

ROOT = Path(__file__).resolve().parents[2]
NOW = 1000.0
BOUNDS = BoundsState(size=8, knee=16, reach=16, in_time=9, fair_share=64, memory=64, cap=8, bound_by="Size")
TUNING = TuningState(
    controller="Fitted", usually=HoldState(reason="TargetMet", rule="StopRule"), proposed_size=8,
    p95_milliseconds=40.0, target_milliseconds=100.0, bounds=BOUNDS,
)  # fmt: skip
MODEL = ModelState(
    name="argmax", state="Ready", batch_size=8, throughput=50.0, queue_length=2, tuning=TUNING,
    changes=[ChangeState(time=990.0, from_size=4, to_size=8, reason="LatencyBelowTarget", message="p95 20 ms")],
)  # fmt: skip
DEVICE = DeviceState(kind="cpu", device="0", busy_ratio=0.25, memory_used_bytes=1, memory_bytes=4)
STATE = SidecarState(revision=1, time=NOW, ready=True, models=[MODEL], devices=[DEVICE])
SERVED = ServedHere(name="largest", kind="cpu", url="http://127.0.0.1:1", document={"metadata": {}}, state=STATE)
JOB = JobHere(
    name="pages", namespace="ocr", output="file:///out", total=10, shards=2, shards_done=[0], succeeded=5, rate=2.0,
    tasks=[TaskView(name="page", kind="CPU", succeeded=5)],
)  # fmt: skip


def test_a_served_model_is_shown_with_what_holds_its_batch_size() -> None:
    seen = overview_here("largest", NOW, [SERVED], None)
    assert (seen.source, seen.level, seen.headline) == ("process", "ok", "All is well")
    (deployment,) = seen.deployments
    (model,) = deployment.models
    assert (deployment.id, deployment.ready) == ("default/largest", 1)
    assert (model.batch_size, model.p95, model.target, model.queue) == (8, 40.0, 100.0, 2)
    assert (model.held_because, model.bound_by, model.knee) == ("TargetMet", "Size", None)
    assert [(each.utilization, each.memory) for each in seen.processors] == [(0.25, 0.25)]
    assert [each.text for each in seen.changes] == ["argmax: batch size 4 -> 8: p95 20 ms"]


def test_a_model_that_failed_is_to_be_acted_on() -> None:
    broken = msgspec.structs.replace(MODEL, state="Failed", message="no ONNX model")
    state = msgspec.structs.replace(STATE, ready=False, models=[broken])
    served = ServedHere(name="x", kind="cpu", url="", document={"metadata": {}}, state=state)
    seen = overview_here("x", NOW, [served], None)
    assert (seen.level, seen.findings[0].text) == ("error", "no ONNX model")


def test_before_the_sidecar_answers_it_is_under_way() -> None:
    seen = overview_here("x", NOW, [ServedHere(name="x", kind="cpu", url="", document={"metadata": {}})], None)
    assert (seen.level, seen.deployments[0].reason, seen.processors) == ("busy", "ModelLoading", [])


@pytest.mark.parametrize(
    ("job", "level", "reason", "eta"),
    [
        (JOB, "busy", "Running", 2.5),
        (JobHere(name="p", namespace="n", output="", total=4, shards=1, succeeded=1, failed=1, rate=1.0),
         "warning", "Running", 2.0),
        (JobHere(name="p", namespace="n", output="", total=4, shards=1, succeeded=4, ended_at=NOW),
         "ok", "Completed", None),
    ],
    ids=["running", "with a failed item", "complete"],
)  # fmt: skip
def test_a_job_is_shown_with_what_is_left(job: JobHere, level: str, reason: str, eta: float | None) -> None:
    (view,) = overview_here("x", NOW, [], job).jobs
    assert (view.level, view.reason, view.eta_s) == (level, reason, eta)


@pytest.mark.slow
def test_a_run_shows_itself_while_it_runs(tmp_path: Path) -> None:
    """A thousand items through the emulated model: the page's events tell of them before they are through."""
    items = tmp_path / "items"
    items.mkdir()
    lines = (json.dumps({"id": f"i{n}", "numbers": [n % 5, 1, 3]}) for n in range(2000))
    (items / "items.jsonl").write_text("\n".join(lines) + "\n")
    job = (ROOT / "examples" / "local" / "job.yaml").read_text()
    (tmp_path / "job.yaml").write_text(re.sub(r"pvc://data/[\w./-]+", "pvc://data/items", job))
    command = [sys.executable, "-m", "batchwright_worker", "run", "--dashboard", "--quiet"]
    command += ["-f", str(tmp_path / "job.yaml"), "-f", str(ROOT / "examples" / "local" / "deployment.yaml")]
    command += ["--functions", str(ROOT / "examples" / "local"), "--volume", f"data={tmp_path}"]
    command += ["--volume", f"results={tmp_path}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            seen = _first_job(process)
            out, problems = process.communicate(timeout=120)
        finally:
            process.kill()
    assert seen == ["Running"]
    assert process.returncode == 0, problems
    assert "2000 of 2000 items succeeded" in out


def _first_job(process: subprocess.Popen[str]) -> list[str]:
    """The reasons of the jobs that the page is told of first."""
    assert process.stderr is not None
    line = next(each for each in process.stderr if each.startswith("dashboard: "))
    address, _, token = line.removeprefix("dashboard: ").strip().partition("#")
    with urllib.request.urlopen(f"{address}events?token={token}", timeout=60) as events:
        for raw in events:
            if raw.startswith(b"data: {") and b'"jobs"' in raw and b'"set"' in raw:
                return [each["reason"] for each in json.loads(raw[6:])["set"]["jobs"].values()]
    return []
