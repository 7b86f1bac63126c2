"""Other people's pods: the operator's memory where nearly nothing in the cluster is ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from e2e.bench.scale import bed as beds
from e2e.bench.scale.cases import Result

WRITERS = 6
_NODES = 20


def foreign(folder: Path, *, quick: bool, say: Any) -> Iterator[Result]:
    """Pods of five kB each on nodes without a kubelet; the operator starts when all are there."""
    count = 6000 if quick else 30000
    with beds.made(folder, nodes=0, quick=quick, say=say) as bed:
        for number in range(_NODES):
            bed.api.request("POST", "/api/v1/nodes", {"metadata": {"name": f"elsewhere-{number}"}})
        pods = [_pod(number) for number in range(count)]
        path = f"/api/v1/namespaces/{beds.SPACES[0]}/pods"
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda first: bed.api.create_all(path, pods[first::WRITERS]), range(WRITERS)))
        size = len(str(bed.api.get(f"{path}/foreign-0")))
        say(f"{count} foreign pods of {size} bytes")
        with bed.operator() as operator:
            deadline = time.monotonic() + 120
            while "leading as" not in operator.text() and time.monotonic() < deadline:
                time.sleep(0.1)
            start_s = time.monotonic() - operator.began
            time.sleep(15)
            resident, peak = operator.resident_mib(), operator.peak_mib()
            led = "leading as" in operator.text()
    yield Result(
        name=f"{count} foreign pods", asked="resident <= 250 MiB, peak at start <= 350 MiB",
        seen=f"resident {resident:.0f} MiB, peak {peak:.0f} MiB; leads after {start_s:.1f} s",
        ok=led and resident <= 250 and peak <= 350,
        figures={"resident_mib": resident, "peak_mib": peak, "leads_after_s": start_s},
    )  # fmt: skip


def _pod(number: int) -> dict[str, Any]:
    """An ordinary pod of two containers, as somebody else's Deployment would make it."""
    environment = [{"name": f"SETTING_{index}", "value": f"value-{number}-{index}-" + "x" * 40} for index in range(20)]
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    containers = [
        {"name": name, "image": f"registry.example.org/team/{name}:v1.2.3", "env": environment[:size],
         "resources": resources, "readinessProbe": probe, "livenessProbe": probe}
        for name, size in (("app", 20), ("proxy", 8))
    ]  # fmt: skip
    labels = {"app": f"app-{number % 500}", "team": f"team-{number % 20}", "pod-template-hash": f"{number % 500:08x}"}
    metadata = {"name": f"foreign-{number}", "labels": labels, "annotations": {"example.org/checksum": "f" * 64}}
    return {"metadata": metadata, "spec": {"nodeName": f"elsewhere-{number % _NODES}", "containers": containers}}
