"""Twenty placements in a row on two real nodes, each just after a benchmark and a preparation Job on the fast one.

Nodes, kubelets, pods and agents are real; the decisions are those of the product on what the agents tell. Beside the
window's rule the momentary one decides on the same scrapes.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, NODE, POD
from batchwright_operator.placement.reconciler import KEY, PlacementReconciler
from batchwright_operator.reconcile.decisions import Key, Patch
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.settings import Settings
from batchwright_operator.telemetry.agents import parse
from batchwright_operator.telemetry.collector import TelemetryBackground
from batchwright_worker.api.names import ANNOTATION_KIND, LABEL_BENCHMARK
from e2e.cluster import Cluster
from e2e.cluster.build.images import build_image
from e2e.cluster.machine.ports import free_port
from e2e.cluster.spec import NodeSpec
from e2e.cluster.testing import PROBE_IMAGE, make_cluster
from tests.placement.placement_objects import Facts, bound_to, deployment, pod, profile

__all__ = ["make_cluster"]
pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(900)]

ROUNDS = 20
BURN_S = 4.0
SCRAPE_S = 3.0
BURN = f"import time; t = time.time()\nwhile time.time() - t < {BURN_S}: pass"
PODS = "/api/v1/namespaces/default/pods"


class Queue:
    def add(self, key: Key, *, after_s: float = 0.0) -> None:
        """Nobody waits here."""


class Agents:
    """Real agents of the nodes, as processes, and a `Source` of what they tell."""

    def __init__(self, cluster: Cluster) -> None:
        self.ports = {name: free_port() for name in cluster.nodes}
        self.processes = [
            subprocess.Popen([
                sys.executable, "-m", "batchwright_worker", "agent", "--host=127.0.0.1", f"--port={port}",
                f"--node={name}", f"--cgroup-root={cluster.nodes[name].cgroup}",
            ])
            for name, port in self.ports.items()
        ]  # fmt: skip

    async def read(self, store: object) -> dict[tuple[str, str], Sample]:
        found: dict[tuple[str, str], Sample] = {}
        async with aiohttp.ClientSession() as session:
            for name, port in self.ports.items():
                async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                    samples = parse(await response.text(), response.headers.get("Date", ""), time.time())
                found |= {(name, kind): each for kind, each in samples.items() if kind == "cpu"}
        return found

    async def answer(self) -> None:
        """Waits until they serve."""
        for _ in range(60):
            with contextlib.suppress(aiohttp.ClientError):
                await self.read(None)
                return
            await asyncio.sleep(0.5)
        raise AssertionError("the agents do not serve")

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait(60)


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    nodes = (NodeSpec(name="fast", cpus=0.8), NodeSpec(name="slow", cpus=0.4))
    running = make_cluster("twenty", nodes=nodes)
    here = Path(__file__).parents[1] / "cluster"
    image = build_image(PROBE_IMAGE, dockerfile=here / "probe.Dockerfile", context=here, inputs=["probe.Dockerfile"])
    running.load_image(image)
    return running


@pytest.fixture
def agents(cluster: Cluster) -> Iterator[Agents]:
    started = Agents(cluster)
    yield started
    started.end()


def burner(name: str, *, benchmark: bool) -> dict[str, Any]:
    labels = {LABEL_BENCHMARK: "true"} if benchmark else {}
    main = {"name": "benchmark", "image": PROBE_IMAGE, "command": ["python3", "-c", BURN], "imagePullPolicy": "Never"}
    spec = {"nodeName": "fast", "restartPolicy": "Never", "containers": [main], "terminationGracePeriodSeconds": 1}
    return {"metadata": {"name": name, "labels": labels, "annotations": {ANNOTATION_KIND: "cpu"}}, "spec": spec}


class Rule:
    """A collector and placement by one window."""

    def __init__(self, window_s: float) -> None:
        self.settings = Settings(placement_window_seconds=window_s, scrape_interval_seconds=SCRAPE_S)
        self.live = LiveState()
        self.telemetry = TelemetryBackground(self.settings, self.live, aiohttp.ClientSession)

    def place(self, facts: Facts) -> str:
        """The node of a pod that is decided on now."""
        objects = {**facts.objects, POD: [*facts.objects[POD], pod("gated")]}
        reconciler = PlacementReconciler(self.settings, self.live)
        observed = reconciler.observe(Facts(objects), KEY)
        assert observed is not None
        (patch,) = reconciler.decide(observed, time.time()).actions
        assert isinstance(patch, Patch)
        return bound_to(patch)


class Bed:
    """Both rules on the same scrapes of the same nodes."""

    def __init__(self, cluster: Cluster, agents: Agents) -> None:
        self.api, self.agents = cluster.control_plane.api, agents
        self.window, self.moment = Rule(60.0), Rule(0.0)
        nodes = self.api.get("/api/v1/nodes")["items"]
        profiles = [profile("fast", "80.0"), profile("slow", "40.0")]
        self.facts = Facts({ACCELERATOR_PROFILE: profiles, MODEL_DEPLOYMENT: [deployment()], NODE: nodes, POD: []})
        self.scraped_at = 0.0

    async def scrape(self) -> None:
        """As the operator does every few seconds."""
        self.scraped_at = time.monotonic()
        self.facts.objects[POD] = self.api.get("/api/v1/pods")["items"]
        source = Scraped(await self.agents.read(None))
        for rule in (self.window, self.moment):
            await rule.telemetry.refresh(source, self.facts, Queue())

    async def prepare(self, i: int) -> None:
        """A preparation pod and a benchmark on the fast node, to their end."""
        names = [f"prepare-{i}", f"bench-{i}"]
        for name in names:
            self.api.request("POST", PODS, burner(name, benchmark=name.startswith("bench")))
        for _ in range(240):
            await asyncio.sleep(0.25)
            if time.monotonic() - self.scraped_at >= SCRAPE_S:
                await self.scrape()
            phases = [self.api.get(f"{PODS}/{name}")["status"].get("phase") for name in names]
            if phases == ["Succeeded"] * 2:
                break
        assert phases == ["Succeeded"] * 2
        for name in names:
            self.api.delete(f"{PODS}/{name}?gracePeriodSeconds=0")


class Scraped:
    """A `Source` of what was read already."""

    def __init__(self, samples: dict[tuple[str, str], Sample]) -> None:
        self._samples = samples

    async def read(self, store: object) -> dict[tuple[str, str], Sample]:
        return dict(self._samples)


async def test_twenty_placements_after_jobs_and_benchmarks_go_to_the_fast_node(
    cluster: Cluster, agents: Agents
) -> None:
    await agents.answer()
    bed = Bed(cluster, agents)
    for _ in range(3):
        await asyncio.sleep(1.1)
        await bed.scrape()
    window: Counter[str] = Counter()
    moment: Counter[str] = Counter()
    for i in range(ROUNDS):
        await bed.prepare(i)
        window[bed.window.place(bed.facts)] += 1
        moment[bed.moment.place(bed.facts)] += 1
    print("window", dict(window), "newest sample", dict(moment))
    assert window == {"fast": ROUNDS}
