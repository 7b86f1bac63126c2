"""A model that hangs, in real processes: its runtime is killed, its neighbours and its innocent callers get answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.protocol.serving import Served, serving, started
from tests.sidecar.misbehaving import HANG, SPIN, answer_of, ask, odd_manifest, odd_model

LIMITS = {"runMilliseconds": 1000, "loadMilliseconds": 2000}


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = [odd_model("odd", limits=LIMITS), odd_model("good")]
    with serving(tmp_path_factory.mktemp("hangs"), odd_manifest("hangs", models)) as served:
        yield served


def metric(served: Served, name: str, model: str) -> float:
    lines = served.get("/metrics")[2].decode().splitlines()
    wanted = f'{name}{{model="{model}",'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(wanted))


@pytest.mark.parametrize("code", [HANG, SPIN], ids=["asleep", "in C code that holds the interpreter's lock"])
def test_in_a_batch(hanging: Served, code: int) -> None:
    before = hung(hanging)
    with ThreadPoolExecutor(8) as pool:
        bad = pool.submit(ask, hanging, "odd", code)
        time.sleep(0.3)
        mates = [pool.submit(ask, hanging, "odd", 0) for _ in range(3)]
        neighbours = [pool.submit(ask, hanging, "good", 0) for _ in range(3)]
        late = pool.submit(ask, hanging, "good", 0, timeout=300_000).result()
        in_time = hung(hanging) == before
        for each in (*mates, *neighbours):
            assert each.result()[0] == 200
    status, answer = bad.result()
    assert status == 500
    assert "quarantined" in answer["error"]
    assert "longer than its limit of 1 s" in answer["error"]
    assert hung(hanging) == before + 2
    assert answer_of(ask(hanging, "odd", 0)[1]).tolist() == [[0, 1]]
    # Where the machine held us up until the hang was over, there was nothing to be late for.
    assert late[0] == 504 or not in_time, late


def hung(served: Served) -> float:
    return metric(served, "batchwright_hung_total", "odd")


def test_in_a_load(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.touch()
    (tmp_path / "hang-in-load").touch()
    models = [odd_model("first"), odd_model("stuck", marker.as_uri(), limits=LIMITS), odd_model("last")]
    path = tmp_path / "deployment.yaml"
    path.write_text(yaml.safe_dump_all(odd_manifest("stuck", models)))
    with started(path) as served:
        state = _until(served, lambda each: each["stuck"]["state"] == "Failed" and each["last"]["state"] == "Ready")
        assert "has taken 2.0 s, longer than its limit of 2 s" in state["stuck"]["message"]
        assert [ask(served, name, 0)[0] for name in ("first", "last", "stuck")] == [200, 200, 503]


def test_in_an_unload_by_request(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.touch()
    models = [odd_model("odd", marker.as_uri(), limits=LIMITS), odd_model("good")]
    documents = odd_manifest("close", models, repositoryControl=True)
    with serving(tmp_path, documents) as served:
        (tmp_path / "hang-in-close").touch()
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            unloading = pool.submit(served.get, "/v2/repository/models/odd/unload", b"{}")
            time.sleep(0.2)
            assert ask(served, "good", 0)[0] == 200
            assert unloading.result()[0] == 200
        assert time.monotonic() - began > 1.8
        assert metric(served, "batchwright_hung_total", "odd") == 1
        assert [ask(served, name, 0)[0] for name in ("good", "odd")] == [200, 404]


def _until(served: Served, holds: Any) -> dict[str, Any]:
    revision, end = -1, time.monotonic() + 60
    while time.monotonic() < end:
        state = served.state(after=revision, waitSeconds=10)
        models = {each["name"]: each for each in state["models"]}
        if models and holds(models):
            return models
        revision = state["revision"]
    raise AssertionError(state)
