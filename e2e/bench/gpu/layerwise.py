"""Acceptance 9 of layer-by-layer serving, in one command on a machine with a CUDA GPU (and nothing else on it).

    python -m e2e.bench.gpu.layerwise [--arena-gib 2] [--requests 6] [--repeat 5] [--quick] [--dry-run]

A network bound by compute (ResNet-50, the batch chosen so that it computes for as long as the other is copied) and one
bound by its weights (residual layers of 8192 x 8192), both of random weights and together larger than the arena. Told:
the GPU, copy bandwidth with and without compute, co-run factors, makespans of balanced, literal, FIFO (same arena, same
kernels, prefetch across requests: PipeSwitch's order), of whole models that sleep in pinned memory and are woken before
they run (as vLLM's sleep mode keeps them), and of everything resident (the ceiling), system throughput against the LP
bound with the co-run costs, replay error, peak, equality with the networks run alone. Exit status 1: a bar was missed.

`--dry-run` does all of that on a stand-in for the GPU (`stand_in`), which has no figures to tell: only the device is
missing then. It fails where the run would fail: answers that differ, memory above the arena, an error on the way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from batchwright_worker.api.accelerators import NVIDIA
from batchwright_worker.api.names import KIND_CPU
from batchwright_worker.backends.base import Host
from batchwright_worker.backends.torch_values import tensor_of
from batchwright_worker.benchmark import reference_model as resnet
from batchwright_worker.benchmark.engines.torch import TensorOps
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.inference.requests import Array
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.core.steps import steps_of_seconds
from batchwright_worker.layerwise.execution.cuda import CudaAccelerator
from batchwright_worker.layerwise.execution.cuda_profiler import timed
from batchwright_worker.layerwise.execution.planner import UnitPlans
from batchwright_worker.layerwise.networks.torch import TorchUnits, open_torch, run_unit, views
from batchwright_worker.layerwise.profiling.profiler import Effort, example_inputs
from batchwright_worker.layerwise.tools.bound import stp_bound
from batchwright_worker.layerwise.tools.comparison import Trial, TrialRequest, policy_named, run_streamed
from e2e.bench.gpu.stand_in import StandIn

BARS: Final = {"over_fifo": 1.2, "over_sleep": 1.5, "of_bound": 0.85, "replay_error": 0.03}


SHOWN_DRY: Final = ("peak", "equal")
"""What holds whatever the device's speed."""


class Wide(nn.Module):  # type: ignore[misc] # torch is untyped here
    """Much to copy, little to compute."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


class Conv(nn.Module):  # type: ignore[misc] # torch is untyped here
    """ResNet-50, the reference model of the benchmark."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(torch.from_numpy(array)) for name, array in resnet.parameters()}
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        named = _Dotted(self.weights)
        return resnet.forward(TensorOps(named), images)


