"""The commit step: verify every part against the plan, then write the manifest, last and once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from batchwright_worker.api.messages import CommitResult, ItemFailure, TaskState
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.contents import differences
from batchwright_worker.runner.inputs.inputs import format_of, source_files
from batchwright_worker.runner.inputs.items import SourceFile
from batchwright_worker.runner.inputs.reading import input_errors
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.outputs.part_files import rewrite_parquet
from batchwright_worker.runner.outputs.parts import (
    PartStatistics,
    common_schema,
    decoded_schema,
    has_schema,
    remove_errors,
    replace_part,
    whole_part,
)
from batchwright_worker.runner.outputs.temporaries import remove_temporaries, temporary_path
from batchwright_worker.runner.progress import FIRST_FAILURES, merged_tasks
from batchwright_worker.runner.steps.failure_limit import FailureLimit
from batchwright_worker.runner.steps.model_pins import PinnedModel, pinned_models
from batchwright_worker.runner.steps.shard import REPLACE, load_plan
from batchwright_worker.runner.storage.locations import Location, output_errors, write_atomically
from batchwright_worker.runner.storage.plan_file import MANIFEST_NAME, CodeDigests, PlanFile, Selection, part_name

_THREADS = 4
_OTHER_MEANING = ("OutputInUse", "CodeChanged", "InputChanged")


class ManifestPart(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """One part of the data set; `digest` is the SHA-256 of its file."""

    name: str
    items: int
    succeeded: int
    failed: int
    bytes: int
    digest: str
    errors: str = ""
    """File of its error records, below the output."""


class Retry(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """Failed items that were run again. `base`: digest of the data set before."""

    base: str
    items: int
    succeeded: int

    @property
    def failed(self) -> int:
        """Items that failed again."""
        return self.items - self.succeeded


class Manifest(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """`OUTPUT/_manifest.json`: it stands if and only if the data set is whole. `digest` is over the parts' digests."""

    version: int = 1
    job: str
    plan: str
    """Digest of the plan, input fingerprints included."""
    format: str
    items: int
    succeeded: int
    failed: int
    digest: str
    parts: list[ManifestPart]
    models: list[PinnedModel] = []
    """What answered the model tasks, as far as the servers tell it."""
    files_left_out: int = 0
    """Files that lie with the input and are none of it, of which some are named."""
    left_out_names: list[str] = []
    columns: dict[str, str] = {}
    """Name -> Arrow type, of Parquet parts."""
    code: CodeDigests = CodeDigests()
    """What the CPU tasks were made of, and the files that their arguments name."""
    selection: Selection | None = None
    """None: every item of the input; else the data set holds some of them, by wish."""
    retries: list[Retry] = []
    """Oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What stands in the output."""

    manifest: Manifest
    tasks: list[TaskState]
    failures: list[ItemFailure]
    retry: Retry | None = None
    """What was just done, if failed items were run again."""

    def result(self) -> CommitResult:
        """As the termination message tells it: of what this job ran."""
        counted = self.retry or self.manifest
        return CommitResult(
            items=counted.items,
            succeeded=counted.succeeded,
            failed=counted.failed,
            digest=self.manifest.digest,
            tasks=self.tasks,
            failures=self.failures,
        )


def commit(job: Job) -> Committed:
    """Verify and write the manifest; again: the same. Raises StepFailed(PartMissing | TooManyFailedItems | ...)."""
    output = job.output()
    plan = load_plan(job, output)
    parts = verified_parts(output, plan)
    _check_failed(job, parts)
    parts = _of_one_schema(output, parts)
    remove_temporaries(output)
    remove_errors(output, {part.errors for part in parts})
    earlier = read_manifest(output)
    manifest = manifest_of(job, plan, parts, pinned_models(output), earlier.retries if earlier is not None else [])
    raw = manifest_text(manifest)
    if output.read(MANIFEST_NAME) != raw:
        write_atomically(output, MANIFEST_NAME, raw)
    return committed_parts(manifest, parts)


