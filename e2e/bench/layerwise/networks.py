"""Four real networks in memory for a fifth of their weights: layer by layer beside the other ways to run them.

all-MiniLM-L6-v2 (published weights, by torch.export), PP-OCRv4's detector and recognizer (published, ONNX) and
ResNet-50 (random weights, ONNX). The ways, each on the same requests, on the same kind of thread, inputs begun before
the clock starts:

    balanced, rollout   streamed layer by layer
    FIFO                the same executor in PipeSwitch's order: one request after the other, prefetched across requests
    whole model         the model that is not there is read whole, in the place of the one that is
    sleep/wake          the same with all weights asleep in memory of their own (vLLM's sleep mode): waking is a copy
    resident            everything stays in memory: the ceiling

Weights come from files past the page cache (`--reads direct`; it is said where the file system cannot), but for the
last two, which have room for all of them in memory. Every way in turn, again and again, until its share of the seconds
is over; first as the machine is, then with a process that spins on each core. Outputs of all ways are compared bit by
bit. What is found is told after every turn: a run that is broken off has figures too.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from batchwright_worker.layerwise.memory.pool import UnitReader, page_aligned
from batchwright_worker.layerwise.networks.units import Bytes, Network
from batchwright_worker.layerwise.profiling.profiler import example_inputs
from batchwright_worker.layerwise.tools.comparison import (
    Trial,
    TrialRequest,
    policy_named,
    read_whole,
    run_in_turn,
    run_streamed,
    run_whole,
    same_outputs,
)
from batchwright_worker.layerwise.tools.prepared_networks import PreparedNetworks, prepare_networks
from batchwright_worker.layerwise.tools.samples import write_conv

__all__ = ["CONDITIONS", "ROWS", "Compared", "Trials", "compare", "run_asleep", "write_networks"]

ROWS: Final = {"minilm": 8, "detector": 8, "recognizer": 8, "resnet50": 4}
_TOKENS: Final = 32
_RESIDENT: Final = "resident"
_STREAMED: Final = {"balanced": "balanced", "rollout": "rollout", "FIFO": "fifo"}
_LEAST_TURNS: Final = 2
CONDITIONS: Final = {"quiet": "as the machine is", "neighbours": "a neighbour on each core"}
Told = Callable[[dict[str, Any]], None]


@dataclass(slots=True, kw_only=True)
class Compared:
    """Of one way under one condition."""

    makespans_s: list[float] = field(default_factory=list)
    replay_errors: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    moved_bytes: int = 0
    equal: bool = True

    def facts(self, best: Compared) -> dict[str, Any]:
        """In figures; ratios over `best` by the fastest run and by the medians."""
        fastest, median = min(self.makespans_s), statistics.median(self.makespans_s)
        return {
            "fastestSeconds": fastest,
            "medianSeconds": median,
            "runs": len(self.makespans_s),
            "overBalancedFastest": fastest / min(best.makespans_s),
            "overBalancedMedian": median / statistics.median(best.makespans_s),
            "replayErrorMedian": statistics.median(self.replay_errors) if self.replay_errors else None,
            "replayErrorMost": max(self.replay_errors, default=None),
            "peakBytes": self.peak_bytes,
            "movedBytes": self.moved_bytes,
            "bitwiseEqual": self.equal,
        }


def write_networks(folder: Path) -> dict[str, Path]:
    """The files; those that are there already are kept."""
    import rapidocr_onnxruntime

    folder.mkdir(parents=True, exist_ok=True)
    files = {"minilm": folder / "minilm.pt2", "resnet50": folder / "resnet50.onnx"}
    if not files["minilm"].is_file():
        _export_minilm(files["minilm"])
    if not files["resnet50"].is_file():
        write_conv(files["resnet50"])
    models = Path(rapidocr_onnxruntime.__file__).parent
    [files["detector"]], [files["recognizer"]] = (models.rglob(f"*{word}_infer.onnx") for word in ("det", "rec"))
    return files


def _export_minilm(path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from e2e.bench.networks.minilm import Model, weights
    from e2e.bench.networks.workloads import minilm_weights

    module = Model()
    module.load_state_dict(weights(load_file(minilm_weights()), module))
    examples = tuple(torch.ones(2, _TOKENS, dtype=torch.int64) for _ in range(2))
    rows = torch.export.Dim("rows", min=1, max=4096)
    program = torch.export.export(module.eval(), examples, dynamic_shapes=tuple({0: rows} for _ in examples))
    partial = path.with_suffix(".partial.pt2")
    torch.export.save(program, partial)
    partial.replace(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """What is compared. `seconds`: for all conditions together, after the networks are prepared and measured."""

    networks: Sequence[str] = tuple(ROWS)
    conditions: Sequence[str] = tuple(CONDITIONS)
    budget: int
    seconds: float
    requests: int
    reads: str
    threads: int | None


def compare(folder: Path, trials: Trials, told: Told = lambda _facts: None) -> dict[str, Any]:
    """All figures; `told` is given what there is after every turn."""
    files = {name: path for name, path in write_networks(folder).items() if name in trials.networks}
    with contextlib.ExitStack() as stack:
        prepared = prepare_networks(
            stack,
            models=[(name, str(path)) for name, path in files.items()],
            budget=trials.budget,
            rows=[(name, str(ROWS[name])) for name in files],
            cache=folder / "prepared",
            reads=trials.reads,
            threads=trials.threads,
        )
        ways = _ways(stack, prepared, _requests(prepared, trials.requests))
        facts = _facts(prepared, trials)
        for condition in trials.conditions:

            def tell(found: Mapping[str, Compared], condition: str = condition) -> None:
                facts["conditions"][CONDITIONS[condition]] = {
                    "load": os.getloadavg()[0],
                    "ways": {way: each.facts(found["balanced"]) for way, each in found.items()},
                }
                told(facts)

            with spinning((os.cpu_count() or 1) if condition == "neighbours" else 0):
                _timed(ways, trials.seconds / len(trials.conditions), tell)
        return facts


def _facts(prepared: PreparedNetworks, trials: Trials) -> dict[str, Any]:
    return {
        "networks": {
            name: {
                "weightBytes": network.index.weight_bytes,
                "tableBytes": network.index.table_bytes,
                "units": len(network.index.units),
                "rows": prepared.profiles[name].rows,
                "computeMs": prepared.profiles[name].total_compute_s * 1e3,
                "fetchMs": prepared.profiles[name].total_fetch_s * 1e3,
            }
            for name, network in prepared.networks.items()
        },
        "budgetBytes": trials.budget,
        "reads": trials.reads,
        "readsUsed": next(iter(prepared.readers.values())).reads,
        "requestsPerModel": trials.requests,
        "conditions": {},
    }


def _requests(prepared: PreparedNetworks, each: int) -> list[TrialRequest]:
    one = [
        TrialRequest(model=name, rows=ROWS[name], inputs=example_inputs(network.inputs, ROWS[name]))
        for name, network in prepared.networks.items()
    ]
    return one * each


Ways = Mapping[str, Callable[[], Trial]]


def _ways(stack: contextlib.ExitStack, prepared: PreparedNetworks, requests: Sequence[TrialRequest]) -> Ways:
    device, plans = prepared.device(stack)
    networks = {name: (network, prepared.readers[name]) for name, network in prepared.networks.items()}
    asleep = {name: _asleep(*each) for name, each in networks.items()}

    def streamed(policy: str) -> Trial:
        return run_streamed(device, plans, requests, policy_named(policy, plans, requests, device.ring.capacity, None))

    def resident() -> Trial:
        for name, network in prepared.networks.items():
            everything = frozenset(range(len(network.index.units)))
            device.keep(name, everything)
            plans.keep(name, everything)
        try:
            return streamed("fifo")
        finally:
            for name in prepared.networks:
                device.keep(name, frozenset())
                plans.keep(name, frozenset())

    return {
        **{way: partial(streamed, policy) for way, policy in _STREAMED.items()},
        "whole model": lambda: run_whole(networks, requests),
        "sleep/wake": lambda: run_asleep(prepared.networks, asleep, requests),
        _RESIDENT: resident,
    }


def _asleep(network: Network, reader: UnitReader) -> Bytes:
    """All weights of a network, in memory that none of it runs in."""
    memory = page_aligned(network.index.weight_bytes)
    read_whole(network, reader, memory)
    return memory


def run_asleep(networks: Mapping[str, Network], asleep: Mapping[str, Bytes], requests: Sequence[TrialRequest]) -> Trial:
    """In order; a model that is asleep is copied whole into the place of the one that is awake."""

    def wake(model: str, place: Bytes) -> None:
        place[: asleep[model].nbytes] = asleep[model]

    return run_in_turn("sleep/wake", networks, requests, wake)


def _timed(ways: Ways, seconds: float, tell: Callable[[Mapping[str, Compared]], None]) -> None:
    """Every way once in each turn; the first turn is for whatever libraries set up."""
    found = {name: Compared() for name in ways}
    reference: Trial | None = None
    deadline, turn = time.monotonic() + seconds, 0
    while turn <= _LEAST_TURNS or time.monotonic() < deadline:
        for name, run in ways.items():
            trial = run()
            reference = reference or trial
            found[name].equal &= same_outputs(trial, reference)
            if turn:
                _count(found[name], trial)
        if turn:
            tell(found)
        turn += 1


def _count(seen: Compared, trial: Trial) -> None:
    seen.makespans_s.append(trial.makespan_s)
    seen.peak_bytes = max(seen.peak_bytes, trial.peak_bytes)
    seen.moved_bytes = max(seen.moved_bytes, trial.totals.bytes)
    if trial.check is not None:
        seen.replay_errors.append(trial.check.error)


@contextlib.contextmanager
def spinning(processes: int) -> Iterator[None]:
    """So many processes that never rest."""
    found = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in found:
            process.kill()
            process.wait()
