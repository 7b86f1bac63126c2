"""Run the failed items of a complete output again, in the same three steps as a job: plan, shards, commit.

The data set stays as it is until all of them are through; then the parts that have new results are made anew beside it
and replaced, see `replacement`. The input, the tasks, the code and the models must be those of the data set.
"""

from __future__ import annotations

from collections.abc import Iterator

from batchwright_worker.api.messages import PlanResult
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.steps.commit import (
    Committed,
    Manifest,
    Retry,
    check_input,
    committed_parts,
    manifest_of,
    read_manifest,
    verified_parts,
)
from batchwright_worker.runner.steps.model_pins import pinned_models
from batchwright_worker.runner.steps.replacement import decide_replacement, finish_replacement, staging
from batchwright_worker.runner.steps.retried_parts import RetriedParts, errors_of
from batchwright_worker.runner.steps.shard import load_plan
from batchwright_worker.runner.storage.locations import Location, remove
from batchwright_worker.runner.storage.plan_file import PlanFile
from batchwright_worker.runner.storage.retry_files import RETRY_DIR, RetriedShard, RetryPlan, read_retry, write_retry


def plan_retry(job: Job) -> PlanResult:
    """Plan the failed items of an output in which no replacement is left to finish; a second call changes nothing.
    Raises StepFailed: OutputIncomplete, NothingFailed, and as `load_plan` and `check_input` do for an output of another
    meaning."""
    output = job.output()
    manifest = check_complete(output)
    plan = load_plan(job, output)
    check_input(job, plan, output)
    if not manifest.failed:
        raise StepFailed("NothingFailed", f"no item failed in {output.uri}: there is nothing to run again")
    wanted = RetryPlan(base=manifest.digest, plan=plan.key, shards=list(_failed_items(output, plan)))
    if (known := read_retry(output)) != wanted:
        if known is not None:
            remove(output, RETRY_DIR)
        write_retry(output, wanted)
    return PlanResult(shards=len(wanted.shards), items=wanted.items, digest=wanted.key)


def check_complete(output: Location) -> Manifest:
    """Of the whole data set. Raises StepFailed(OutputIncomplete | ManifestDamaged)."""
    manifest = read_manifest(output)
    if manifest is None:
        message = f"{output.uri} is not complete: run the job as it was run first, which goes on where it ended"
        raise StepFailed("OutputIncomplete", message)
    return manifest


def retried_since(output: Location, base: str) -> bool:
    """Were the failed items of the data set with the digest `base` repeated to the end, by whomever?"""
    manifest = read_manifest(output)
    return manifest is not None and bool(manifest.retries) and manifest.retries[-1].base == base


def _failed_items(output: Location, plan: PlanFile) -> Iterator[RetriedShard]:
    for number, part in enumerate(verified_parts(output, plan)):
        if not part.failed:
            continue
        positions = [record.position for record in errors_of(output, part)]
        if len(positions) != part.failed:
            message = f"{output.uri}/{part.errors} has {len(positions)} records of {part.failed} failed items"
            raise StepFailed("PartDamaged", f"{message}: remove {part.name} and run the job again")
        yield RetriedShard(shard=number, positions=positions)


def commit_retry(job: Job) -> Committed:
    """Put the results into the data set; again: the same. Raises StepFailed(PartMissing | PlanMissing | ...)."""
    output = job.output()
    finish_replacement(output)
    plan, retry = load_plan(job, output), read_retry(output)
    manifest = read_manifest(output)
    if manifest is None or (retry is None and not manifest.retries):
        raise StepFailed("PlanMissing", f"{output.uri} has no plan to repeat failed items: run the plan step first")
    if retry is None:  # done, by another run, or by a commit whose end nobody saw
        remove(output, RETRY_DIR)  # to which that run's shards may have come back
        return committed_parts(manifest, verified_parts(output, plan), manifest.retries[-1])
    if retry.base != manifest.digest:
        message = f"the results in {output.uri} changed since the failed items were planned: plan them again"
        raise StepFailed("OutputInUse", message)
    with staging(output) as folder:
        parts = RetriedParts(output, plan, retry, folder).make()
        done = Retry(
            base=manifest.digest, items=retry.items, succeeded=manifest.failed - sum(part.failed for part in parts)
        )
        new = manifest_of(job, plan, parts, pinned_models(output), [*manifest.retries, done])
        decide_replacement(output, folder, new)
    finish_replacement(output)
    return committed_parts(new, parts, done)
