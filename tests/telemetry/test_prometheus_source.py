"""Samples from Prometheus: a real server with node exporter and recorded DCGM scrapes, and servers that misbehave."""

from __future__ import annotations

import asyncio
import http.server
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
import yaml

from batchwright_operator.kube.objects import NODE, Raw
from batchwright_operator.reconcile.live_state import Sample
from batchwright_operator.settings import Settings
from batchwright_operator.telemetry.prometheus import PrometheusSource, PrometheusUnavailable
from e2e.cluster.machine.ports import free_port
from e2e.debian import program
from tests.placement.placement_objects import NOW, Facts, node

SCRAPES = Path(__file__).parent / "scrapes"
Answer = Callable[[str], tuple[int, bytes]]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """An HTTP server whose answers depend on the path and query; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def read(
    url: str, *nodes: Raw, timeout_s: float = 5.0, clock: Callable[[], float] = time.time
) -> dict[Any, Sample]:
    settings = Settings(prometheus_url=url, prometheus_timeout_seconds=timeout_s)
    return dict(await PrometheusSource(settings, clock).read(Facts({NODE: list(nodes)})))


def gpu_node() -> Raw:
    return node("gpu-node-1", **{"nvidia.com/gpu": "3"})


# --- a server that lies, or does not answer -----------------------------------------------------------


def api(server_now: float, *series: tuple[str, float, float]) -> Answer:
    """Prometheus' instant queries for one GPU's series (name, value, sampled at) by a server at this time."""

    def answer(path: str) -> tuple[int, bytes]:
        query = parse_qs(urlsplit(path).query)["query"][0]
        if query == "time()":
            result: Any = [server_now, str(server_now)]
        elif query.startswith("{__name__"):
            labels = {"UUID": "GPU-1", "hostname": "gpu-node-1"}
            result = [{"metric": {"__name__": name, **labels}, "values": [[at - 5, "0"], [at, str(value)]]}
                      for name, value, at in series]  # fmt: skip
        else:
            result = []
        return 200, json.dumps({"status": "success", "data": {"result": result}}).encode()

    return answer


def gpu(at: float, busy: float = 50.0) -> list[tuple[str, float, float]]:
    memory = [("DCGM_FI_DEV_FB_USED", 1.0, at), ("DCGM_FI_DEV_FB_FREE", 3.0, at)]
    return [("DCGM_FI_DEV_GPU_UTIL", busy, at), *memory]


@pytest.mark.parametrize("skew_s", [-7200.0, 0.0, 7200.0])
async def test_age_is_by_the_servers_own_clock(skew_s: float) -> None:
    with serving(api(NOW + skew_s, *gpu(NOW + skew_s - 12))) as url:
        found = await read(url, gpu_node(), clock=lambda: NOW)
    (sample,) = found.values()
    assert (sample.utilization, sample.memory_utilization) == (0.5, 0.25)
    assert NOW - sample.taken_at == pytest.approx(12)


@pytest.mark.parametrize(
    "series",
    [gpu(NOW + 60), gpu(NOW, busy=9223372036854775794.0), gpu(NOW, busy=250.0), gpu(NOW)[:1]],
    ids=["from the future", "sentinel", "more than all", "memory absent"],
)
async def test_values_that_cannot_be_make_no_sample(series: list[tuple[str, float, float]]) -> None:
    with serving(api(NOW, *series)) as url:
        assert await read(url, gpu_node(), clock=lambda: NOW) == {}


@pytest.mark.parametrize(
    "answer",
    [lambda path: (503, b"starting"), lambda path: (200, b"<html>"), lambda path: (200, b'{"data": {}}')],
    ids=["unavailable", "no JSON", "no result"],
)
async def test_nonsense_is_unavailable(answer: Answer) -> None:
    with serving(answer) as url, pytest.raises(PrometheusUnavailable, match=r"127\.0\.0\.1"):
        await read(url, gpu_node())


async def test_server_that_is_down_is_unavailable() -> None:
    with pytest.raises(PrometheusUnavailable):
        await read("http://127.0.0.1:9", gpu_node())


async def test_slow_server_is_given_up_and_never_asked_twice_at_once() -> None:
    release = threading.Event()
    asked: list[str] = []

    def answer(path: str) -> tuple[int, bytes]:
        asked.append(path)
        release.wait(60)
        return 503, b""

    with serving(answer) as url:
        source = PrometheusSource(Settings(prometheus_url=url, prometheus_timeout_seconds=0.2))
        facts = Facts({NODE: [gpu_node()]})
        for _ in range(5):  # the machine may hold us up until nobody need ask any more
            with pytest.raises(PrometheusUnavailable):
                await source.read(facts)
            if asked:
                break
        assert len(asked) == 1
        release.set()


# --- the real thing -----------------------------------------------------------------------------------


@contextmanager
def running(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[str]:
    """A Prometheus that scrapes a node exporter and the recorded DCGM scrape, every second."""
    exporter, port = free_port(), free_port()
    with serving(lambda path: (200, (SCRAPES / "dcgm.prom").read_bytes())) as dcgm:
        jobs = {"node": f"127.0.0.1:{exporter}", "dcgm": urlsplit(dcgm).netloc}
        scrape = [{"job_name": name, "static_configs": [{"targets": [target]}]} for name, target in jobs.items()]
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": scrape}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        with (
            running(program("prometheus-node-exporter"), f"--web.listen-address=127.0.0.1:{exporter}",
                    "--collector.disable-defaults", "--collector.cpu", "--collector.meminfo"),
            running(program("prometheus"), f"--config.file={tmp_path / 'prometheus.yml'}",
                    f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}"),
        ):  # fmt: skip
            yield f"http://127.0.0.1:{port}"


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=10) as found:
            return bool(found.status == 200)
    except OSError:
        return False


@pytest.mark.slow
async def test_real_prometheus_with_node_exporter_and_dcgm(prometheus: str) -> None:
    me = node("me")
    me["status"]["addresses"] = [{"type": "InternalIP", "address": "127.0.0.1"}]
    deadline = time.monotonic() + 60
    found: dict[Any, Sample] = {}
    while len(found) < 2 and time.monotonic() < deadline:
        if answers(prometheus):
            found = await read(prometheus, me, gpu_node())
        await asyncio.sleep(0.5)
    assert found["gpu-node-1", "nvidia.com/gpu"].utilization == pytest.approx(0.5)  # the sentinel's GPU is left out
    assert len(found["gpu-node-1", "nvidia.com/gpu"].devices) == 2
    cpu = found["me", "cpu"]
    assert 0 < cpu.utilization <= 1
    memory = psutil.virtual_memory()
    assert cpu.memory_utilization == pytest.approx(1 - memory.available / memory.total, abs=0.1)
    assert all(time.time() - sample.taken_at < 60 for sample in found.values())
