"""The plan step: check what can be checked, cut the input into shards, write the plan once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from batchwright_worker.api.messages import PlanResult
from batchwright_worker.runner.cpu import functions
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.contents import with_digest, with_digests
from batchwright_worker.runner.inputs.ids import id_hash
from batchwright_worker.runner.inputs.inputs import format_of, source_files
from batchwright_worker.runner.inputs.items import Cuts, Format, Measured, SourceFile
from batchwright_worker.runner.inputs.reading import input_errors
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.outputs.occupation import clear, foreign, own_parts
from batchwright_worker.runner.steps import shards
from batchwright_worker.runner.steps.selection import first_items, sampled
from batchwright_worker.runner.steps.shard import REPLACE, check_meaning
from batchwright_worker.runner.storage.locations import WORK_DIR, Location, output_errors, remove
from batchwright_worker.runner.storage.plan_file import (
    PLAN_NAME,
    PlanFile,
    PlannedSegment,
    PlannedShard,
    digest_of,
    read_plan,
    write_plan,
)
from batchwright_worker.runner.storage.plan_index import write_index
from batchwright_worker.runner.storage.presence import STALE_S, running

SHOWN_NAMES = 20
MAX_SHARDS = 100_000
"""Kubernetes' limit on the completions of an Indexed Job."""


def make_plan(job: Job) -> PlanResult:
    """Plan the job: the same input gives the same plan; a second call changes nothing.

    An earlier job's results are replaced if `output.mode` says so, or if not one part of them stands; what is not ours
    stays, and is in the way. Raises StepFailed: InputNotFound, InputNotReadable, InputEmpty, InputInvalid,
    InputChanged, DuplicateItemIds, TooManyShards, InvalidTask, OutputNotWritable, OutputFull, OutputInUse,
    CodeChanged, PlanDamaged.
    """
    output = job.output()
    check_tasks(job)
    earlier = read_plan(output)
    check_free(output, earlier)
    prepare_output(output)
    plan = plan_input(job, earlier)
    check_same(earlier, plan, job, output)
    if earlier is not None and earlier.key != plan.key:
        _check_idle(earlier, output)
        clear(output, earlier)
    if plan != earlier:
        write_index(output, plan)
        write_plan(output, plan)
    return PlanResult(shards=len(plan.shards), items=plan.items, digest=plan.digest, files_left_out=plan.left_out)


def check_tasks(job: Job) -> None:
    """Import every function of the job and bind its arguments. Raises StepFailed(InvalidTask)."""
    for task in job.spec.tasks:
        if task.cpu is not None:
            function = functions.resolve(task.name, task.cpu.function)
            functions.check_arguments(task.name, task.cpu.function, function, task.cpu.args, batch=task.cpu.batch)


def check_free(output: Location, earlier: PlanFile | None) -> None:
    """Raise StepFailed(OutputInUse) if there is anything that no plan of ours vouches for."""
    found = foreign(output, earlier)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        message = (
            f"{output.uri} holds {', '.join(found[:3])}{more}, which this job did not make and does not touch: choose "
            "another output.uri, or move them away"
        )
        raise StepFailed("OutputInUse", message)


def prepare_output(output: Location) -> None:
    """Make the folders of the output and try a write. Raises StepFailed(OutputNotWritable | OutputFull)."""
    with output_errors(output):
        if output.local:
            output.fs.makedirs(output.at(WORK_DIR), exist_ok=True)
        probe = output.at(f"{WORK_DIR}/.probe")
        output.fs.pipe_file(probe, b"writable")
    remove(output, f"{WORK_DIR}/.probe")


def _replaces(job: Job, earlier: PlanFile, output: Location) -> bool:
    return job.spec.output.mode == "Overwrite" or not own_parts(output, earlier)


def check_same(earlier: PlanFile | None, plan: PlanFile, job: Job, output: Location) -> None:
    """Raise StepFailed unless both plans are of one job over one input, or the earlier one may be replaced."""
    if earlier is None or _replaces(job, earlier, output):
        return
    check_meaning(earlier, job, output)
    if earlier.digest != plan.digest:
        message = (
            f"the input changed since {output.uri}/{PLAN_NAME} was written: restore it, choose another output.uri "
            f"for the new input, or {REPLACE}"
        )
        raise StepFailed("InputChanged", message)


def _check_idle(earlier: PlanFile, output: Location) -> None:
    """Raise StepFailed(OutputInUse) while a run makes parts of the plan that would be replaced."""
    found = running(output)
    if found:
        message = (
            f"{found[0].title} makes results of {earlier.job!r} in {output.uri}: they are not replaced meanwhile. Wait "
            f"for it, or end it (in a bucket, one that was killed counts for another {STALE_S:g} s)"
        )
        raise StepFailed("OutputInUse", message, permanent=False)


def plan_input(job: Job, earlier: PlanFile | None) -> PlanFile:
    """The plan for the input as it is now; writes nothing. Raises StepFailed as `make_plan`."""
    with input_errors(job.input()):
        return _plan_input(job, earlier)