def manifest_text(manifest: Manifest) -> bytes:
    """As it stands in the output."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def read_manifest(output: Location) -> Manifest | None:
    """None: the data set is not whole. Raises StepFailed(ManifestDamaged)."""
    raw = output.read(MANIFEST_NAME)
    try:
        return None if raw is None else msgspec.json.decode(raw, type=Manifest)
    except msgspec.MsgspecError as error:
        message = (
            f"{output.uri}/{MANIFEST_NAME} is damaged ({error}): remove it and run the job again, which verifies the "
            "parts and writes it anew"
        )
        raise StepFailed("ManifestDamaged", message) from error


def committed(job: Job) -> Committed | None:
    """What stands in the output if it is whole, of this very job, and of the input as it is now; None if it is not
    whole, or of another meaning and to be overwritten. Raises StepFailed(OutputInUse | CodeChanged | InputChanged) if
    it is of another meaning."""
    output = job.output()
    manifest = read_manifest(output)
    if manifest is None:
        return None
    try:
        plan = load_plan(job, output)
        check_input(job, plan, output)
    except StepFailed as error:
        if job.spec.output.mode == "Overwrite" and error.reason in _OTHER_MEANING:
            return None  # the plan step replaces it
        raise
    return committed_parts(manifest, verified_parts(output, plan))


def check_input(job: Job, plan: PlanFile, output: Location) -> None:
    """Raise StepFailed(InputChanged) if the input is not the one that the results are of."""
    location = job.input()
    try:
        files = used_files(source_files(location, format_of(job.spec.input)).files, plan)
    except StepFailed as error:
        if error.reason not in ("InputNotFound", "InputEmpty"):
            raise
        files = []
    with input_errors(location):
        changed = differences(location, plan.files(), files)
    if changed:
        message = (
            f"the results in {output.uri} are complete, but of another input: {len(changed)} files differ now, "
            f"{', '.join(changed[:3])}. Choose another output.uri for the new input, or {REPLACE}"
        )
        raise StepFailed("InputChanged", message)


def used_files(files: list[SourceFile], plan: PlanFile) -> list[SourceFile]:
    """Those that the plan is about: where it takes the first items alone, none behind the last file that has one."""
    if plan.selection is None or plan.selection.kind != "Limit":
        return files
    last = max(plan.files())
    return [file for file in files if file.path <= last]


def committed_parts(manifest: Manifest, parts: list[PartStatistics], retry: Retry | None = None) -> Committed:
    """What stands, with the numbers of all parts."""
    return Committed(
        retry=retry,
        manifest=manifest,
        tasks=merged_tasks([part.tasks for part in parts]),
        failures=[failure for part in parts for failure in part.failures][:FIRST_FAILURES],
    )


def verified_parts(output: Location, plan: PlanFile) -> list[PartStatistics]:
    """The statistics of every part. Raises StepFailed(PartMissing | PartDamaged)."""

    def verify(index: int) -> PartStatistics:
        name = part_name(index, plan.suffix)
        part = whole_part(output, name, plan.key)
        if part is None:
            message = f"{output.uri}/{name} is missing or damaged: run shard {index} again"
            raise StepFailed("PartMissing", message)
        if part.items != plan.shards[index].items or part.succeeded + part.failed != part.items:
            message = f"{output.uri}/{name} has {part.items} items, {plan.shards[index].items} were planned: remove it"
            raise StepFailed("PartDamaged", message)
        return part

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(verify, range(len(plan.shards))))


def _of_one_schema(output: Location, parts: list[PartStatistics]) -> list[PartStatistics]:
    """Rewrite the parts whose schema is narrower than that of all: a shard may have met whole numbers or nothing where
    others met fractions."""
    schema = common_schema(parts)
    if schema is None:
        return parts
    return [part if has_schema(part, schema) else _rewritten(output, part, schema) for part in parts]


def _rewritten(output: Location, part: PartStatistics, schema: Any) -> PartStatistics:
    temporary = temporary_path(output, part.name)
    with output_errors(output):
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with output.fs.open(output.at(part.name), "rb") as source:
            rewrite_parquet(source, temporary, schema)
    return replace_part(output, part, temporary, schema)


def _check_failed(job: Job, parts: list[PartStatistics]) -> None:
    limit = FailureLimit(
        most=job.spec.max_failed_items,
        succeeded=sum(part.succeeded for part in parts),
        failed=sum(part.failed for part in parts),
    )
    problem = limit.problem()
    if problem is not None:
        first = next(failure for part in parts for failure in part.failures)
        message = f"{problem}; the first one: item {first.item}, task {first.task}: {first.message}"
        raise StepFailed("TooManyFailedItems", message)


def manifest_of(
    job: Job, plan: PlanFile, parts: list[PartStatistics], models: list[PinnedModel], retries: list[Retry]
) -> Manifest:
    """The manifest of these parts, which are all. Pure."""
    return Manifest(
        job=job.name,
        plan=plan.digest,
        format=plan.suffix,
        items=plan.items,
        succeeded=sum(part.succeeded for part in parts),
        failed=sum(part.failed for part in parts),
        digest=hashlib.sha256("".join(_digests(parts)).encode()).hexdigest(),
        parts=[
            ManifestPart(
                name=part.name,
                items=part.items,
                succeeded=part.succeeded,
                failed=part.failed,
                bytes=part.bytes,
                digest=part.digest,
                errors=part.errors,
            )
            for part in parts
        ],
        models=models,
        code=plan.code,
        selection=plan.selection,
        retries=retries,
        files_left_out=plan.left_out,
        left_out_names=plan.left_out_names,
        columns={field.name: str(field.type) for field in decoded_schema(parts[0].schema)} if parts[0].schema else {},
    )


def _digests(parts: list[PartStatistics]) -> Iterator[str]:
    return (part.digest for part in parts)
