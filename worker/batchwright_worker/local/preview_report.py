"""What `run --plan` tells: the plan, each task, the first results, and an estimate. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from batchwright_worker.local.progress_display import duration
from batchwright_worker.runner.errors import shortened
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.outputs.error_records import ErrorRecord
from batchwright_worker.runner.storage.plan_file import PlanFile

_TEXT: Final = 300
_VALUES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the whole job takes, by `items` that took `seconds`."""

    items: int
    seconds: float
    part_bytes: int
    total: int

    @property
    def rate(self) -> float:
        """Items per second."""
        return self.items / max(self.seconds, 1e-9)

    @property
    def total_seconds(self) -> float:
        """Of all items."""
        return self.total / self.rate

    @property
    def total_bytes(self) -> int:
        """Of all parts."""
        return round(self.part_bytes * self.total / max(self.items, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What `run` would do. `tasks`: what each is and what it is called with; `records`: of the first items, results as
    they would be written; `errors`: of those that failed."""

    job: Job
    plan: PlanFile
    output_state: str
    tasks: Sequence[Mapping[str, Any]]
    records: Sequence[Mapping[str, Any]]
    errors: Sequence[ErrorRecord]
    estimate: Estimate

    @property
    def failed(self) -> int:
        """Items that failed, of those that were tried first."""
        return len(self.errors)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        plan, estimate = self.plan, self.estimate
        return {
            "reason": "FailedItems" if self.errors else "Planned",
            "items": plan.items,
            "shards": len(plan.shards),
            "files": len(plan.files()),
            "filesLeftOut": plan.left_out,
            "leftOutNames": plan.left_out_names,
            "output": self.job.spec.output.uri,
            "outputState": self.output_state,
            "tasks": list(self.tasks),
            "firstRecords": [_plain(record) for record in self.records],
            "firstErrors": [
                {"item": error.id, "task": error.error.task, "message": error.error.message} for error in self.errors
            ],
            "estimate": {
                "measuredItems": estimate.items,
                "measuredSeconds": round(estimate.seconds, 3),
                "itemsPerSecond": round(estimate.rate, 3),
                "seconds": round(estimate.total_seconds, 1),
                "outputBytes": estimate.total_bytes,
            },
        }

    def as_text(self) -> str:
        """For people."""
        spec, plan, estimate = self.job.spec, self.plan, self.estimate
        lines = [
            f"{self.job.name}: {plan.items} items of {len(plan.files())} files in {spec.input.uri}, in "
            f"{len(plan.shards)} shards of {spec.input.shard_size}",
        ]
        if plan.selection is not None:
            lines.append(f"not the whole input: {plan.selection.title}")
        if plan.left_out:
            lines.append(f"left out of the input: {plan.left_out} files, first {', '.join(plan.left_out_names[:5])}")
        lines.append(f"output: {spec.output.uri} as {plan.suffix}: {self.output_state}")
        lines += [_task_line(task) for task in self.tasks]
        shown = len(self.records) + len(self.errors)
        lines.append(f"the first {shown} items:")
        lines += [f"  {shortened(json.dumps(_plain(record), ensure_ascii=False), _TEXT)}" for record in self.records]
        lines += [f"  failed: {each.id}, task {each.error.task}: {each.error.message}" for each in self.errors]
        lines.append(
            f"estimate: {estimate.rate:.4g} items/s here ({estimate.items} items took {estimate.seconds:.1f} s), so "
            f"about {duration(estimate.total_seconds)} and {_size(estimate.total_bytes)} for all; nothing was written"
        )
        return "\n".join(lines)


def _task_line(task: Mapping[str, Any]) -> str:
    takes, makes = ", ".join(task["takes"]), ", ".join(task["makes"])
    after = f" -> {makes}" if makes else ""
    if "function" in task:
        args = ", ".join(f"{name}={value!r}" for name, value in task["args"].items())
        return f"task {task['name']}: {task['function']}({shortened(args, _TEXT)}) of {takes}{after}"
    return f"task {task['name']}: model {task['model']} ({', '.join(task['inputs'])}){after}, of {takes}"


def _plain(value: Any) -> Any:
    """Long lists cut, bytes counted."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        cut = [_plain(each) for each in value[:_VALUES]]
        return cut if len(value) <= _VALUES else [*cut, f".. {len(value)} values"]
    if isinstance(value, float | int | str | bool) or value is None:
        return value
    return str(value)


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.4g} {unit}"
        count /= 1024
    raise AssertionError
