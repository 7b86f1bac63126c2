"""What the plan step writes and the other steps read: `OUTPUT/_batchwright/plan.json`."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal

import msgspec

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.storage.locations import WORK_DIR, Location, write_atomically

PLAN_NAME: Final = f"{WORK_DIR}/plan.json"
MANIFEST_NAME: Final = "_manifest.json"


class Selection(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """Some of the input's items: the first ones, or as many by chance, which `seed` decides."""

    kind: Literal["Limit", "Sample"]
    items: int
    seed: int = 0

    @property
    def title(self) -> str:
        """In words."""
        return f"the first {self.items} items" if self.kind == "Limit" else f"{self.items} items by chance"

    @property
    def slug(self) -> str:
        """For names of folders."""
        return f"limit-{self.items}" if self.kind == "Limit" else f"sample-{self.items}-seed-{self.seed}"


class PlannedSegment(msgspec.Struct, kw_only=True, frozen=True, array_like=True):
    """Items `start` .. `start + count - 1` of one file; `fingerprint` is of the whole file.

    Line formats: item `start` begins at byte `offset` in line `line` (counted from 1). `digest`: of the file's
    contents, where its fingerprint says when it was written and not what is in it. `picks`: only these of the items
    count (0 is `start`); empty: all.
    """

    path: str
    name: str
    fingerprint: str
    start: int
    count: int
    offset: int = 0
    line: int = 0
    digest: str = ""
    picks: tuple[int, ...] = ()

    @property
    def items(self) -> int:
        """How many count."""
        return len(self.picks) or self.count

    @property
    def contents(self) -> str:
        """The same for the same contents."""
        return self.digest or self.fingerprint


class PlannedShard(msgspec.Struct, kw_only=True, frozen=True):
    """One shard: its number of items and where they lie, in input order."""

    items: int
    segments: list[PlannedSegment]


class CodeDigests(msgspec.Struct, kw_only=True, frozen=True):
    """SHA-256 of each CPU task's function with the modules that it imports, and of the files that arguments name."""

    functions: dict[str, str] = {}
    files: dict[str, str] = {}

    def changed(self, now: CodeDigests) -> list[str]:
        """What of this differs now, in words. A file that has come since is none of it: a function may have made it."""
        tasks = [
            f"the code of task {name}" for name, digest in self.functions.items() if now.functions.get(name) != digest
        ]
        return tasks + [path for path, digest in self.files.items() if now.files.get(path) != digest]


class PlanFile(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The whole plan. `identity` digests what is asked for: input, tasks with arguments, output format; `code` is what
    the functions were made of, `digest` is over the shards with the contents of the input. `empty`: files of the input
    without any item."""

    version: int = 1
    job: str
    identity: str
    digest: str
    input_format: str
    suffix: str
    """Of the names of parts."""
    items: int
    shards: list[PlannedShard]
    empty: list[PlannedSegment] = []
    code: CodeDigests = CodeDigests()
    left_out: int = 0
    """Files that lie with the input and are none of it, of which some are named."""
    left_out_names: list[str] = []
    selection: Selection | None = None
    """None: every item of the input."""

    @property
    def key(self) -> str:
        """Parts of equal keys belong together."""
        return hashlib.sha256(msgspec.json.encode((self.identity, self.code, self.digest), order="sorted")).hexdigest()

    def files(self) -> dict[str, PlannedSegment]:
        """A segment of every file of the input, by path."""
        return {segment.path: segment for shard in self.shards for segment in shard.segments} | {
            segment.path: segment for segment in self.empty
        }


def digest_of(shards: list[PlannedShard]) -> str:
    """SHA-256 over the shards as planned, contents of the input included: a file that was only touched is the same."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(msgspec.json.encode([_plain(segment) for segment in shard.segments]))
    return digest.hexdigest()


def _plain(segment: PlannedSegment) -> tuple[Any, ...]:
    """Without picks as it was when there were none, so that the outputs of then are known again."""
    plain = msgspec.structs.astuple(msgspec.structs.replace(segment, fingerprint=segment.contents))
    return plain if segment.picks else plain[:-1]


def part_name(index: int, suffix: str) -> str:
    """File of a shard's results, `part-00007.jsonl`."""
    return f"part-{index:05d}.{suffix}"


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
