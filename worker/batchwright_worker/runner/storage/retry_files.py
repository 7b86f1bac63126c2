"""What a repetition of failed items leaves in an output until it is done: its plan, its parts, and what will replace
what.

    OUTPUT/_batchwright/retry/plan.json     which items are repeated
    OUTPUT/_batchwright/retry/part-00007..  their results (with `_batchwright` and `_errors` of their own)
    OUTPUT/_batchwright/retry/merged/..     the parts as they will be
    OUTPUT/_batchwright/replacement.json    from when it stands the new data set is decided: `merged` and a manifest
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.storage.locations import WORK_DIR, Location, write_atomically

RETRY_DIR: Final = f"{WORK_DIR}/retry"
MERGED_DIR: Final = f"{RETRY_DIR}/merged"
REPLACEMENT_NAME: Final = f"{WORK_DIR}/replacement.json"
_PLAN: Final = f"{RETRY_DIR}/plan.json"


class RetriedShard(msgspec.Struct, kw_only=True, frozen=True):
    """The items of a shard that failed, by their positions in it."""

    shard: int
    positions: list[int]


class RetryPlan(msgspec.Struct, kw_only=True, frozen=True):
    """Which items are repeated: of the data set with the digest `base`, made by the plan with the key `plan`."""

    base: str
    plan: str
    shards: list[RetriedShard]

    @property
    def items(self) -> int:
        """How many in all."""
        return sum(len(each.positions) for each in self.shards)

    @property
    def key(self) -> str:
        """Results of equal keys belong together."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Replacement(msgspec.Struct, kw_only=True, frozen=True):
    """Parts that `merged` has, or had, and the manifest that belongs to them."""

    parts: list[str]
    manifest: str


def retry_output(output: Location) -> Location:
    """Where the results of repeated items lie until they are merged."""
    return Location(
        uri=f"{output.uri.rstrip('/')}/{RETRY_DIR}", fs=output.fs, path=output.at(RETRY_DIR), local=output.local
    )


def read_retry(output: Location) -> RetryPlan | None:
    """None: no repetition is under way. Raises StepFailed(PlanDamaged)."""
    raw = output.read(_PLAN)
    try:
        return None if raw is None else msgspec.json.decode(raw, type=RetryPlan)
    except msgspec.MsgspecError as error:
        message = f"{output.uri}/{_PLAN} is damaged ({error}): remove it, and repeat the failed items again"
        raise StepFailed("PlanDamaged", message) from error


def write_retry(output: Location, plan: RetryPlan) -> None:
    """Write it, whole or not at all."""
    write_atomically(output, _PLAN, msgspec.json.encode(plan))


def read_replacement(output: Location) -> Replacement | None:
    """None: none was begun, or it is done."""
    raw = output.read(REPLACEMENT_NAME)
    return None if raw is None else msgspec.json.decode(raw, type=Replacement)
