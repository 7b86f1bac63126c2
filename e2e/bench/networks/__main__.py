"""`python -m e2e.bench.networks`: ResNet-50 and MiniLM through the sidecar beside the framework driven directly.

One CPU for the framework in both arms, in turn, each round in new processes; the other CPU has sidecar and callers (64
in a closed loop, one row each). The framework's best batch size is found first; the sidecar finds its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from e2e.bench.networks.served import ServedRate, answer_of, served_rate, serving
from e2e.bench.networks.workloads import FORMATS, WORKLOADS, Workload
from e2e.bench.servers import ROOT, die_with_the_bench, pinned

SIZES = (1, 2, 4, 8, 16, 32)
BAR = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One workload on one framework: rounds of rows per second; `best`: the direct arm's batch size."""

    workload: str
    format: str
    best: int
    direct: tuple[float, ...]
    served: tuple[ServedRate, ...]

    @property
    def ratio(self) -> float:
        """Of the medians of the rounds."""
        served = statistics.median(served.rows_per_second for served in self.served)
        return served / statistics.median(self.direct)


class Direct:
    """The direct arm's process, on one CPU."""

    def __init__(self, workload: Workload, format_: str, cpu: int) -> None:
        command = [sys.executable, "-m", "e2e.bench.networks.direct", workload.name, format_, "1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with pinned((cpu,)):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=environment,
                preexec_fn=die_with_the_bench,  # noqa: PLW1509 - one thread
            )
        self._told()

    def rate(self, batch: int, seconds: float, *, by_length: bool) -> float:
        """Rows per second."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"batch": batch, "seconds": seconds, "sorted": by_length}) + "\n")
        self._process.stdin.flush()
        return float(self._told()["rows_per_second"])

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _told(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException("the direct arm has ended; its messages are above")
        return json.loads(line)


@click.command(help=(__doc__ or "").strip())
@click.option("--only", "names", multiple=True, type=click.Choice(sorted(WORKLOADS)), help="Workloads; default: all.")
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="Default: onnx, torch-export.")
@click.option("--rounds", type=int, default=5, show_default=True)
@click.option("--seconds", type=float, default=6.0, show_default=True, help="Of each arm of each round.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=None, help="Write everything to this file.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a bar is missed.")
def main(
    names: Sequence[str], formats: Sequence[str], rounds: int, seconds: float, path: Path | None, strict: bool
) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise click.ClickException("two CPUs are needed: one for the framework, one for sidecar and callers")
    os.sched_setaffinity(0, {cpus[1]})
    chosen = [(WORKLOADS[name], each) for name in names or WORKLOADS for each in formats or ("onnx", "torch-export")]
    compared = []
    for workload, format_ in chosen:
        compared.append(compare(workload, format_, (cpus[0], cpus[1]), rounds, seconds))
        show(compared[-1:])
    if len(compared) > 1:
        show(compared)
    if path is not None:
        path.write_text(json.dumps([asdict(each) | {"ratio": each.ratio} for each in compared], indent=1))
    if strict and any(each.ratio < BAR for each in compared):
        raise SystemExit(1)


def compare(workload: Workload, format_: str, cpus: tuple[int, int], rounds: int, seconds: float) -> Compared:
    """Every round has new processes in both arms: what memory a process happens to get makes torch up to a tenth faster
    or slower for as long as it lives."""
    by_length = len(set(workload.lengths)) > 1
    best, driven, served = 0, [], []
    for number in range(rounds):
        with contextlib.closing(Direct(workload, format_, cpus[0])) as direct:
            best = best or _best(direct, workload, format_, seconds, by_length=by_length)
            driven.append(direct.rate(best, seconds, by_length=by_length))
        with serving(workload, format_, *cpus) as server:
            if not number:
                check(server, workload, format_)
            served.append(served_rate(server, workload, seconds))
    return Compared(workload=workload.name, format=format_, best=best, direct=tuple(driven), served=tuple(served))


def _best(direct: Direct, workload: Workload, format_: str, seconds: float, *, by_length: bool) -> int:
    """The batch size with most rows per second."""
    sweep = {size: direct.rate(size, seconds / 4, by_length=by_length) for size in SIZES}
    told = ", ".join(f"{size}: {rate:.1f}" for size, rate in sweep.items())
    print(f"{workload.name} on {format_} directly, rows/s by batch size: {told}", file=sys.stderr, flush=True)
    return max(sweep, key=sweep.__getitem__)


def check(server: Any, workload: Workload, format_: str) -> None:
    """The sidecar answers what the framework answers."""
    from e2e.bench.networks.direct import forward_of

    forward = forward_of(workload, format_, 1)
    for number in range(3):
        rows = workload.batch([number])
        np.testing.assert_allclose(answer_of(server, rows, workload.output.name), forward(rows), rtol=1e-3, atol=1e-4)


def show(compared: Sequence[Compared]) -> None:
    """A table in Markdown."""
    print("\n| network | framework | direct rows/s (batch) | sidecar rows/s (mean batch) | sidecar CPU | ratio |")
    print("|---|---|---|---|---|---|")
    for each in compared:
        direct = statistics.median(each.direct)
        served = statistics.median(one.rows_per_second for one in each.served)
        batch = statistics.median(one.batch for one in each.served)
        cpu = statistics.median(one.sidecar_cores for one in each.served)
        failed = sum(one.failed for one in each.served)
        note = f", {failed} failed" if failed else ""
        cells = f"{direct:.1f} ({each.best}) | {served:.1f} ({batch:.1f}){note} | {cpu:.1%}"
        print(f"| {each.workload} | {each.format} | {cells} | **{each.ratio:.3f}** |", flush=True)


if __name__ == "__main__":
    main()
