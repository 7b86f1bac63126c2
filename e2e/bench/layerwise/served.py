"""Models of 100 MB each, more than their memory holds, served in every mode of layerwise under one load; a model is
added in mid-run, then the runtime process is killed.

Closed loop, so many callers per model, every answer compared with the first of its model, readiness asked for 20 times
a second. Told per mode: answers per second, p50 and p99, what failed, and of each event how long others were late and
when each model answered again. The bars are those of modes that stream; Off is there to compare with.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from batchwright_worker.layerwise.tools.samples import write_conv, write_wide
from e2e.bench.layerwise.disturbance import Answer, Heard, Judged, judged, percentile
from e2e.bench.layerwise.places import Place, Served
from e2e.bench.networks.served import binary_body

__all__ = ["ADDED", "ALL_MODES", "MODES", "Figures", "Load", "bars_of", "measure", "write_models"]

MODES: Final = ("Off", "Balanced", "Auto", "Rollout")
ALL_MODES: Final = (*MODES, "Literal")
ADDED: Final = "added"
_SHAPES: Final = {"resnet50": ("images", (3, 224, 224)), "wide": ("x", (2048,)), "deep": ("x", (1024,))}
_ADDED_SHAPE: Final = ("x", (1024,))
_READY_EVERY_S: Final = 0.05
FIRST_ANSWER_S: Final = 5.0
LATE_S: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`callers` per model; bytes of `memory` for weights where models are streamed, of `whole_memory` for the whole
    process in mode Off."""

    seconds: float
    callers: int
    memory: int
    whole_memory: int


@dataclass(slots=True, kw_only=True)
class Figures:
    """Of one mode. `load_seconds`: what adding the model took."""

    mode: str
    place: str
    seconds: float
    per_second: dict[str, float] = field(default_factory=dict)
    p50_ms: dict[str, float] = field(default_factory=dict)
    p99_ms: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    wrong: int = 0
    unready: int = 0
    load_seconds: float = 0.0
    added: Judged | None = None
    killed: Judged | None = None
    bars: dict[str, bool] = field(default_factory=dict)


def write_models(folder: Path) -> dict[str, Path]:
    """Four of about 100 MB: ResNet-50, and MatMuls of 16 and of 4 MiB."""
    files = {name: folder / f"{name}.onnx" for name in (*_SHAPES, ADDED)}
    write_conv(files["resnet50"])
    write_wide(files["wide"], layers=6, width=2048)
    write_wide(files["deep"], layers=24, width=1024)
    write_wide(files[ADDED], layers=24, width=1024)
    return files


def document(place: Place, files: Mapping[str, Path], mode: str, load: Load) -> dict[str, Any]:
    """All four models, of which one is unloaded before the measurement; the same memory for weights in every mode."""
    models = [
        {
            "name": name,
            "artifacts": [{"accelerator": "cpu", "format": "onnx", "uri": place.uri(path)}],
            "batching": {"maxSize": 4},
        }
        for name, path in files.items()
    ]
    runtime: dict[str, Any] = {"accelerator": "cpu", "resources": {"requests": {"cpu": "300m", "memory": "512Mi"}}}
    if mode == "Off":
        runtime["memoryBudgetBytes"] = load.whole_memory
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": f"served-{mode.lower()}"},
        "spec": {
            "models": models,
            "runtimes": [runtime],
            "repositoryControl": True,
            "layerwise": {"mode": mode} if mode == "Off" else {"mode": mode, "memoryBudgetBytes": load.memory},
        },
    }


