"""`python -m e2e.bench.gpu.serving`: ResNet-50 and a transformer on a GPU, through the sidecar and driven directly.

It needs nothing from outside: weights are random (half precision), programs are exported into a scratch folder. Beside
torch with CUDA it needs the packages of NEEDED; `--needs` names those that are missing here. On a machine without an
index bring them as wheels: `pip download --no-deps -d .whl NAME==VERSION` with the versions of locks/worker.txt, then
`pip install --no-index --no-deps --target SITE .whl/*.whl` there, and SITE on PYTHONPATH.

Driven directly means from host memory to host memory, the best batch size, CUDA's default stream; "pipelined" is the
same through pinned memory on two streams in turn, so that one batch's copies run beside the other's kernels; "resident"
has its input on the device already: what the arithmetic alone allows. The ratio is over the better of the first two.

`--dry-run` does all of it with tiny networks on the CPU, the pipelined arm on a stand-in for the GPU, and has no
figures to tell: it fails where the run would fail, by an error or an answer that differs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

NEEDED: Final = (
    "aiohttp",
    "click",
    "google.protobuf",
    "grpc",
    "httptools",
    "jsonschema",
    "ml_dtypes",
    "msgspec",
    "numpy",
    "prometheus_client",
    "psutil",
    "pynvml",
    "rich",
    "torch",
    "uvicorn",
    "uvloop",
    "yaml",
)
BAR: Final = 0.9
SIZES: Final = (1, 4, 8, 16, 32, 64, 128)
_SAMPLE_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One network: `shape` and `datatype` of its only input per row, and how many rows a caller sends at a time."""

    name: str
    input: str
    datatype: str
    shape: tuple[int, ...]
    rows: int


CASES: Final = {
    case.name: case
    for case in (
        Case(name="resnet50", input="images", datatype="UINT8", shape=(3, 224, 224), rows=4),
        Case(name="transformer", input="tokens", datatype="INT64", shape=(128,), rows=8),
    )
}


@dataclass(slots=True, kw_only=True)
class Result:
    """Rows per second of every arm, the rounds in order."""

    case: str
    best: int = 0
    sweep: dict[int, float] = field(default_factory=dict)
    resident: float = 0.0
    pipelined: float = 0.0
    direct: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    batch: float = 0.0
    utilization_direct: float = 0.0
    utilization_served: float = 0.0
    sidecar_cores: float = 0.0
    failed: int = 0

    @property
    def ratio(self) -> float:
        """Median over the rounds, over the better way to drive it directly."""
        return statistics.median(
            ours / max(theirs, self.pipelined) for ours, theirs in zip(self.served, self.direct, strict=True)
        )