class SmallConv(nn.Module):  # type: ignore[misc] # torch is untyped here
    """In ResNet-50's place where nothing is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if not number else 32, 32, 3, padding=1) for number in range(6))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x.mean((2, 3))


class _Dotted(Mapping[str, Any]):
    """Parameters under the names that the benchmark's operations request for."""

    def __init__(self, weights: nn.ParameterDict) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> Any:
        return self._weights[name.replace(".", "_")]

    def __iter__(self) -> Any:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--arena-gib", type=float, default=2.0)
    parser.add_argument("--requests", type=int, default=6, help="per model")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--quick", action="store_true", help="small networks: does it run at all?")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--dry-run", action="store_true", help="tiny networks on a stand-in for the GPU")
    options = parser.parse_args()
    if options.quick:
        options.arena_gib, options.layers, options.width, options.requests, options.repeat = 0.125, 8, 2048, 2, 1
    if options.dry_run:
        options.arena_gib, options.layers, options.width, options.requests, options.repeat = 1 / 256, 12, 512, 2, 1
    elif not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device: run this on a machine with an NVIDIA GPU, or with --dry-run")
    facts = _bench(options)
    print(json.dumps(facts, indent=2))
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2))
    counted = SHOWN_DRY if options.quick or options.dry_run else facts["bars"].keys()
    missed = [name for name in counted if not facts["bars"][name]]
    sys.exit(f"missed: {', '.join(missed)}" if missed else 0)


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    budget = int(options.arena_gib * (1 << 30))
    kind = KIND_CPU if options.dry_run else NVIDIA.kind
    host = Host(kind=kind, threads=8, emulated_memory=EmulatedMemory(0))
    with tempfile.TemporaryDirectory(prefix="batchwright-gpu-") as folder:
        device = CudaAccelerator(budget, StandIn(mirrored=True) if options.dry_run else None)
        dtype: torch.dtype = getattr(torch, options.dtype)
        wide_module = Wide(options.layers, options.width).to(dtype)
        wide = _opened(Path(folder), "wide", wide_module, torch.zeros(2, options.width, dtype=dtype), host, budget)
        small = options.dry_run
        images = torch.zeros(2, *((3, 32, 32) if small else resnet.IMAGE_SHAPE), dtype=dtype)
        conv = _opened(Path(folder), "resnet50", (SmallConv() if small else Conv()).to(dtype), images, host, budget)
        networks = {"resnet50": conv, "wide": wide}
        for name, network in networks.items():
            device.add(name, network)
        effort = Effort(runs=20, least=20)
        wide_profile = device.measured("wide", 1, effort)
        rows = _rows_for(device, wide_profile.total_fetch_s, quick=options.quick or small)
        profiles = {"resnet50": device.measured("resnet50", rows, effort), "wide": wide_profile}
        together = _co_run(device, networks, rows)
        plans = UnitPlans()
        for name, profile in profiles.items():
            plans.add(name, [profile])
        requests = _requests(networks, {"resnet50": rows, "wide": 1}, options.requests)
        facts = _measured(device, plans, requests, options)
        facts |= {
            "requestsPerModel": options.requests,
            "gpu": device.driver.name,
            "torch": torch.__version__,
            "dtype": options.dtype,
            "arenaBytes": device.ring.capacity,
            "rows": {"resnet50": rows, "wide": 1},
            "weightBytes": {name: network.index.weight_bytes for name, network in networks.items()},
            "profiles": {
                name: {"computeMs": each.total_compute_s * 1e3, "copyMs": each.total_fetch_s * 1e3}
                for name, each in profiles.items()
            },
            "coRun": together,
        }
        facts |= _against_bound(facts, plans, profiles, together)
        facts["bars"] = {
            "over_fifo": facts["overFifo"] >= BARS["over_fifo"],
            "over_sleep": facts["overSleepWake"] >= BARS["over_sleep"],
            "of_bound": facts["ofBound"] >= BARS["of_bound"],
            "replay_error": facts["ways"]["balanced"]["replayError"] <= BARS["replay_error"],
            "peak": facts["ways"]["balanced"]["peakBytes"] <= device.ring.capacity,
            "equal": all(way["equal"] for way in facts["ways"].values()),
        }
        device.close()
        return facts


