"""The parts of a data set as they are with the results of failed items that were run again."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec

from batchwright_worker.api.messages import ItemFailure
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.outputs.error_records import ErrorRecord, error_records
from batchwright_worker.runner.outputs.merged_parts import MergeOrder, merge
from batchwright_worker.runner.outputs.part_files import rewrite_parquet
from batchwright_worker.runner.outputs.parts import (
    PartStatistics,
    common_schema,
    errors_name,
    has_schema,
    in_form,
    statistics_name,
    whole_part,
)
from batchwright_worker.runner.progress import FIRST_FAILURES
from batchwright_worker.runner.steps.commit import verified_parts
from batchwright_worker.runner.steps.retried_tasks import repeated_tasks
from batchwright_worker.runner.storage.locations import Location, output_errors, write_atomically
from batchwright_worker.runner.storage.plan_file import PlanFile
from batchwright_worker.runner.storage.retry_files import RetriedShard, RetryPlan, retry_output


def errors_of(output: Location, part: PartStatistics) -> list[ErrorRecord]:
    """The error records of a part."""
    try:
        return list(error_records(output, part.errors)) if part.errors else []
    except FileNotFoundError:
        return []


class RetriedParts:
    """Makes the parts as they will be, in `folder`, under their names."""

    def __init__(self, output: Location, plan: PlanFile, retry: RetryPlan, folder: Path) -> None:
        self._output = output
        self._plan = plan
        self._retry = retry
        self._results = retry_output(output)
        self._folder = folder

    def make(self) -> list[PartStatistics]:
        """The statistics of all parts, of which those that change are in the folder, and theirs in the output. Raises
        StepFailed."""
        with output_errors(self._output):
            return self._made()

    def _made(self) -> list[PartStatistics]:
        parts = verified_parts(self._output, self._plan)
        for each in self._retry.shards:
            old, new = parts[each.shard], self._result(parts[each.shard].name)
            if new.succeeded:
                parts[each.shard] = self._merged(old, new, each)
        if (schema := common_schema(parts)) is not None:
            parts = [self._of_schema(part, schema) for part in parts]
        for part in parts:
            if (self._folder / part.name).exists():
                write_atomically(self._output, statistics_name(part.name, part.digest), msgspec.json.encode(part))
        return parts

    def _result(self, name: str) -> PartStatistics:
        found = whole_part(self._results, name, self._retry.key)
        if found is None:
            raise StepFailed("PartMissing", f"{self._results.uri}/{name} is missing or damaged: run its shard again")
        return found

    def _merged(self, old: PartStatistics, new: PartStatistics, retried: RetriedShard) -> PartStatistics:
        errors = [
            msgspec.structs.replace(each, position=retried.positions[each.position])
            for each in errors_of(self._results, new)
        ]
        order = MergeOrder(
            items=old.items, retried=frozenset(retried.positions), failed=frozenset(each.position for each in errors)
        )
        path = self._folder / old.name
        with (
            self._output.fs.open(self._output.at(old.name), "rb") as before,
            self._results.fs.open(self._results.at(old.name), "rb") as after,
        ):
            schema = merge(before, after, order, path, self._plan.suffix)
        made = in_form(old, path, schema)
        return msgspec.structs.replace(
            made,
            succeeded=old.items - len(errors),
            failed=len(errors),
            errors=self._write_errors(old.name, made.digest, errors),
            tasks=repeated_tasks(old.tasks, new.tasks, [each.error.task for each in errors_of(self._output, old)]),
            failures=[
                ItemFailure(shard=retried.shard, item=each.id, task=each.error.task, message=each.error.message)
                for each in errors[:FIRST_FAILURES]
            ],
        )

    def _write_errors(self, name: str, digest: str, errors: list[ErrorRecord]) -> str:
        if not errors:
            return ""
        lines = b"".join(msgspec.json.encode(each) + b"\n" for each in errors)
        write_atomically(self._output, errors_name(name, digest), lines)
        return errors_name(name, digest)

    def _of_schema(self, part: PartStatistics, schema: Any) -> PartStatistics:
        """A part that does not change by the repeated items may have to by the schema of those that do."""
        if has_schema(part, schema):
            return part
        path = self._folder / part.name
        with contextlib.ExitStack() as stack:
            if path.exists():
                narrow = path.rename(path.with_suffix(".narrow"))
                stack.callback(narrow.unlink)
                source: Any = stack.enter_context(narrow.open("rb"))
            else:
                source = stack.enter_context(self._output.fs.open(self._output.at(part.name), "rb"))
            rewrite_parquet(source, path, schema)
        return in_form(part, path, schema)
