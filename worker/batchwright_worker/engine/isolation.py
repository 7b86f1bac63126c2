"""Run one batch so that a bad row fails alone: bisection, splitting when memory runs out.

An answer that is not what the model declares is a fact about the model: it fails the batch at once.

`run_isolated` reports every part through `IsolationReport` as soon as its fate is known, and raises PartsLost with
the parts whose fate is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from batchwright_worker.engine.pending import Part
from batchwright_worker.inference.runtime import (
    BatchFailed,
    NoSharedMemory,
    OutOfMemory,
    RunResult,
    Runtime,
    RuntimeBusy,
    RuntimeLost,
    WrongOutputs,
)


class IsolationReport(Protocol):
    """What `run_isolated` reports to: one batch's fate, part by part."""

    unbatched: frozenset[str]
    """The model's outputs without a batch dimension."""

    def device_lost(self) -> bool:
        """Has the runtime that this batch was given to died (there may be a new, empty one by now)?"""

    def limit_s(self, rows: int) -> float:
        """How long a run of `rows` may take."""

    def ran(self, rows: int, result: RunResult, whole: bool) -> None:
        """A run of `rows` went well; `whole`: it was the batch as dispatched."""

    def hand_out(self, parts: Sequence[Part], result: RunResult) -> None:
        """These parts, in this order, were the run that `ran` reported."""

    def failed(self, part: Part, message: str) -> None:
        """A part failed; its first row is the bad one if it has one row."""

    def turned_away(self, part: Part, busy: RuntimeBusy) -> None:
        """A part was not looked at: its caller may come again."""

    def out_of_memory(self, rows: int) -> int:
        """A run of `rows` did not fit; the most to try from now on."""

    async def make_room(self) -> bool:
        """Not even one row fits: unload an idle model of the device; False if there is none. Raises RuntimeTrouble."""


class PartsLost(Exception):  # noqa: N818 - said of the parts, as RuntimeLost of the runtime
    """The runtime died, or was ended, while it ran `running`; neither they nor `others` have a result or an error.
    `cause`: the loss; None where it came between two runs. `running` may be empty: its callers have left."""

    def __init__(self, running: list[Part], others: list[Part], why: str, cause: RuntimeLost | None = None) -> None:
        super().__init__(why)
        self.running = running
        self.others = others
        self.cause = cause


@dataclass(slots=True)
class _Budget:
    """How many more runs bisection may take: enough to find a few bad rows, not to try each row of a broken model."""

    runs: int


async def run_isolated(
    runtime: Runtime, model: str, parts: Sequence[Part], report: IsolationReport, ended: Exception | None = None
) -> None:
    """Run the parts as one batch; on an error run halves until the bad rows are known (at most 6 log2(n) + 4 runs).
    `ended`: what the first run, of all parts, has ended with already."""
    total = sum(part.rows for part in parts)
    budget = _Budget(runs=6 * math.ceil(math.log2(total + 1)) + 4)
    work, limit = [list(parts)], total
    if isinstance(ended, RuntimeLost):
        raise _lost([part for part in parts if part.pending.waits], [], ended)
    while work:
        batch = [part for part in work.pop() if part.pending.waits]
        rows = sum(part.rows for part in batch)
        if rows > limit:
            work += reversed(halves(batch, limit))
            continue
        if not batch:
            continue
        budget.runs -= 1
        others = [part for rest in work for part in rest]
        if ended is None and report.device_lost():
            raise PartsLost([], [*batch, *others], "the runtime died between two runs")
        try:
            first, ended = ended, None
            result = await _run(runtime, model, batch, rows, report, first)
        except RuntimeLost as lost:
            raise _lost(batch, others, lost) from lost
        except OutOfMemory as trouble:
            # B5's option 2, where the device itself says that memory is short and the books did not.
            if rows == 1 and not isinstance(trouble, NoSharedMemory) and await report.make_room():
                work.append(batch)
                budget.runs += 1
                continue
            limit = report.out_of_memory(rows)
            _split_or_fail(batch, rows, f"out of device memory with a batch of {rows}: {trouble}", work, report.failed)
        except (RuntimeBusy, WrongOutputs) as trouble:
            _end_all(batch, trouble, report)
        except BatchFailed as trouble:
            _split_or_fail(batch, rows if budget.runs > 0 else 1, str(trouble), work, report.failed)
        else:
            report.ran(rows, result, rows == total)
            report.hand_out(batch, result)


def _lost(batch: list[Part], others: list[Part], lost: RuntimeLost) -> PartsLost:
    """Nothing that the process had not begun has killed it."""
    running = batch if lost.begun else []
    return PartsLost(running, others if lost.begun else [*batch, *others], str(lost), lost)


async def _run(
    runtime: Runtime,
    model: str,
    batch: Sequence[Part],
    rows: int,
    report: IsolationReport,
    ended: Exception | None,
) -> RunResult:
    if ended is not None:
        raise ended
    parts = [part.pending.rows_of(part.start, part.rows) for part in batch]
    result = await runtime.run(model, parts, rows, report.limit_s(rows))
    if (wrong := wrong_outputs(result, rows, report.unbatched)) is not None:
        raise wrong
    return result


def wrong_outputs(result: RunResult, rows: int, unbatched: frozenset[str] = frozenset()) -> WrongOutputs | None:
    """An error unless all outputs but the `unbatched` ones have as many rows as the batch."""
    for name, array in result.outputs.items():
        if (array.ndim == 0 or array.shape[0] != rows) and name not in unbatched:
            return WrongOutputs(
                f"output {name!r} is not as declared: wanted {rows} rows in its first dimension, given the shape "
                f"{list(array.shape)}"
            )
    return None


def _split_or_fail(
    batch: list[Part], rows: int, message: str, work: list[list[Part]], failed: Callable[[Part, str], None]
) -> None:
    """Work on halves of the batch's `rows`; one row is not split."""
    if rows == 1:
        _fail_all(batch, message, failed)
        return
    first, second = halves(batch, rows // 2)
    work.append(second)
    work.append(first)


def _fail_all(batch: Sequence[Part], message: str, failed: Callable[[Part, str], None]) -> None:
    for part in batch:
        failed(part, message)


def _end_all(batch: Sequence[Part], trouble: RuntimeBusy | WrongOutputs, report: IsolationReport) -> None:
    """No row is to blame, so none is searched; to a server that has no time, halves would be so many more requests."""
    for part in batch:
        if isinstance(trouble, RuntimeBusy):
            report.turned_away(part, trouble)
        else:
            report.failed(part, str(trouble))


def halves(batch: Sequence[Part], rows: int) -> tuple[list[Part], list[Part]]:
    """The first `rows` rows and the rest; a part that lies across is cut."""
    first: list[Part] = []
    second: list[Part] = []
    for part in batch:
        taken = min(rows, part.rows)
        rows -= taken
        if taken:
            first.append(Part(part.pending, part.start, taken))
        if taken < part.rows:
            second.append(Part(part.pending, part.start + taken, part.rows - taken))
    return first, second