def missing() -> list[str]:
    """Modules that are needed and not here."""

    def lacks(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is None
        except ModuleNotFoundError:
            return True

    return [name for name in NEEDED if lacks(name)]


def main() -> None:
    """Parse without click, so that missing packages can be told."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--needs", action="store_true", help="name what is missing here and end")
    parser.add_argument("--only", choices=sorted(CASES), default=None)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: only to try this program")
    parser.add_argument("--dry-run", action="store_true", help="tiny networks on the CPU: does all of it run?")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-size", type=int, default=128)
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", "build")), help="for gpu.md and gpu.json"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--drive", nargs=2, metavar=("CASE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dry_run:
        options.device, options.seconds, options.rounds, options.max_size = "cpu", 0.4, 1, 4
    if lacking := missing():
        sys.exit(f"missing here: {', '.join(lacking)}; bring them as wheels (see --help)")
    if options.needs:
        print("nothing is missing")
    elif options.drive:
        drive(CASES[options.drive[0]], Path(options.drive[1]), options.device)
    else:
        results = [measure(CASES[name], options) for name in ([options.only] if options.only else CASES)]
        report(results, options)


# --- networks ------------------------------------------------------------------------------------


def module_of(case: Case, *, trial: bool, tiny: bool = False) -> Any:
    """In half precision, in evaluation mode, on the CPU. A trial without a GPU gets a smaller transformer, in full
    precision, because CPUs are slow at halves; a `tiny` one also a network of two layers in ResNet-50's place."""
    import torch

    from e2e.bench.networks.minilm import BASE, MINI, Model, Size
    from e2e.bench.networks.resnet50 import ResNet50

    class Pictures(torch.nn.Module):  # type: ignore[misc]
        """Bytes 0..255 -> logits."""

        def __init__(self) -> None:
            super().__init__()
            small = torch.nn.Conv2d(3, 8, 7, stride=32), torch.nn.Flatten(), torch.nn.LazyLinear(10)
            self.network = torch.nn.Sequential(*small) if tiny else ResNet50()
            if tiny:
                self.network(torch.zeros(1, *case.shape))

        def forward(self, images: Any) -> Any:
            return self.network(images.to(dtype) / 255 - 0.5).float()

    class Sentences(torch.nn.Module):  # type: ignore[misc]
        """Token numbers, none of them padding -> embeddings."""

        def __init__(self) -> None:
            super().__init__()
            size = Size(hidden=48, layers=2, inner=96, heads=4) if tiny else MINI if trial else BASE
            self.network = Model(size)

        def forward(self, tokens: Any) -> Any:
            return self.network(tokens, torch.ones_like(tokens)).float()

    torch.manual_seed(1)
    dtype = torch.float32 if trial else torch.float16
    return (Pictures() if case.name == "resnet50" else Sentences()).to(dtype).eval()


def exported(case: Case, folder: Path, *, trial: bool, tiny: bool = False) -> Path:
    """The program's file."""
    import torch

    path = folder / f"{case.name}.pt2"
    example = torch.from_numpy(inputs_of(case, 2))
    rows = torch.export.Dim("rows", min=1, max=4096)
    with torch.no_grad():
        torch.export.save(
            torch.export.export(module_of(case, trial=trial, tiny=tiny), (example,), dynamic_shapes=({0: rows},)), path
        )
    return path


def inputs_of(case: Case, rows: int, seed: int = 0) -> Any:
    """Random rows."""
    import numpy as np

    most, dtype = (256, np.uint8) if case.datatype == "UINT8" else (30_000, np.int64)
    return np.random.default_rng(seed).integers(0, most, (rows, *case.shape), dtype=dtype)


# --- the direct arm, a process of its own --------------------------------------------------------


def drive(case: Case, path: Path, device: str) -> None:
    """Obeys lines of JSON on standard input: {"batch": n, "seconds": s, "way": ..}; {"answer": true} asks for the
    answer to `inputs_of(case, 4)`."""
    import torch

    program = torch.export.load(path)
    if device == "cuda":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, torch.device("cuda", 0))
    module = program.module()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        with torch.inference_mode():
            if asked.get("answer"):
                told: Any = module(torch.from_numpy(inputs_of(case, 4)).to(device)).cpu().tolist()
            else:
                told = _driven(module, case, device, **asked)
        print(json.dumps({"told": told}), flush=True)


def _driven(
    module: Any, case: Case, device: str, *, batch: int, seconds: float, way: Literal["direct", "resident", "pipelined"]
) -> float:
    import torch

    if way == "pipelined":
        return _pipelined(module, case, device, batch, seconds)
    resident = way == "resident"
    given = [torch.from_numpy(inputs_of(case, batch, seed)) for seed in range(2)]
    there = [each.to(device) for each in given]

    def once(turn: int) -> None:
        answer = module(there[turn % 2] if resident else given[turn % 2].to(device))
        if not resident:
            answer.cpu()

    for turn in range(4):
        once(turn)
    _settle(device)
    begin, turns = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds:
        for _ in range(4):
            once(turns)
            turns += 1
        _settle(device)
    return turns * batch / spent


