"""`python -m e2e.bench.networks.static`: the tuned batch size beside every static one where bigger is not faster.

PP-OCRv4's recognizer (its network from rapidocr, the last softmax replaced by its argmax, as its decoder reads it) with
lines of three widths, one CPU for onnxruntime (--both: two, and none left for sidecar and callers). A static size is
driven directly with full batches of one width: what a server with that size could reach at best. The sidecar has its
queue, HTTP, and the sizes that it finds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from e2e.bench.networks.served import ClosedLoop, batches_of, pin_runtimes, request_for
from e2e.bench.servers import Cores, batchwright, deployment
from e2e.cluster.paths import cache_folder

WIDTHS: Final = (320, 640, 960)
SIZES: Final = (1, 4, 8, 16, 32)
CALLERS: Final = 96


def network() -> Path:
    """The recognizer with an argmax at its end, so that answers are a few hundred bytes and not megabytes."""
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


def lines(width: int, rows: int) -> Any:
    """Random pictures of text lines."""
    return np.random.default_rng(width).random((rows, 3, 48, width), np.float32)


def static_rate(path: str, size: int, seconds: float, cpus: tuple[int, ...]) -> float:
    """Rows per second with as many rows of each width; in a process of its own."""
    import onnxruntime as ort

    os.sched_setaffinity(0, cpus)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = len(cpus), 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batches = [lines(width, size) for width in WIDTHS]
    for batch in batches:
        session.run(None, {"x": batch})
    rows, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        for batch in batches:
            session.run(None, {"x": batch})
            rows += size
    return rows / spent


def tuned_rate(path: Path, seconds: float, cores: Cores) -> tuple[float, float]:
    """Rows per second through the sidecar, and rows per batch."""
    model = {"name": "m", "artifacts": [{"format": "onnx", "uri": path.as_uri()}], "batching": {"maxSize": 32}}
    requests = [request_for({"x": lines(width, 1)}) for width in WIDTHS]
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


@click.command(help=(__doc__ or "").strip())
@click.option("--rounds", type=int, default=2, show_default=True)
@click.option("--seconds", type=float, default=4.0, show_default=True)
@click.option("--both", is_flag=True, help="Two threads on both CPUs.")
@click.option("--json", "out", type=click.Path(path_type=Path), default=None, help="Write the rounds to this file.")
def main(rounds: int, seconds: float, both: bool, out: Path | None) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise click.ClickException("two CPUs are needed: one for the framework, one for sidecar and callers")
    framework, rest = (tuple(cpus[:2]), tuple(cpus[:2])) if both else ((cpus[0],), (cpus[1],))
    os.sched_setaffinity(0, rest)
    path = network()
    static: dict[int, list[float]] = {size: [] for size in SIZES}
    tuned = []
    for _ in range(rounds):
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for size in SIZES:
                static[size].append(pool.apply(static_rate, (str(path), size, seconds, framework)))
        tuned.append(tuned_rate(path, seconds, Cores(server=rest, client=framework)))
    print("| " + " | ".join(f"static {size}" for size in SIZES) + " | tuned (mean batch) |")
    print("|" + "---|" * (len(SIZES) + 1))
    medians = [f"{statistics.median(rates):.1f}" for rates in static.values()]
    rate, batch = (statistics.median(column) for column in zip(*tuned, strict=True))
    print("| " + " | ".join(medians) + f" | **{rate:.1f}** ({batch:.1f}) |")
    if out is not None:
        out.write_text(json.dumps({"static": static, "tuned": tuned}))


if __name__ == "__main__":
    main()
