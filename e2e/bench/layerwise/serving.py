"""Two models whose weights exceed the memory, served on this machine with layerwise off and on under one load.

    python -m e2e.bench.layerwise.serving [--seconds 20] [--clients 2]

Off: the sidecar loads and unloads whole models within the same memory (runtimes[].memoryBudgetBytes); on: it streams
their layers within layerwise.memoryBudgetBytes. Closed loop, so many clients per model, every answer compared bit by
bit with the first of its model. Prints requests per second and latencies per model, and what /metrics says of the
engines.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from batchwright_worker.layerwise.tools.samples import write_conv, write_wide
from batchwright_worker.local.deployment import local_deployment
from batchwright_worker.local.processes import LocalPorts, LocalServing, served
from e2e.bench.networks.served import binary_body

SHAPES: Final = {"resnet50": ("images", (3, 224, 224)), "wide": ("x", (4096,))}
MODES: Final = ("Off", "Balanced", "Literal")


@dataclass(slots=True)
class Heard:
    """What the clients of one model saw."""

    latencies_s: list[float] = field(default_factory=list)
    answers: set[bytes] = field(default_factory=set)
    refused: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=2, help="per model")
    parser.add_argument("--layers", type=int, default=6, help="of the wide model, 64 MiB each")
    parser.add_argument("--memory", type=int, default=256 << 20, help="bytes for weights")
    parser.add_argument("--whole-memory", type=int, default=520 << 20, help="of the whole process with mode Off")
    parser.add_argument("--modes", nargs="*", default=list(MODES))
    asyncio.run(_compare(parser.parse_args()))


async def _compare(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="batchwright-bench-") as folder:
        files = {"resnet50": Path(folder) / "resnet50.onnx", "wide": Path(folder) / "wide.onnx"}
        write_conv(files["resnet50"])
        write_wide(files["wide"], layers=options.layers)
        for mode in options.modes:
            document = deployment(files, mode, options)
            async with served(local_deployment([document], None, None, {}), LocalPorts()) as here:
                await _ready(here)
                await _load(here, 3.0, options.clients)
                heard = await _load(here, options.seconds, options.clients)
                _tell(mode, heard, options.seconds)
                await _tell_engines(here)


def deployment(files: Mapping[str, Path], mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both models; the same memory for weights in every mode."""
    layerwise = {"mode": mode} if mode == "Off" else {"mode": mode, "memoryBudgetBytes": options.memory}
    runtime = {"accelerator": "cpu", **({"memoryBudgetBytes": options.whole_memory} if mode == "Off" else {})}
    models = [
        {"name": name, "artifacts": [{"format": "onnx", "uri": path.as_uri()}], "batching": {"maxSize": 4}}
        for name, path in files.items()
    ]
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "pair"},
        "spec": {"models": models, "runtimes": [runtime], "layerwise": layerwise},
    }


async def _ready(here: LocalServing) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{here.url}/v2/health/ready") as answer:
                if answer.status == 200:
                    return
            if here.ended.done():
                raise SystemExit(here.ended.result())
            await asyncio.sleep(0.2)


async def _load(here: LocalServing, seconds: float, clients: int) -> dict[str, Heard]:
    heard = {name: Heard() for name in SHAPES}
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for name in SHAPES:
            for _ in range(clients):
                group.create_task(_client(here, name, heard[name], until))
    return heard


async def _client(here: LocalServing, model: str, heard: Heard, until: float) -> None:
    tensor, shape = SHAPES[model]
    length, body = binary_body({tensor: np.random.default_rng(3).standard_normal((1, *shape), dtype=np.float32)})
    headers = {"Inference-Header-Content-Length": str(length), "Content-Type": "application/octet-stream"}
    async with aiohttp.ClientSession() as session:
        while (begin := time.monotonic()) < until:
            async with session.post(f"{here.url}/v2/models/{model}/infer", data=body, headers=headers) as answer:
                got = await answer.read()
                start = int(answer.headers.get("Inference-Header-Content-Length", "0"))
                if answer.status == 200:
                    heard.latencies_s.append(time.monotonic() - begin)
                    heard.answers.add(got[start:])
                else:
                    heard.refused += 1
                    await asyncio.sleep(0.05)


def _tell(mode: str, heard: Mapping[str, Heard], seconds: float) -> None:
    for model, each in heard.items():
        times = sorted(each.latencies_s) or [float("nan")]
        p50, p95 = statistics.median(times), times[int(0.95 * (len(times) - 1))]
        print(
            f"{mode:9} {model:9} {len(each.latencies_s) / seconds:7.2f}/s  p50 {p50 * 1e3:6.0f} ms "
            f" p95 {p95 * 1e3:6.0f} ms  refused {each.refused}  different answers {len(each.answers)}",
            flush=True,
        )


async def _tell_engines(here: LocalServing) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{here.url}/metrics") as answer:
        text = await answer.text()
    words = ("batchwright_engine_", "batchwright_weights_", "batchwright_decision_", "batchwright_model_loads_total")
    for line in text.splitlines():
        if line.startswith(words) and "_created" not in line:
            print(f"          {line}", flush=True)


if __name__ == "__main__":
    main()
