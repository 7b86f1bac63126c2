"""The framework driven directly, without Batchwright: a process that runs batches when it is told to.

    python -m e2e.bench.networks.direct WORKLOAD FORMAT THREADS

Each line on standard input is JSON, {"batch": n, "seconds": s, "sorted": bool}; the answer is {"rows_per_second": r}.
`sorted`: of every 64 rows the short ones share batches, as sentence-transformers does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from e2e.bench.networks.workloads import WORKLOADS, Array, Rows, Workload

Forward = Callable[[Rows], Array]
_SORTED_TOGETHER = 64


def main() -> None:
    """Load, say so, obey."""
    name, format_, threads = sys.argv[1:]
    workload = WORKLOADS[name]
    forward = forward_of(workload, format_, int(threads))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"rows_per_second": measured(workload, forward, **json.loads(line))}), flush=True)


def measured(workload: Workload, forward: Forward, batch: int, seconds: float, sorted: bool = False) -> float:  # noqa: A002
    """Rows per second; batches are made before the clock starts."""
    numbers = _batches(batch, sorted=sorted)
    made = [workload.batch(next(numbers)) for _ in range(max(1, 256 // batch) if workload.lengths else 2)]
    forward(made[0])
    rows, begin, turn = 0, time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds:
        forward(made[turn % len(made)])
        rows, turn = rows + batch, turn + 1
    return rows / spent


def _batches(size: int, *, sorted: bool) -> Iterator[Sequence[int]]:  # noqa: A002
    """Numbers of rows, batch after batch."""
    rows = count()
    while True:
        if not sorted:
            yield list(islice(rows, size))
            continue
        lengths = WORKLOADS[sys.argv[1]].lengths
        pool = list(islice(rows, max(size, _SORTED_TOGETHER)))
        pool.sort(key=lambda number: lengths[number % len(lengths)])
        yield from (pool[start : start + size] for start in range(0, len(pool), size))


def forward_of(workload: Workload, format_: str, threads: int) -> Forward:
    """The network as a function from a batch to its output."""
    path = workload.path(format_)
    return _onnx(workload, path, threads) if format_ == "onnx" else _torch(workload, format_, path, threads)


def _onnx(workload: Workload, path: Path, threads: int) -> Forward:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run([workload.output.name], dict(batch))[0]


def _torch(workload: Workload, format_: str, path: Path, threads: int) -> Forward:
    import torch

    torch.set_num_threads(threads)
    module: Any = torch.export.load(path).module() if format_ == "torch-export" else torch.jit.load(path).eval()

    def forward(batch: Rows) -> Array:
        with torch.inference_mode():
            answer = module(*(torch.from_numpy(batch[tensor.name]) for tensor in workload.inputs))
        array: Array = answer.numpy()
        return array

    return forward


if __name__ == "__main__":
    main()
