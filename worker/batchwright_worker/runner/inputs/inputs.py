"""The input of a job: which files it consists of, what identifies their contents, and its items in order."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Final

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.contents import check_unchanged, fingerprint
from batchwright_worker.runner.inputs.images import Images
from batchwright_worker.runner.inputs.items import Format, Item, SourceFile
from batchwright_worker.runner.inputs.lines import JsonLines, TextLines
from batchwright_worker.runner.inputs.tables import Npy, Parquet
from batchwright_worker.runner.storage.locations import WORK_DIR, Location
from batchwright_worker.runner.storage.plan_file import PlannedSegment, PlannedShard

FORMATS: Final[dict[str, Format]] = {
    "images": Images(),
    "jsonl": JsonLines(),
    "text": TextLines(),
    "parquet": Parquet(),
    "npy": Npy(),
}
_READ_AHEAD = 4
"""Small files that are opened ahead, so that an object store's latency does not hold the CPU up."""


def source_files(location: Location, format_name: str) -> list[SourceFile]:
    """The files of the input, sorted by path. Raises StepFailed(InputNotFound | InputEmpty)."""
    form = FORMATS[format_name]
    try:
        root, infos = _infos(location)
    except FileNotFoundError as error:
        message = f"{location.uri} does not exist: check input.uri, and that the claim holds the data at that path"
        raise StepFailed("InputNotFound", message) from error
    except PermissionError as error:
        message = f"{location.uri} is not readable ({error}): give the runner's user (65532) or its group read access"
        raise StepFailed("InputNotReadable", message) from error
    single = len(infos) == 1 and infos[0]["name"] == root
    files = [_source(info, root, single=single) for info in infos]
    chosen = [file for file in files if single or _belongs(file, form)]
    if not chosen:
        what = f"{len(files)} files, none of which ends in {', '.join(form.suffixes)}" if files else "no files"
        raise StepFailed("InputEmpty", f"{location.uri} holds {what}: check input.uri and input.format ({format_name})")
    return sorted(chosen, key=lambda file: file.path)


def _infos(location: Location) -> tuple[str, list[dict[str, Any]]]:
    if any(sign in location.path for sign in "*?["):
        root = location.path.split("*")[0].split("?")[0].split("[")[0].rpartition("/")[0]
        found = location.fs.glob(location.path, detail=True)
        return root, [info for info in found.values() if info["type"] == "file"]
    info = location.fs.info(location.path)
    if info["type"] == "file":
        return str(info["name"]), [info]
    found = location.fs.find(location.path, detail=True)
    return location.path, list(found.values())


def _source(info: dict[str, Any], root: str, *, single: bool) -> SourceFile:
    path = str(info["name"])
    name = path.rsplit("/", 1)[-1] if single else path[len(root) :].lstrip("/")
    return SourceFile(path=path, name=name, size=int(info.get("size") or 0), fingerprint=fingerprint(info))


def _belongs(file: SourceFile, form: Format) -> bool:
    parts = file.name.split("/")
    hidden = any(part.startswith(".") or part == WORK_DIR for part in parts)
    return not hidden and file.name.lower().endswith(form.suffixes)


def shard_items(location: Location, format_name: str, shard: PlannedShard) -> Iterator[Item]:
    """The items of a shard in order; blocking; every file is compared with the plan when it is opened."""
    form = FORMATS[format_name]
    if not all(segment.count == 1 for segment in shard.segments):
        for segment in shard.segments:
            yield from _segment_items(location, form, segment)
        return
    with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="read") as threads:
        yield from _read_ahead(location, form, shard.segments, threads)


def _read_ahead(
    location: Location, form: Format, segments: list[PlannedSegment], threads: ThreadPoolExecutor
) -> Iterator[Item]:
    left = iter(segments)
    pending: list[Future[list[Item]]] = []

    def submit(segment: PlannedSegment) -> None:
        pending.append(threads.submit(lambda: list(_segment_items(location, form, segment))))

    for segment in islice(left, _READ_AHEAD):
        submit(segment)
    while pending:
        yield from pending.pop(0).result()
        for segment in islice(left, 1):
            submit(segment)


def _segment_items(location: Location, form: Format, segment: PlannedSegment) -> Iterator[Item]:
    check_unchanged(location, segment)
    seen = 0
    for item in form.read(location, segment):
        seen += 1
        yield item
    if seen != segment.count:
        message = f"{segment.path} holds fewer items than were planned: restore it, or run a new job"
        raise StepFailed("InputChanged", message)
