"""What the plan step writes and the other steps read: `OUTPUT/_batchwright/plan.json`."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.storage.locations import WORK_DIR, Location, write_atomically

PLAN_NAME: Final = f"{WORK_DIR}/plan.json"
MANIFEST_NAME: Final = "manifest.json"


class PlannedSegment(msgspec.Struct, kw_only=True, frozen=True, array_like=True):
    """Items `start` .. `start + count - 1` of one file; `fingerprint` is of the whole file.

    Line formats: item `start` begins at byte `offset` in line `line` (counted from 1).
    """

    path: str
    name: str
    fingerprint: str
    start: int
    count: int
    offset: int = 0
    line: int = 0


class PlannedShard(msgspec.Struct, kw_only=True, frozen=True):
    """One shard: its number of items and where they lie, in input order."""

    items: int
    segments: list[PlannedSegment]


class PlanFile(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The whole plan. `identity` digests what makes results comparable: input, tasks, functions, output format."""

    version: int = 1
    job: str
    identity: str
    digest: str
    input_format: str
    output_format: str
    items: int
    shards: list[PlannedShard]


def digest_of(shards: list[PlannedShard]) -> str:
    """SHA-256 over the shards as planned, fingerprints of the input included."""
    return hashlib.sha256(msgspec.json.encode(shards)).hexdigest()


def part_name(index: int, output_format: str) -> str:
    """File of a shard's results, `part-00007.jsonl`."""
    return f"part-{index:05d}.{output_format}"


def read_plan(output: Location) -> PlanFile | None:
    """The plan in this output, None if there is none. Raises StepFailed if it is not one of ours."""
    raw = output.read(PLAN_NAME)
    if raw is None:
        return None
    try:
        plan = msgspec.json.decode(raw, type=PlanFile)
    except msgspec.MsgspecError as error:
        message = f"{output.uri}/{PLAN_NAME} is damaged ({error}): choose another output.uri or empty this one"
        raise StepFailed("PlanDamaged", message) from error
    if plan.version != 1 or digest_of(plan.shards) != plan.digest:
        message = (
            f"{output.uri}/{PLAN_NAME} is damaged or of another version: choose another output.uri or empty this one"
        )
        raise StepFailed("PlanDamaged", message)
    return plan


def write_plan(output: Location, plan: PlanFile) -> None:
    """Write the plan, whole or not at all."""
    write_atomically(output, PLAN_NAME, msgspec.json.encode(plan))
