"""What one decision of layer-by-layer scheduling costs, by the number of models (layerwise.md: <= 200 us at 8).

`python -m e2e.bench.layerwise.decisions`: for 1 to 32 models with a request each (the eight networks of `layerwise
simulate`, over and over), the time of one decision of a plan (without the guard every candidate is probed every time;
with it, the more models the more often one of them is overdue), and of one in an executor's loop with its corrections.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.table import Table

from batchwright_worker.layerwise.core.policy import Balanced, Literal, Policy
from batchwright_worker.layerwise.core.scheduler import LayerScheduler
from batchwright_worker.layerwise.core.skip_limit import auto_skip_limit, fill_time
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Layer, ModelRequest
from batchwright_worker.layerwise.tools.npu_model import REFERENCE_NPU
from batchwright_worker.layerwise.tools.published_networks import NETWORKS, layers_of

NUMBERS: Final = (1, 2, 4, 8, 16, 32)
BLOCK: Final = 200
BLOCKS: Final = 25


def models_of(number: int) -> dict[str, tuple[Layer, ...]]:
    """So many models: the networks in turn."""
    names = itertools.islice(itertools.cycle(NETWORKS), number)
    return {f"{name} {place}": layers_of(name, REFERENCE_NPU) for place, name in enumerate(names)}


class Loop:
    """A closed loop, one decision at a time."""

    def __init__(self, models: dict[str, tuple[Layer, ...]], policy: Policy, *, live: bool) -> None:
        self.models = models
        self.live = live
        self.scheduler = LayerScheduler(Timeline(REFERENCE_NPU.memory_bytes, live=live), policy)
        self.orders = itertools.count()
        for model in models:
            self.submit(model, 0)

    def submit(self, model: str, arrival: int) -> None:
        """The model's next request."""
        request = ModelRequest(model=model, layers=self.models[model], arrival=arrival, order=next(self.orders))
        self.scheduler.submit(request)

    def decide(self) -> None:
        """One decision; live, everything that has ended by then is measured first, as planned."""
        scheduler = self.scheduler
        timeline = scheduler.timeline
        now = timeline.memory_free
        step = scheduler.decide(now) if self.live else scheduler.step()
        assert step is not None
        decision, placement = step
        if self.live:
            timeline.correct(placement.sequence, fetch_end=placement.fetch_end)
            timeline.correct(placement.sequence, compute_end=placement.compute_end)
        if decision.last:
            self.submit(decision.request.model, now)


def microseconds(decide: Callable[[], None]) -> tuple[float, float]:
    """(median, worst) over blocks of decisions of the mean of a block, in time of the processor (others may be at work
    on the machine); the collector runs between blocks only."""
    taken = []
    gc.disable()
    for _ in range(BLOCKS):
        started = time.thread_time()
        for _ in range(BLOCK):
            decide()
        taken.append((time.thread_time() - started) / BLOCK * 1e6)
        gc.collect()
    gc.enable()
    return statistics.median(taken), max(taken)


def main() -> None:
    """Print the table."""
    table = Table(title="microseconds of processor time per decision: median (worst block of 200)")
    for heading in (
        "models",
        "literal, no guard",
        "balanced, no guard",
        "per candidate",
        "balanced",
        "balanced, executor",
    ):
        table.add_column(heading, justify="right")
    for number in NUMBERS:
        models = models_of(number)
        limit = auto_skip_limit(models.values(), REFERENCE_NPU.memory_bytes)
        filled = fill_time(models.values(), REFERENCE_NPU.memory_bytes)
        literal = microseconds(Loop(models, Literal(0), live=False).decide)
        every = microseconds(Loop(models, Balanced(0, filled), live=False).decide)
        balanced = microseconds(Loop(models, Balanced(limit, filled), live=False).decide)
        live = microseconds(Loop(models, Balanced(limit, filled), live=True).decide)
        one, two, three, four = (f"{median:.1f} ({worst:.1f})" for median, worst in (literal, every, balanced, live))
        table.add_row(str(number), one, two, f"{every[0] / number:.1f}", three, four)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