def _pipelined(module: Any, case: Case, device: str, batch: int, seconds: float) -> float:
    """Two lanes, each with pinned memory and a stream of its own: what one copies runs beside what the other computes.
    Rows per second; an answer is counted once it is in host memory."""
    import torch

    from batchwright_worker.layerwise.execution.cuda_driver import TorchCuda
    from e2e.bench.gpu.stand_in import StandIn

    driver: Any = TorchCuda() if device == "cuda" else StandIn()
    lanes = [_Lane(driver, module, torch.from_numpy(inputs_of(case, batch, seed))) for seed in range(2)]
    for turn in range(4):
        lanes[turn % 2].run()
    for lane in lanes:
        lane.wait()
    begin, turns = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds:
        lanes[turns % 2].run()
        turns += 1
    for lane in lanes:
        lane.wait()
        lane.close()
    return turns * batch / max(spent, time.perf_counter() - begin)


class _Lane:
    """One batch at a time on its way to the device, through it and back."""

    def __init__(self, driver: Any, module: Any, given: Any) -> None:
        self._driver, self._module = driver, module
        self._stream, self._ended = driver.stream(), driver.event()
        self._pinned = driver.pinned(given.numel() * given.element_size())
        self._host = self._pinned.view(given.dtype).view(given.shape)
        self._host.copy_(given)
        self._there = self._host.to(driver.device)
        self._answer: Any = None
        self._back: Any = None

    def run(self) -> None:
        """Begin the next batch, when the one before is back."""
        import torch

        self.wait()
        driver, stream = self._driver, self._stream

        def compute() -> None:
            with torch.inference_mode():
                self._answer = self._module(self._there)

        def bring_back() -> None:
            if self._back is None:
                self._back = driver.pinned(self._answer.numel() * self._answer.element_size())
            self._back.view(self._answer.dtype).view(self._answer.shape).copy_(self._answer, non_blocking=True)

        driver.queue(stream, "copy in", lambda: self._there.copy_(self._host, non_blocking=True))
        driver.queue(stream, "compute", compute)
        driver.queue(stream, "copy out", bring_back)
        self._ended.record(stream)

    def wait(self) -> None:
        """Until the last batch is back."""
        self._ended.synchronize()

    def close(self) -> None:
        """Give the pinned memory back."""
        for memory in (self._pinned, self._back):
            if memory is not None:
                self._driver.unpin(memory)