async def measure(place: Place, files: Mapping[str, Path], mode: str, load: Load) -> Figures:
    """A third of the seconds steady, a third from the adding on, a third from the kill on."""
    seconds = load.seconds
    figures = Figures(mode=mode, place=place.name, seconds=seconds)
    async with place.served(document(place, files, mode, load)) as here:
        await _ready(here)
        await _repository(here, "unload")
        async with _loaded(here, load.callers, figures) as heard:
            await asyncio.sleep(3.0)  # first answers, and what is planned from them
            steady = time.monotonic()
            await asyncio.sleep(seconds / 3)
            added = time.monotonic()
            await _repository(here, "load")
            figures.load_seconds = time.monotonic() - added
            await asyncio.sleep(max(1.0, seconds / 3 - figures.load_seconds))
            killed = time.monotonic()
            here.kill()
            await asyncio.sleep(seconds / 3)
            end = time.monotonic()
        for model, each in heard.items():
            times = [answer.seconds for answer in each.between(steady, added)]
            figures.per_second[model] = len(times) / (added - steady)
            figures.p50_ms[model], figures.p99_ms[model] = (percentile(times, share) * 1e3 for share in (0.5, 0.99))
            figures.failed += each.failed
            figures.wrong += each.wrong
        figures.added = judged(heard, (steady, added), added, killed)
        figures.killed = judged(heard, (steady, added), killed, end)
    figures.bars = bars_of(figures)
    return figures


def bars_of(figures: Figures) -> dict[str, bool]:
    """What must hold, and whether it does."""
    assert figures.added is not None
    assert figures.killed is not None
    return {
        "nothing failed": not figures.failed and not figures.wrong,
        "ready throughout": not figures.unready,
        f"others late for at most {LATE_S} s when a model is added": max(figures.added.late.values()) <= LATE_S,
        f"first answers within {FIRST_ANSWER_S:.0f} s of a kill": max(figures.killed.first.values()) <= FIRST_ANSWER_S,
        # The first answers are late by as much as the process takes to serve again: that, and what piled up meanwhile.
        f"late for at most {LATE_S} s behind a kill": max(figures.killed.late.values()) <= LATE_S,
    }


def as_json(found: list[Figures]) -> str:
    """All of it."""
    return json.dumps([asdict(each) for each in found], indent=2)


async def _ready(here: Served) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(180):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{here.url}/v2/health/ready") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.2)


async def _repository(here: Served, change: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{here.url}/v2/repository/models/{ADDED}/{change}") as answer,
    ):
        if answer.status != 200:
            raise RuntimeError(f"{change} of a model: {answer.status} {await answer.text()}")


@contextlib.asynccontextmanager
async def _loaded(here: Served, callers: int, figures: Figures) -> AsyncIterator[dict[str, Heard]]:
    """The callers, and who asks for readiness, as long as the block lasts; then every request gets its answer."""
    heard, stop = {name: Heard() for name in _SHAPES}, asyncio.Event()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for name in _SHAPES:
            for _ in range(callers):
                group.create_task(_call(session, here, name, heard[name], stop))
        group.create_task(_watch(session, here, figures, stop))
        try:
            yield heard
        finally:
            stop.set()


async def _watch(session: aiohttp.ClientSession, here: Served, figures: Figures, stop: asyncio.Event) -> None:
    while not stop.is_set():
        async with session.get(f"{here.url}/v2/health/ready") as answer:
            figures.unready += answer.status != 200
        await asyncio.sleep(_READY_EVERY_S)


async def _call(session: aiohttp.ClientSession, here: Served, model: str, heard: Heard, stop: asyncio.Event) -> None:
    tensor, shape = _SHAPES[model]
    length, body = binary_body({tensor: np.random.default_rng(3).standard_normal((1, *shape), dtype=np.float32)})
    headers = {"Inference-Header-Content-Length": str(length), "Content-Type": "application/octet-stream"}
    expected: np.ndarray[Any, np.dtype[np.float32]] | None = None
    while not stop.is_set():
        begin = time.monotonic()
        try:
            async with session.post(f"{here.url}/v2/models/{model}/infer", data=body, headers=headers) as answer:
                got = await answer.read()
                if answer.status != 200:
                    heard.failed.append(f"{model}: {answer.status} {got[:200]!r}")
                    await asyncio.sleep(0.05)
                    continue
        except aiohttp.ClientError as error:
            heard.failed.append(f"{model}: {error!r}")
            await asyncio.sleep(0.05)
            continue
        found = np.frombuffer(got[int(answer.headers["Inference-Header-Content-Length"]) :], np.float32)
        expected = found if expected is None else expected
        # Rows that share a batch with others are summed in another order.
        if not np.allclose(found, expected, rtol=1e-3, atol=1e-3):
            heard.wrong += 1
        now = time.monotonic()
        heard.answers.append(Answer(now, now - begin))
