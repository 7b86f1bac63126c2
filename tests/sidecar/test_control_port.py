"""The control port: state by long-poll with the token, load, unload, drain; and how serve ends."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.protocol.serving import Served, emulated_model, fetched, held, held_model, manifest, serving


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of this module's own; every test leaves its models loaded."""
    models = [emulated_model("a", fixed_ms=20), emulated_model("b", fixed_ms=20)]
    with serving(tmp_path_factory.mktemp("own"), manifest("own", models)) as served:
        yield served


def control(served: Served, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
    """GET, or POST where there is a body."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{served.control}{path}", data=data, headers=headers)
    status, _, answer = fetched(request)
    return status, json.loads(answer)


def infer(served: Served, model: str) -> tuple[int, dict[str, Any]]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [0, 0, 0, 1, 0, 0, 0, 0]}
    status, _, answer = served.get(f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}).encode())
    return status, json.loads(answer)


def put_configuration(served: Served, body: bytes, token: str | None) -> tuple[int, Any]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"http://127.0.0.1:{served.control}/v1/configuration"
    status, _, answer = fetched(urllib.request.Request(url, data=body, headers=headers, method="PUT"))
    return status, json.loads(answer)


def configuration(generation: int = 2, name: str = "own", **parts: Any) -> bytes:
    """That of `own`, with other parts of model a."""
    models = [{**emulated_model("a", fixed_ms=20), **parts}, emulated_model("b", fixed_ms=20)]
    [document, _] = manifest(name, models)
    document["metadata"] |= {"namespace": "default", "generation": generation}
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/state", None), ("/v1/load", {"model": "slow"}), ("/v1/unload", {"model": "slow"})]
)
@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_without_the_token_nothing_is_told_or_done(served: Served, path: str, body: Any, token: str | None) -> None:
    status, answer = control(served, path, body, token)
    assert status == 401
    assert "Authorization: Bearer" in answer["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("/v1/state?after=x", None, 400, "'after'"),
        ("/v1/load", {"models": "slow"}, 400, "model"),
        ("/v1/unload", {"model": "nope"}, 404, "unknown model: 'nope'"),
        ("/v1/nothing", None, 404, "/v1/state"),
    ],
)
def test_bad_control_requests_say_what_to_send(served: Served, path: str, body: Any, status: int, word: str) -> None:
    found, answer = control(served, path, body, served.token)
    assert found == status
    assert word in answer["error"]


def test_state_tells_models_and_devices(served: Served) -> None:
    state = served.state()
    assert state["ready"] is True
    assert {"linear", "slow"} <= {model["name"] for model in state["models"]}
    assert state["devices"][0]["kind"] == "cpu"


def test_a_poll_waits_for_news_and_returns_at_once_with_them(own: Served) -> None:
    revision = own.state()["revision"]
    began = time.monotonic()
    assert own.state(after=revision, waitSeconds=0.3)["revision"] == revision
    assert time.monotonic() - began >= 0.3
    with ThreadPoolExecutor(1) as pool:
        polled = pool.submit(own.state, after=revision, waitSeconds=60)
        assert control(own, "/v1/unload", {"model": "a"}, own.token)[0] == 200
        assert polled.result(60)["revision"] > revision
    assert time.monotonic() - began < 50
    assert control(own, "/v1/load", {"model": "a"}, own.token)[0] == 200


def test_an_unloaded_model_is_unknown_until_it_is_loaded(own: Served) -> None:
    assert control(own, "/v1/unload", {"model": "a"}, own.token)[0] == 200
    status, answer = infer(own, "a")
    assert status == 404
    assert "unloaded" in answer["error"]
    assert infer(own, "b")[0] == 200
    assert control(own, "/v1/load", {"model": "a"}, own.token)[0] == 200
    assert infer(own, "a")[0] == 200


def test_a_new_configuration_is_in_force_at_once_and_no_request_under_way_is_lost(own: Served) -> None:
    began = own.state()["configuration"]
    assert put_configuration(own, configuration(), None)[0] == 401
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(infer, own, "a") for _ in range(200)]
        for size in range(2, 12):
            body = configuration(size, batching={"maxSize": size}, targets={"latencyMilliseconds": 60_000 + size})
            status, answer = put_configuration(own, body, own.token)
            assert (status, answer["generation"]) == (200, size)
        assert {future.result()[0] for future in asked} == {200}
    said = own.state()
    assert said["configuration"] == {"generation": 11, "digest": answer["digest"], "message": ""}
    assert said["configuration"]["digest"] != began["digest"]
    assert said["models"][0]["tuning"]["targetMilliseconds"] == 60_011
    assert json.loads(own.get("/v2/models/a/config")[2])["max_batch_size"] == 11
    assert put_configuration(own, configuration(12), own.token)[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{}", 400, "no ModelDeployment"),
        (configuration(name="other"), 409, "metadata"),
        (configuration(warmup={"mode": "Skip"}), 409, "spec.models[a].warmup"),
        (b" " * ((2 << 20) + 1), 413, ""),
    ],
)
def test_a_configuration_that_is_wrong_or_needs_another_pod_changes_nothing(
    own: Served, body: bytes, status: int, word: str
) -> None:
    before = own.state()["configuration"]["digest"]
    found, answer = put_configuration(own, body, own.token)
    assert found == status
    assert word in answer["error"]
    assert own.state()["configuration"]["digest"] == before


@pytest.mark.slow
def test_drain_makes_unready_and_finishes_what_it_has(tmp_path: Path) -> None:
    documents = manifest("drain", [held_model(tmp_path, maxSize=1)])
    with serving(tmp_path, documents, "--sidecar-option=--linger-seconds=1") as own:
        with ThreadPoolExecutor(5) as pool:
            with held(own):
                asked = [pool.submit(infer, own, "held") for _ in range(3)]
                wait_for(lambda: pending(own, "held") == 3)
                drained = pool.submit(control, own, "/v1/drained")
                began = time.monotonic()
                draining = pool.submit(control, own, "/v1/drain")
                wait_for(lambda: own.get("/v2/health/ready")[0] == 503)
                assert own.get("/v2/health/live")[0] == 200
                assert not own.state()["ready"]
            lingers = infer(own, "held")[0]
            assert lingers == 200 or time.monotonic() - began > 1, "it still serves while it lingers"
            assert [future.result()[0] for future in asked] == [200, 200, 200]
            assert draining.result() == (200, {"drained": True})
            assert drained.result() == (200, {"drained": True})
        status, answer = infer(own, "held")
        assert status == 503
        assert "stopping" in answer["error"]
        assert own.stop(signal.SIGTERM) < 8
    assert own.process.returncode == 0


def wait_for(holds: Any) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline


def test_drained_does_not_drain(own: Served) -> None:
    assert control(own, "/v1/drained?waitSeconds=0.1") == (503, {"drained": False})
    assert infer(own, "a")[0] == 200


@pytest.mark.slow
def test_serve_ends_clean_and_answers_what_runs(tmp_path: Path) -> None:
    with serving(tmp_path, manifest("end", [held_model(tmp_path)])) as own:
        children = psutil.Process(own.process.pid).children(recursive=True)
        with ThreadPoolExecutor(1) as pool:
            with held(own):
                asked = pool.submit(infer, own, "held")
                wait_for(lambda: pending(own, "held") == 1)
                own.process.send_signal(signal.SIGINT)
            began = time.monotonic()
            own.process.wait(60)
            assert time.monotonic() - began < 8
            assert asked.result()[0] == 200
    assert own.process.returncode == 0
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert not list(Path("/dev/shm").glob(f"batchwright-{own.process.pid}-*"))


def pending(served: Served, model: str) -> float:
    """Requests that wait or run."""
    label = f'nv_inference_pending_request_count{{model="{model}",'
    lines = served.get("/metrics")[2].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(label))


@pytest.mark.slow
def test_nothing_survives_a_killed_serve(tmp_path: Path) -> None:
    with serving(tmp_path, manifest("killed", [emulated_model("a", fixed_ms=1)])) as killed:
        children = psutil.Process(killed.process.pid).children(recursive=True)
        assert len(children) >= 3
        killed.process.kill()
        gone, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert len(gone) == len(children)


@pytest.mark.slow
def test_a_dead_sidecar_ends_serve_with_its_reason(tmp_path: Path) -> None:
    with serving(tmp_path, manifest("dead", [emulated_model("a", fixed_ms=1)])) as dead:
        children = psutil.Process(dead.process.pid).children()
        sidecar = next(child for child in children if "sidecar" in child.cmdline())
        os.kill(sidecar.pid, signal.SIGKILL)
        dead.process.wait(60)
    assert dead.process.returncode == 1


def test_two_polls_at_once_are_both_answered(served: Served) -> None:
    states: list[Any] = []
    threads = [threading.Thread(target=lambda: states.append(served.state(after=-1, waitSeconds=5))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(states) == 8
