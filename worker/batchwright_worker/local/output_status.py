"""What lies in an output: how much of which data set, made by what, and what failed. Never writes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from batchwright_worker.runner.outputs.error_records import (
    ErrorRecord,
    FailureReason,
    error_records,
    reason_fields,
    reason_line,
    reasons,
)
from batchwright_worker.runner.outputs.occupation import foreign
from batchwright_worker.runner.outputs.parts import PartStatistics, whole_part
from batchwright_worker.runner.outputs.temporaries import TEMPORARY_DIR
from batchwright_worker.runner.steps.commit import Manifest, read_manifest
from batchwright_worker.runner.steps.model_pins import PinnedModel, pinned_models
from batchwright_worker.runner.storage.locations import WORK_DIR, Location
from batchwright_worker.runner.storage.output_lock import is_held
from batchwright_worker.runner.storage.plan_file import CodeDigests, PlanFile, part_name, read_plan
from batchwright_worker.runner.storage.presence import RunningRun, running
from batchwright_worker.runner.storage.retry_files import read_replacement, read_retry, retry_output

State = Literal["Complete", "Partial", "Running", "Replacing", "Damaged", "Foreign", "Empty"]
_THREADS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is known of each part of a plan: `whole` by number; `damaged`: there, and not as its statistics say."""

    whole: Mapping[int, PartStatistics]
    damaged: Sequence[str]

    @property
    def succeeded(self) -> int:
        """Items that are in the parts."""
        return sum(part.succeeded for part in self.whole.values())

    @property
    def failed(self) -> int:
        """Items that have error records."""
        return sum(part.failed for part in self.whole.values())

    @property
    def bytes(self) -> int:
        """Of all parts."""
        return sum(part.bytes for part in self.whole.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputStatus:
    """`written_s`: how long ago something was last written that is not in a part yet; None: nothing is there."""

    uri: str
    state: State
    plan: PlanFile | None = None
    manifest: Manifest | None = None
    parts: Parts = Parts(whole={}, damaged=())
    models: Sequence[PinnedModel] = ()
    reasons: Sequence[FailureReason] = ()
    foreign: Sequence[str] = ()
    retrying: int = 0
    """Failed items that are run again, and not yet in the parts."""
    written_s: float | None = None
    runs: Sequence[RunningRun] = ()
    """At work on it now."""

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards without a part."""
        count = len(self.plan.shards) if self.plan is not None else 0
        return [number for number in range(count) if number not in self.parts.whole]

    @property
    def code(self) -> CodeDigests:
        """Of the functions, and of the files that their arguments name."""
        return self.plan.code if self.plan is not None else CodeDigests()

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        plan, manifest = self.plan, self.manifest
        return {
            "uri": self.uri,
            "state": self.state,
            "job": plan.job if plan else None,
            "selection": msgspec.to_builtins(plan.selection) if plan else None,
            "items": plan.items if plan else None,
            "succeeded": self.parts.succeeded,
            "failed": self.parts.failed,
            "shards": len(plan.shards) if plan else None,
            "missingShards": ranges(self.missing),
            "damagedParts": list(self.parts.damaged),
            "bytes": self.parts.bytes,
            "format": plan.suffix if plan else None,
            "columns": manifest.columns if manifest else {},
            "digest": manifest.digest if manifest else None,
            "models": msgspec.to_builtins(list(self.models)),
            "code": msgspec.to_builtins(self.code),
            "failureReasons": [reason_fields(reason) for reason in self.reasons],
            "retries": msgspec.to_builtins(manifest.retries) if manifest else [],
            "retryingItems": self.retrying,
            "filesLeftOut": plan.left_out if plan else None,
            "foreign": list(self.foreign),
            "runs": msgspec.to_builtins(list(self.runs)),
            "lastWriteSeconds": None if self.written_s is None else round(self.written_s, 1),
        }

    def as_text(self) -> str:
        """For people."""
        return "\n".join(_lines(self))


def output_status(output: Location, *, verify: bool = False) -> OutputStatus:
    """`verify`: by the digests of the parts instead of their sizes. Blocking. Raises StepFailed(PlanDamaged |
    ManifestDamaged | OutputNotWritable)."""
    plan, manifest = read_plan(output), read_manifest(output)
    others = foreign(output, plan)
    if plan is None:
        return OutputStatus(uri=output.uri, state="Foreign" if others else "Empty", foreign=others)
    parts = _parts(output, plan, verify=verify)
    runs = running(output)
    errors = [part.errors for part in parts.whole.values() if part.errors]
    retry = read_retry(output)
    state: State = "Complete"
    if read_replacement(output) is not None:
        state = "Replacing"
    elif (manifest is None or retry is not None or len(parts.whole) < len(plan.shards)) and (runs or is_held(output)):
        state = "Running"
    elif manifest is not None and len(parts.whole) < len(plan.shards):
        state = "Damaged"
    elif manifest is None:
        state = "Partial"
    return OutputStatus(
        uri=output.uri,
        state=state,
        plan=plan,
        manifest=manifest,
        parts=parts,
        models=pinned_models(output),
        reasons=reasons(record for name in errors for record in _records(output, name)),
        foreign=others,
        retrying=retry.items if retry is not None else 0,
        written_s=_written_s(output),
        runs=runs,
    )


def _records(output: Location, name: str) -> Iterator[ErrorRecord]:
    with contextlib.suppress(FileNotFoundError):  # a run has put others in their place meanwhile
        yield from error_records(output, name)


def _parts(output: Location, plan: PlanFile, *, verify: bool) -> Parts:
    sizes = _sizes(output, output.path)
    statistics: dict[str, list[str]] = {}
    for name in _sizes(output, output.at(WORK_DIR)):
        if name.startswith("part-") and name.endswith(".json"):
            statistics.setdefault(name.rsplit(".", 2)[0], []).append(f"{WORK_DIR}/{name}")

    def known(number: int) -> PartStatistics | None:
        name = part_name(number, plan.suffix)
        if name not in sizes:
            return None
        if verify:
            return whole_part(output, name, plan.key)
        found = (_statistics(output, each) for each in statistics.get(name, ()))
        return next((each for each in found if each and each.plan == plan.key and each.bytes == sizes[name]), None)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="status") as threads:
        every = list(threads.map(known, range(len(plan.shards))))
    names = [part_name(number, plan.suffix) for number in range(len(plan.shards))]
    return Parts(
        whole={number: each for number, each in enumerate(every) if each is not None},
        damaged=[name for name, each in zip(names, every, strict=True) if each is None and name in sizes],
    )


def _statistics(output: Location, name: str) -> PartStatistics | None:
    try:
        return msgspec.json.decode(output.read(name) or b"", type=PartStatistics)
    except msgspec.MsgspecError:
        return None


def _sizes(output: Location, folder: str) -> dict[str, int]:
    try:
        entries = output.fs.ls(folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {str(each["name"]).rstrip("/").rpartition("/")[2]: int(each.get("size") or 0) for each in entries}


def _written_s(output: Location) -> float | None:
    """Of runners that write beside the output: on object stores that is not seen."""
    if not output.local:
        return None
    times = []
    for place in (output, retry_output(output)):
        try:
            found = place.fs.ls(place.at(TEMPORARY_DIR), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            continue
        times += [float(each["mtime"]) for each in found]
    return max(0.0, time.time() - max(times)) if times else None


def ranges(numbers: Iterable[int]) -> str:
    """As an Indexed Job has them: 0-3,7. Pure."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


_WORDS: Final[Mapping[State, str]] = {
    "Complete": "complete",
    "Partial": "not complete; the command that made it goes on from here",
    "Running": "a run is at work on it",
    "Replacing": "the results of repeated items are being put in; the next command on this output ends that",
    "Damaged": "the manifest stands, but not every part; remove _manifest.json and run the job again",
    "Foreign": "not an output of a job",
    "Empty": "nothing is there",
}


def _lines(status: OutputStatus) -> Iterable[str]:
    yield f"{status.uri}: {_WORDS[status.state]}"
    yield from (f"at work: {run.title}, for {time.time() - run.started:.0f} s" for run in status.runs)
    if (plan := status.plan) is not None:
        parts, of = status.parts, "all items" if plan.selection is None else plan.selection.title
        yield f"job {plan.job}, {of} of the input: {len(plan.files())} files, {plan.left_out} left out"
        yield f"{parts.succeeded} of {plan.items} items succeeded, {parts.failed} failed"
        yield f"{len(parts.whole)} of {len(plan.shards)} parts stand, {parts.bytes} bytes of {plan.suffix}"
        if status.missing:
            yield f"shards without a part: {ranges(status.missing)}"
        if parts.damaged:
            yield f"damaged, will be made again: {', '.join(parts.damaged[:5])}"
    if status.retrying:
        yield f"{status.retrying} failed items are run again, and not in the parts yet"
    if status.manifest is not None:
        for each in status.manifest.retries:
            yield f"{each.items} failed items were run again, {each.succeeded} of them succeeded"
        yield from (f"column {name}: {kind}" for name, kind in status.manifest.columns.items())
    for pin in status.models:
        yield f"model {pin.deployment}/{pin.model} on {pin.accelerator}: {pin.digest[:12]}"
    yield from (f"code of task {task}: {digest[:12]}" for task, digest in status.code.functions.items())
    yield from (f"file {path}: {digest[:12]}" for path, digest in status.code.files.items())
    yield from map(reason_line, status.reasons)
    if status.foreign:
        yield f"not of a job: {', '.join(status.foreign[:5])}"