def _settle(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


class Driver:
    """The other end of `drive`."""

    def __init__(self, case: Case, path: Path, device: str) -> None:
        command = [sys.executable, "-m", "e2e.bench.gpu.serving", "--device", device, "--drive", case.name, str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def ask(self, **asked: Any) -> Any:
        """One line, one answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read()["told"]

    def close(self) -> None:
        """End it, so that its memory is free."""
        self._process.terminate()
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the direct arm has ended; its messages are above")
        return json.loads(line)


# --- both arms -----------------------------------------------------------------------------------


def measure(case: Case, options: Any) -> Result:
    """Both processes stay up; one of them is idle."""
    from e2e.bench.networks.served import ClosedLoop, batches_of, request_for
    from e2e.bench.servers import Cores, batchwright, deployment

    kind = "nvidia.com/gpu" if options.device == "cuda" else "cpu"
    result = Result(case=case.name)
    with tempfile.TemporaryDirectory(prefix="batchwright-gpu-") as scratch:
        path = exported(case, Path(scratch), trial=options.device == "cpu", tiny=options.dry_run)
        driver = Driver(case, path, options.device)
        sizes = [size for size in SIZES if size <= options.max_size]
        result.sweep = {size: driver.ask(batch=size, seconds=options.seconds / 4, way="direct") for size in sizes}
        result.best = max(result.sweep, key=result.sweep.__getitem__)
        result.resident = driver.ask(batch=result.best, seconds=options.seconds / 2, way="resident")
        result.pipelined = driver.ask(batch=result.best, seconds=options.seconds, way="pipelined")
        print(f"{case.name}: directly, rows/s by batch size: {result.sweep}", file=sys.stderr, flush=True)
        model = {
            "name": "m",
            "artifacts": [{"accelerator": kind, "format": "torch-export", "uri": path.as_uri()}],
            "batching": {"maxSize": options.max_size},
            "inputs": [{"name": case.input, "datatype": case.datatype, "shape": list(case.shape)}],
            "outputs": [{"name": "answer", "datatype": "FP32", "shape": [-1]}],
        }
        requests = [request_for({case.input: inputs_of(case, case.rows, seed)}) for seed in range(16)]
        callers = max(32, 3 * options.max_size // case.rows)
        with batchwright(deployment([model]), Cores(), kind) as server:
            check(case, driver, server)
            for _ in range(options.rounds):
                with utilization(options.device) as busy:
                    result.direct.append(driver.ask(batch=result.best, seconds=options.seconds, way="direct"))
                result.utilization_direct = busy()
                loop = ClosedLoop(server.port, requests)
                loop.start(callers)
                time.sleep(options.seconds / 3)
                before = batches_of(server)
                with utilization(options.device) as busy:
                    begin = time.perf_counter()
                    time.sleep(options.seconds)
                    while options.dry_run and not loop.rate(begin, time.perf_counter()):
                        time.sleep(0.1)  # its figures count for nothing, but that there are any
                    end = time.perf_counter()
                result.utilization_served = busy()
                rows, runs = (now - then for now, then in zip(batches_of(server), before, strict=True))
                loop.stop()
                result.served.append(loop.rate(begin, end) * case.rows)
                result.batch, result.failed = rows / max(1, runs), result.failed + loop.failed
        driver.close()
    return result


def check(case: Case, driver: Driver, server: Any) -> None:
    """Both arms answer the same, to half precision."""
    import numpy as np

    from e2e.bench.networks.served import answer_of

    wanted = np.array(driver.ask(answer=True), np.float32)
    given = answer_of(server, {case.input: inputs_of(case, 4)}, "answer")
    distance = float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))
    if not distance < 0.02:
        raise SystemExit(f"{case.name}: the sidecar's answers are {distance:.3f} away from the framework's")


@contextmanager
def utilization(device: str) -> Iterator[Callable[[], float]]:
    """Mean share of the time that the GPU ran kernels, by NVML; NaN where there is none."""
    samples: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        while not ended.wait(_SAMPLE_S):
            samples.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)

    thread = threading.Thread(target=watch, daemon=True)
    if device == "cuda":
        thread.start()
    yield lambda: statistics.mean(samples) if samples else float("nan")
    ended.set()


def report(results: Sequence[Result], options: Any) -> None:
    """The table on standard output and in `out`."""
    import torch

    product = torch.cuda.get_device_name(0) if options.device == "cuda" else "CPU (only a trial of this program)"
    lines = [
        f"{product}, torch {torch.__version__}, half precision, {options.rounds} rounds of {options.seconds:.0f} s",
        "",
        "| network | direct rows/s (batch) | pipelined | resident | sidecar rows/s (mean batch) | ratio "
        "| GPU busy direct / sidecar |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in results:
        direct, served = statistics.median(each.direct), statistics.median(each.served)
        busy = f"{each.utilization_direct:.0%} / {each.utilization_served:.0%}"
        note = f", {each.failed} failed" if each.failed else ""
        directly = f"{direct:.0f} ({each.best}) | {each.pipelined:.0f} | {each.resident:.0f}"
        lines.append(
            f"| {each.case} | {directly} | {served:.0f} ({each.batch:.1f}){note} | **{each.ratio:.3f}** | {busy} |"
        )
    text = "\n".join(lines)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.md").write_text(text + "\n")
    (options.out / "gpu.json").write_text(json.dumps([asdict(each) | {"ratio": each.ratio} for each in results]))
    if options.strict and any(each.ratio < BAR or each.failed for each in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
