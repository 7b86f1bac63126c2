"""The counts of tasks when failed items were run again. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from batchwright_worker.api.messages import TaskState
from batchwright_worker.runner.progress import merged_tasks


def repeated_tasks(old: Sequence[TaskState], new: Sequence[TaskState], causes: Sequence[str]) -> list[TaskState]:
    """Rows, requests and times are those of both runs; items count once: a task's failures of the first run, of which
    `causes` has the task of each item, are those of the second one now."""
    before, after = {task.name: task for task in old}, {task.name: task for task in new}
    gone, items = Counter(causes), max((each.succeeded + each.failed for each in old), default=0)
    found = []
    for task in merged_tasks([old, new]):
        first, second = before.get(task.name), after.get(task.name)
        failed = (first.failed if first else 0) - gone[task.name] + (second.failed if second else 0)
        failed = max(0, failed)
        found.append(
            msgspec.structs.replace(task, failed=failed, succeeded=min(task.succeeded, max(0, items - failed)))
        )
    return found
