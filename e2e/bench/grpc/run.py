"""What a unary call over gRPC costs: a no-op model, 12 kB requests, before and after in one run.

    python -m e2e.bench.grpc [--before CHECKOUT] [--seconds 4] [--rounds 3] [--callers 64] [--connections 1,64]

The sidecar is pinned to core 0; its runtime and the client (frames made once, `frames.py`) to core 1. `--before` is
another checkout of this repository (`git worktree add`), measured in turn with this one. Rows per batch say how many
calls the model saw at once. A call without an answer fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from batchwright_worker.oip import inference_pb2 as pb
from e2e.bench.grpc.frames import load
from e2e.bench.noop.run import MANIFEST, SHAPE, command_of, cpu_s, pin, running, tree

PATH = "/inference.GRPCInferenceService/ModelInfer"
REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run; `cpu_us` is what the sidecar spent per call, in microseconds."""

    calls_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    rows_per_batch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running `serve`."""

    http: str
    grpc: int
    sidecar: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, default=None, help="another checkout, measured in turn with this one")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--connections", default="1,64")
    args = parser.parse_args()
    sides = {"before": args.before.resolve()} if args.before else {}
    sides["after"] = REPOSITORY
    os.sched_setaffinity(0, {1})
    found: dict[tuple[str, int], list[Measured]] = {}
    for _ in range(args.rounds):
        for side, checkout in sides.items():
            with serving(checkout) as server:
                for connections in map(int, args.connections.split(",")):
                    measured = measure(server, connections, args.callers, args.seconds)
                    found.setdefault((side, connections), []).append(measured)
    show(found)


def measure(server: Server, connections: int, callers: int, seconds: float) -> Measured:
    """Some seconds of calls. Raises SystemExit if one gets no answer."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, *SHAPE])
    size = 4 * SHAPE[0] * SHAPE[1] * SHAPE[2]
    message = pb.ModelInferRequest(model_name="noop", inputs=[tensor], raw_input_contents=[bytes(size)])
    rows, batches, spent = *run_so_far(server), cpu_s([server.sidecar])
    counts = asyncio.run(
        load(
            server.grpc,
            PATH,
            message.SerializeToString(),
            connections=connections,
            callers=callers,
            seconds=seconds,
        )
    )
    spent = cpu_s([server.sidecar]) - spent
    rows_after, batches_after = run_so_far(server)
    if counts.failed or not counts.seconds:
        raise SystemExit(f"{counts.failed} calls without an answer, {len(counts.seconds)} with one")
    latencies = sorted(counts.seconds)
    return Measured(
        calls_per_s=len(latencies) / seconds,
        p50_ms=latencies[len(latencies) // 2] * 1e3,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1e3,
        cpu_us=spent / (rows_after - rows) * 1e6,
        rows_per_batch=(rows_after - rows) / (batches_after - batches),
    )


def run_so_far(server: Server) -> tuple[int, int]:
    """Rows and batches."""
    with urllib.request.urlopen(f"{server.http}/v2/models/noop/stats", timeout=10) as answer:
        counts = json.loads(answer.read())["model_stats"][0]
    return counts["inference_count"], counts["execution_count"]


@contextlib.contextmanager
def serving(checkout: Path) -> Iterator[Server]:
    """A ready `serve` of that checkout, its processes pinned; ended on leaving."""
    with tempfile.TemporaryDirectory(prefix="batchwright-grpc-") as scratch:
        manifest = Path(scratch) / "noop.yaml"
        manifest.write_text(MANIFEST)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((f"{checkout}/worker", f"{checkout}/operator"))}
        command = [sys.executable, "-m", "batchwright_worker", "serve", "-f", str(manifest), "--http=0", "--grpc=0"]
        with running(command, stdout=subprocess.PIPE, env=environment, cwd=scratch) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"(http://[0-9.:]+), gRPC [0-9.]+:(\d+)", line)
            if found is None:
                raise SystemExit(f"serve said {line!r}")
            while not process.stdout.readline().startswith("ready"):
                pass
            sidecar = next(pid for pid in tree(process.pid) if " sidecar " in command_of(pid))
            for pid in tree(process.pid):
                pin(pid, 0 if pid == sidecar else 1)
            yield Server(http=found[1], grpc=int(found[2]), sidecar=sidecar)


def show(found: dict[tuple[str, int], list[Measured]]) -> None:
    """Medians."""
    print("| side | connections | calls/s | of before's | p50 ms | p99 ms | CPU us/call, sidecar | rows per batch |")
    print("|---|---|---|---|---|---|---|---|")
    for (side, connections), runs in sorted(found.items(), key=lambda each: (each[0][1], each[0][0] == "after")):
        median = Measured(**{name: statistics.median(asdict(run)[name] for run in runs) for name in asdict(runs[0])})
        before = found.get(("before", connections))
        ratio = f"{median.calls_per_s / statistics.median(run.calls_per_s for run in before):.2f}" if before else "-"
        print(
            f"| {side} | {connections} | {median.calls_per_s:,.0f} | {ratio} | {median.p50_ms:.1f} "
            f"| {median.p99_ms:.1f} | {median.cpu_us:.0f} | {median.rows_per_batch:.1f} |"
        )