def _opened(folder: Path, name: str, module: nn.Module, example: torch.Tensor, host: Host, budget: int) -> TorchUnits:
    path = folder / f"{name}.pt2"
    rows = torch.export.Dim("rows", min=1, max=4096)
    torch.export.save(torch.export.export(module.eval(), (example,), dynamic_shapes=({0: rows},)), path)
    source = ModelSource(name=name, format="torch-export", path=str(path), inputs=[], outputs=[])
    return open_torch(source, host, lambda digest: folder / digest, budget // 4)


def _rows_for(device: CudaAccelerator, seconds: float, *, quick: bool) -> int:
    """The batch of ResNet-50 that computes for about so long."""
    rows = 1
    while not quick and rows < 1024:
        if device.measured("resnet50", rows, Effort(runs=3, least=3)).total_compute_s >= 0.85 * seconds:
            break
        rows *= 2
    return rows


def _requests(networks: Mapping[str, TorchUnits], rows: Mapping[str, int], per_model: int) -> list[TrialRequest]:
    inputs = {name: example_inputs(network.inputs, rows[name]) for name, network in networks.items()}
    return [
        TrialRequest(model=name, rows=rows[name], inputs=inputs[name]) for _ in range(per_model) for name in networks
    ]


def _co_run(device: CudaAccelerator, networks: Mapping[str, TorchUnits], rows: int) -> dict[str, float]:
    """Bandwidth alone and while ResNet-50 computes; compute alone and while copies run."""
    host = device.driver.pinned(min(device.ring.capacity, 256 << 20))
    network = networks["resnet50"]
    weights = [
        torch.empty(unit.size, dtype=torch.uint8, device=device.driver.device).zero_() for unit in network.index.units
    ]
    tensors = [views(memory, unit.pieces) for memory, unit in zip(weights, network.index.units, strict=True)]
    given = example_inputs(network.inputs, rows)
    [start] = network.begin(given, rows, lambda array: tensor_of(array).to(device.driver.device))

    def copy() -> float:
        place = device.arena[: host.numel()]
        return timed(device.driver, device.copy_stream, "copy in", lambda: place.copy_(host, non_blocking=True))

    def compute() -> float:
        def work() -> None:
            values = dict(start)
            for graph, held in zip(network.graphs, tensors, strict=True):
                run_unit(graph, held, values)

        return timed(device.driver, device.compute_stream, "compute", work)

    compute()
    copy_alone = statistics.median(copy() for _ in range(20))
    compute_alone = statistics.median(compute() for _ in range(20))
    copy_beside = _beside(copy, compute)
    compute_beside = _beside(compute, copy)
    device.driver.unpin(host)
    return {
        "copyGBs": host.numel() / copy_alone / 1e9,
        "copyGBsBesideCompute": host.numel() / copy_beside / 1e9,
        "copySlowdown": copy_beside / copy_alone,
        "computeMs": compute_alone * 1e3,
        "computeMsBesideCopies": compute_beside * 1e3,
        "computeSlowdown": compute_beside / compute_alone,
    }


def _beside(measured: Callable[[], float], other: Callable[[], float]) -> float:
    """Median of 20 while the other runs again and again on another thread."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            other()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        return statistics.median(measured() for _ in range(20))
    finally:
        stop.set()
        thread.join()


def _measured(
    device: CudaAccelerator, plans: UnitPlans, requests: Sequence[TrialRequest], options: argparse.Namespace
) -> dict[str, Any]:
    """Every way `repeat` times in turn after one warm-up; medians."""
    expected = _alone(device, requests)
    found: dict[str, list[Trial]] = {"balanced": [], "literal": [], "fifo": []}
    asleep: list[float] = []
    resident: list[float] = []
    alone: dict[str, list[float]] = {name: [] for name in dict.fromkeys(request.model for request in requests)}
    for turn in range(options.repeat + 1):
        for name, runs in found.items():
            policy = policy_named(name, plans, requests, device.ring.capacity, None)
            run = run_streamed(device, plans, requests, policy)
            if turn:
                runs.append(run)
        for times, keeps in ((asleep, False), (resident, True)):
            seconds = _whole(device, requests, keeps=keeps)
            times.extend([seconds] if turn else [])
        for model, times in alone.items():
            own = [request for request in requests if request.model == model]
            policy = policy_named("fifo", plans, own, device.ring.capacity, None)
            run = run_streamed(device, plans, own, policy)
            times.extend([run.makespan_s] if turn else [])
    ways = {name: _way(runs, expected) for name, runs in found.items()}
    best = ways["balanced"]["makespanS"]
    return {
        "ways": ways,
        "sleepWakeS": statistics.median(asleep),
        "residentS": statistics.median(resident),
        "aloneS": {name: statistics.median(times) for name, times in alone.items()},
        "overFifo": ways["fifo"]["makespanS"] / best,
        "overSleepWake": statistics.median(asleep) / best,
        "overResident": statistics.median(resident) / best,
    }


def _way(runs: Sequence[Trial], expected: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    run = sorted(runs, key=lambda each: each.makespan_s)[len(runs) // 2]
    assert run.check is not None
    return {
        "makespanS": run.makespan_s,
        "all": [each.makespan_s for each in runs],
        "replayError": run.check.error,
        "planError": run.check.plan_error,
        "peakBytes": run.peak_bytes,
        "decisionShare": run.totals.decision_s / run.makespan_s,
        "computeIdleS": run.totals.compute_idle_s,
        "memoryIdleS": run.totals.memory_idle_s,
        "equal": all(
            np.array_equal(got[name], wanted[name])
            for each in runs
            for got, wanted in zip(each.outputs, expected, strict=True)
            for name in wanted
        ),
    }


def _alone(device: CudaAccelerator, requests: Sequence[TrialRequest]) -> list[Mapping[str, Array]]:
    """Each network run by itself, all weights on the device."""
    outputs: dict[str, Mapping[str, Array]] = {}
    for request in requests:
        if request.model not in outputs:
            outputs[request.model] = _run_whole(device, request)
    return [outputs[request.model] for request in requests]


def _whole(device: CudaAccelerator, requests: Sequence[TrialRequest], *, keeps: bool) -> float:
    """In order. Weights sleep in pinned memory: a model is copied whole before it runs, in the place of the one that is
    awake. With `keeps` all models are awake before the clock starts. Makespan in seconds."""
    models = dict.fromkeys(request.model for request in requests)
    awake = {model: device.on_device(model) for model in models} if keeps else {}
    device.driver.synchronize()
    begin = time.monotonic()
    for request in requests:
        if request.model not in awake:
            awake.clear()
            awake[request.model] = device.on_device(request.model)
        _run_whole(device, request, awake[request.model])
    return time.monotonic() - begin


def _run_whole(device: CudaAccelerator, request: TrialRequest, held: Sequence[Any] = ()) -> Mapping[str, Array]:
    network, memory = device.network(request.model), held or device.on_device(request.model)
    state = network.begin(
        request.inputs, request.rows, lambda array: tensor_of(np.array(array)).to(device.driver.device)
    )

    def work() -> None:
        for values in state:
            for graph, unit, weights in zip(network.graphs, network.index.units, memory, strict=True):
                run_unit(graph, views(weights, unit.pieces), values)

    device.driver.queue(device.compute_stream, "compute", work)
    device.driver.synchronize()
    return network.end(state, request.rows)


def _against_bound(
    facts: Mapping[str, Any], plans: UnitPlans, profiles: Mapping[str, Any], together: Mapping[str, float]
) -> dict[str, Any]:
    """System throughput of the measured run, and of the LP with compute and copies as slow as beside each other."""
    # Per step, as the layers' times are in steps.
    rates = {name: facts["requestsPerModel"] / steps_of_seconds(seconds) for name, seconds in facts["aloneS"].items()}
    stp = sum(facts["aloneS"].values()) / facts["ways"]["balanced"]["makespanS"]
    layers = {}
    for name, profile in profiles.items():
        layers[name] = [
            type(layer)(
                compute=round(layer.compute * together["computeSlowdown"]),
                fetch=round(layer.fetch * together["copySlowdown"]),
                bytes=layer.bytes,
            )
            for layer in plans.layers(name, profile.rows)
        ]
    bound = stp_bound(layers, rates)
    return {"stp": stp, "stpBound": bound, "ofBound": stp / bound}


if __name__ == "__main__":
    main()
