"""`python -m e2e.bench.networks.static`: the tuned size beside every static one, where bigger is not always faster.

Each load mixes rows of several lengths that want different sizes, on onnxruntime with one CPU of its own (--both: two,
and none left for sidecar and callers). A static size is driven directly with full batches of one length: what a server
with that size could reach at best. The sidecar has its queue, HTTP, and the sizes that it finds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from e2e.bench.networks.served import ClosedLoop, batches_of, pin_runtimes, request_for
from e2e.bench.networks.workloads import WORKLOADS, Rows
from e2e.bench.servers import Cores, batchwright, deployment
from e2e.cluster.machine.paths import cache_folder

SIZES: Final = (1, 2, 4, 8, 16, 32)
CALLERS: Final = 96
MINILM: Final = WORKLOADS["minilm-128"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`mix`: length of a row -> how many of them per round. `network`: its ONNX file, made once."""

    about: str
    network: Callable[[], Path]
    rows: Callable[[int, int], Rows]
    """(length, number of rows) -> a batch."""
    mix: Mapping[int, int]

    def lengths(self) -> Iterator[int]:
        """Of one round's rows, the rare ones spread."""
        round_ = [(place / number, length) for length, number in self.mix.items() for place in range(1, number + 1)]
        yield from (length for _, length in sorted(round_))


def recognizer() -> Path:
    """PP-OCRv4's recognizer with an argmax at its end, so that answers are a few hundred bytes and not megabytes."""
    import onnx
    import rapidocr_onnxruntime
    from onnx import TensorProto, helper

    [source] = Path(rapidocr_onnxruntime.__file__).parent.rglob("*rec_infer.onnx")
    path = cache_folder() / "networks" / "recognizer.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    model = onnx.load(source)
    last = model.graph.output[0].name
    model.graph.node.append(helper.make_node("ArgMax", [last], ["tokens"], axis=2, keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("tokens", TensorProto.INT64, ["n", "t"]))
    onnx.save(model, path)
    return path


def pictures(width: int, rows: int) -> Rows:
    """Random pictures of text lines."""
    return {"x": np.random.default_rng(width).random((rows, 3, 48, width), np.float32)}


def sentences(length: int, rows: int) -> Rows:
    """Random sentences."""
    return replace(MINILM, lengths=(length,)).batch(range(rows))


LOADS: Final = {
    "search": Load(
        about="all-MiniLM-L6-v2, forty queries of 8 tokens to a passage of 384",
        network=lambda: MINILM.path("onnx"),
        rows=sentences,
        mix={8: 40, 384: 1},
    ),
    "lines": Load(
        about="PP-OCRv4 recognizer, lines of 320, 640 and 960 pixels",
        network=recognizer,
        rows=pictures,
        mix={320: 1, 640: 1, 960: 1},
    ),
}


def static_rate(name: str, path: str, size: int, seconds: float, cpus: tuple[int, ...]) -> float:
    """Rows per second of whole rounds; in a process of its own."""
    import onnxruntime as ort

    os.sched_setaffinity(0, cpus)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = len(cpus), 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    load = LOADS[name]
    batches = {length: dict(load.rows(length, size)) for length in load.mix}
    for batch in batches.values():
        session.run(None, batch)
    rows, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        for length in load.lengths():
            session.run(None, batches[length])
            rows += size
    return rows / spent


def tuned_rate(load: Load, path: Path, seconds: float, cores: Cores) -> tuple[float, float]:
    """Rows per second through the sidecar, and rows per batch."""
    model = {"name": "m", "artifacts": [{"format": "onnx", "uri": path.as_uri()}], "batching": {"maxSize": 32}}
    requests = [request_for(load.rows(length, 1)) for length in load.lengths()]
    with batchwright(deployment([model]), cores, "cpu") as server:
        pin_runtimes(server, *cores.client)
        loop = ClosedLoop(server.port, requests)
        loop.start(CALLERS)
        time.sleep(2 * seconds)
        before = batches_of(server)
        begin = time.perf_counter()
        time.sleep(2 * seconds)
        end = time.perf_counter()
        rows, runs = (now - then for now, then in zip(batches_of(server), before, strict=True))
        loop.stop()
    if loop.failed:
        raise click.ClickException(f"{loop.failed} requests failed")
    return loop.rate(begin, end), rows / max(1, runs)


def compared(name: str, rounds: int, seconds: float, framework: tuple[int, ...], rest: tuple[int, ...]) -> Any:
    """One load's rounds, and a table of their medians."""
    load = LOADS[name]
    path = load.network()
    static: dict[int, list[float]] = {size: [] for size in SIZES}
    tuned = []
    for _ in range(rounds):
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for size in SIZES:
                static[size].append(pool.apply(static_rate, (name, str(path), size, seconds, framework)))
        tuned.append(tuned_rate(load, path, seconds, Cores(server=rest, client=framework)))
    print(f"\n{load.about}; rows/s\n")
    print("| " + " | ".join(f"static {size}" for size in SIZES) + " | tuned (mean batch) | to the best static |")
    print("|" + "---|" * (len(SIZES) + 2))
    medians = [statistics.median(rates) for rates in static.values()]
    rate, batch = (statistics.median(column) for column in zip(*tuned, strict=True))
    cells = [*(f"{median:.1f}" for median in medians), f"**{rate:.1f}** ({batch:.1f})", f"{rate / max(medians):.3f}"]
    print(f"| {' | '.join(cells)} |", flush=True)
    return {"static": static, "tuned": tuned}


@click.command(help=(__doc__ or "").strip())
@click.option("--only", type=click.Choice(sorted(LOADS)), default=None, help="One load; default: all.")
@click.option("--rounds", type=int, default=2, show_default=True)
@click.option("--seconds", type=float, default=4.0, show_default=True)
@click.option("--both", is_flag=True, help="Two threads on both CPUs.")
@click.option("--json", "out", type=click.Path(path_type=Path), default=None, help="Write the rounds to this file.")
def main(only: str | None, rounds: int, seconds: float, both: bool, out: Path | None) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise click.ClickException("two CPUs are needed: one for the framework, one for sidecar and callers")
    framework, rest = (tuple(cpus[:2]), tuple(cpus[:2])) if both else ((cpus[0],), (cpus[1],))
    os.sched_setaffinity(0, rest)
    found = {name: compared(name, rounds, seconds, framework, rest) for name in ([only] if only else LOADS)}
    if out is not None:
        out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