def _plan_input(job: Job, earlier: PlanFile | None) -> PlanFile:
    location = job.input()
    form, size = format_of(job.spec.input), job.spec.input.shard_size
    found = source_files(location, form)
    files, measured = _measured(job, location, form, found.files, earlier.files() if earlier is not None else {})
    total = sum(one.count for one in measured)
    if not total:
        raise StepFailed("InputEmpty", f"{location.uri} holds no items: there is nothing to do; check input.uri")
    _check_ids(location, form, files, measured)
    planned = [_planned(segments, files, measured) for segments in shards.split([m.count for m in measured], size)]
    planned = _selected(job, planned)
    if len(planned) > MAX_SHARDS:
        message = (
            f"{total} items make {len(planned)} shards of {size}, Kubernetes allows {MAX_SHARDS}: raise input.shardSize"
        )
        raise StepFailed("TooManyShards", message)
    return PlanFile(
        job=job.name,
        identity=job.identity,
        digest=digest_of(planned),
        input_format=job.spec.input.format,
        suffix=job.suffix,
        items=sum(shard.items for shard in planned),
        shards=planned,
        empty=_unused(files, planned),
        code=job.code(),
        left_out=len(found.left_out),
        left_out_names=found.left_out[:SHOWN_NAMES],
        selection=job.selection,
    )


def _measured(
    job: Job, location: Location, form: Format, files: list[SourceFile], known: Mapping[str, PlannedSegment]
) -> tuple[list[SourceFile], list[Measured]]:
    """The files with digests, and their items; of the first ones alone where no more are wanted."""
    size, total = job.spec.input.shard_size, 0
    most = job.selection.items if job.selection is not None and job.selection.kind == "Limit" else None
    digested = (
        iter(with_digests(location, files, known))
        if most is None
        else (with_digest(location, file, known) for file in files)
    )
    used: list[SourceFile] = []
    measured: list[Measured] = []
    for file in digested:
        used.append(file)
        measured.append(_of_file(location, form, file, Cuts(before=total, size=size)))
        total += measured[-1].count
        if most is not None and total >= most:
            break
    return used, measured


def _of_file(location: Location, form: Format, file: SourceFile, cuts: Cuts) -> Measured:
    try:
        return form.measure(location, file, cuts)
    except (FileNotFoundError, PermissionError) as error:
        what = "a link to nothing" if isinstance(error, FileNotFoundError) else "permission denied"
        message = f"{file.path} cannot be read ({what}): correct it, or take it out of {location.uri}"
        raise StepFailed("InputNotReadable", message) from error


def _selected(job: Job, planned: list[PlannedShard]) -> list[PlannedShard]:
    if (selection := job.selection) is None:
        return planned
    if selection.kind == "Limit":
        return first_items(planned, selection.items)
    return sampled(planned, selection.items, seed=selection.seed, shard_size=job.spec.input.shard_size)


def _unused(files: list[SourceFile], planned: list[PlannedShard]) -> list[PlannedSegment]:
    """The files of which no item is planned."""
    used = {segment.path for shard in planned for segment in shard.segments}
    return [
        _segment(file, shards.Segment(source=0, start=0, count=0), (0, 0)) for file in files if file.path not in used
    ]


def _planned(segments: tuple[shards.Segment, ...], files: list[SourceFile], measured: list[Measured]) -> PlannedShard:
    planned = [
        _segment(files[each.source], each, measured[each.source].marks.get(each.start, (0, 0))) for each in segments
    ]
    return PlannedShard(items=sum(segment.count for segment in segments), segments=planned)


def _segment(file: SourceFile, segment: shards.Segment, mark: tuple[int, int]) -> PlannedSegment:
    return PlannedSegment(
        path=file.path,
        name=file.name,
        fingerprint=file.fingerprint,
        start=segment.start,
        count=segment.count,
        offset=mark[0],
        line=mark[1],
        digest=file.digest,
    )


def _check_ids(location: Location, form: Format, files: list[SourceFile], measured: list[Measured]) -> None:
    hashes = [one.ids for one in measured if one.ids is not None]
    if not hashes:
        return
    import numpy as np

    every = np.sort(np.concatenate([np.frombuffer(ids, dtype=np.int64) for ids in hashes]))
    repeated = every[1:][every[1:] == every[:-1]]
    if len(repeated):
        places = _places(location, form, files, int(repeated[0]))
        message = (
            f"two items have one id ({places}): make ids unique, name another field in input.idField, or set it to "
            '"" for ids made of the place'
        )
        raise StepFailed("DuplicateItemIds", message)


def _places(location: Location, form: Format, files: list[SourceFile], wanted: int) -> str:
    found: list[str] = []
    for file in files:
        for name in _names(location, form, file):
            if id_hash(name) == wanted:
                found.extend(place for file_ in files for place in form.names_with_id(location, file_, name))
                return f"{name!r} in {', '.join(found[:2])}"
    return "which ones is not known"


def _names(location: Location, form: Any, file: SourceFile) -> Iterator[str]:
    whole = PlannedSegment(path=file.path, name=file.name, fingerprint="", start=0, count=1 << 62, line=1)
    return (item.id for item in form.read(location, whole))
