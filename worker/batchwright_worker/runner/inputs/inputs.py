"""The input of a job: which files it consists of, what identifies their contents, and its items in order."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from batchwright_worker.api.job import Input
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.arrow_files import Arrow
from batchwright_worker.runner.inputs.contents import check_unchanged, fingerprint
from batchwright_worker.runner.inputs.csv import Csv
from batchwright_worker.runner.inputs.images import Images
from batchwright_worker.runner.inputs.items import Format, Item, SourceFile
from batchwright_worker.runner.inputs.lines import JsonLines, TextLines
from batchwright_worker.runner.inputs.reading import input_errors, web_cause
from batchwright_worker.runner.inputs.tables import Npy, Parquet
from batchwright_worker.runner.inputs.tars import WebDataset
from batchwright_worker.runner.storage.locations import ERRORS_DIR, WORK_DIR, Location, path_text, shown
from batchwright_worker.runner.storage.plan_file import MANIFEST_NAME, PlannedSegment, PlannedShard

FORMATS: Final[dict[str, Callable[[Input], Format]]] = {
    "images": lambda _: Images(),
    "jsonl": lambda spec: JsonLines(spec.id_field),
    "csv": lambda spec: Csv(spec.id_field, spec.delimiter),
    "text": lambda _: TextLines(),
    "parquet": lambda spec: Parquet(spec.id_field),
    "npy": lambda _: Npy(),
    "arrow": lambda spec: Arrow(spec.id_field),
    "webdataset": lambda spec: WebDataset(spec.id_field),
}
_READ_AHEAD = 4
"""Small files that are opened ahead, so that an object store's latency does not hold the CPU up."""
_CACHED: Final = re.compile(r"(^|/)cache-[^/]*[.]arrow$")
_OF_OUTPUTS: Final = frozenset({WORK_DIR, ERRORS_DIR, MANIFEST_NAME})


def format_of(spec: Input) -> Format:
    """The input's format with its settings."""
    return FORMATS[spec.format](spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The files of the input, sorted by path, and the names of those in the same place that are none."""

    files: list[SourceFile]
    left_out: list[str]


def source_files(location: Location, form: Format) -> Found:
    """The files of the input. Raises StepFailed(InputNotFound | InputNotReadable | InputEmpty)."""
    try:
        with _of_the_connection(location):
            root, infos = _infos(location)
    except FileNotFoundError as error:
        message = f"{location.uri} does not exist: check input.uri, and that the claim holds the data at that path"
        raise StepFailed("InputNotFound", message) from error
    except PermissionError as error:
        message = f"{location.uri} is not readable ({error}): give the runner's user (65532) or its group read access"
        raise StepFailed("InputNotReadable", message) from error
    single = len(infos) == 1 and infos[0]["name"] == root
    odd = {info["name"] for info in infos if location.local and not _can_be_read_twice(info)}
    if single and odd:
        raise StepFailed("InputInvalid", f"{location.uri} is a pipe or a device, and input is read twice: save it")
    files = sorted((_source(info, root, single=single) for info in infos), key=lambda file: file.path)
    outputs = {file.name.rpartition(f"/{WORK_DIR}/")[0] for file in files if f"/{WORK_DIR}/" in file.name}
    odd_paths = {path_text(name) for name in odd}
    chosen = [file for file in files if single or (_belongs(file, form, outputs) and file.path not in odd_paths)]
    if not chosen:
        suffixes = ", ".join(form.suffixes)
        what = f"{len(files)} files, none of which ends in {suffixes}" if files else "no files"
        signs = " (*, ? and [ in it stand for other characters)" if _has_pattern(location.path) else ""
        raise StepFailed("InputEmpty", f"{location.uri} holds {what}: check input.uri{signs} and input.format")
    taken = {file.path for file in chosen}
    return Found(files=chosen, left_out=[f.name for f in files if f.path not in taken and not _is_hidden(f.name)])


@contextlib.contextmanager
def _of_the_connection(location: Location) -> Iterator[None]:
    """As `input_errors`, of what is not the place's own."""
    try:
        yield
    except FileNotFoundError as error:
        if (cause := web_cause(error)) is None:
            raise
        with input_errors(location):
            raise cause from None
    except PermissionError:
        raise
    except Exception:
        with input_errors(location):
            raise


def _infos(location: Location) -> tuple[str, list[dict[str, Any]]]:
    if _has_pattern(location.path) and not location.fs.exists(location.path):
        root = location.path.split("*")[0].split("?")[0].split("[")[0].rpartition("/")[0]
        found = location.fs.glob(_with_literal_folders(location), detail=True)
        return root, [info for info in found.values() if info["type"] == "file"]
    info = location.fs.info(location.path)
    if info["type"] == "file":
        return str(info["name"]), [info]
    found = list(location.fs.find(location.path, detail=True).values())
    return location.path, list(_through_links(location.fs, found)) if location.local else found


def _through_links(fs: Any, infos: Iterable[dict[str, Any]], through: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """With what lies in the folders that links lead to, but for links to a folder that they are in themselves.
    `through`: the folders of the links that led here."""
    for info in infos:
        path = info["name"]
        if not info.get("islink") or not os.path.isdir(path):  # noqa: PTH112 - names may be any bytes
            yield info
            continue
        folder, target = os.path.realpath(os.path.dirname(path)), os.path.realpath(path)  # noqa: PTH120
        above = (*through, folder)
        if any(f"{each}/".startswith(f"{target.rstrip('/')}/") for each in above):
            yield info
        else:
            yield from _through_links(fs, fs.find(path, detail=True).values(), above)


def _can_be_read_twice(info: dict[str, Any]) -> bool:
    """No pipe, no device, no folder. A link to nothing is its item's error."""
    if info["type"] == "file":
        return True
    try:
        return bool(info.get("islink")) and stat.S_ISREG(os.stat(info["name"]).st_mode)  # noqa: PTH116
    except OSError:
        return True


def _has_pattern(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _with_literal_folders(location: Location) -> str:
    """The pattern, of which the folders that are there as they are written are taken so."""
    steps = location.path.split("/")
    for count in range(len(steps) - 1, 0, -1):
        folder = "/".join(steps[:count])
        if not _has_pattern(folder) or location.fs.exists(folder):
            return "/".join([glob.escape(folder), *steps[count:]])
    return location.path


def _source(info: dict[str, Any], root: str, *, single: bool) -> SourceFile:
    path = str(info["name"])
    name = path.rsplit("/", 1)[-1] if single else path[len(root) :].lstrip("/")
    size = int(info.get("size") or 0)
    return SourceFile(path=path_text(path), name=shown(name), size=size, fingerprint=fingerprint(info))


def _belongs(file: SourceFile, form: Format, outputs: Collection[str]) -> bool:
    """Hidden files, the results of other jobs that lie below, and what `Dataset.map` keeps beside its data are no
    input."""
    if (
        _is_hidden(file.name)
        or _CACHED.search(file.name)
        or any(file.name.startswith(f"{output}/") for output in outputs)
    ):
        return False
    return file.name.lower().endswith(form.suffixes)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part in _OF_OUTPUTS for part in name.split("/"))


def shard_items(location: Location, form: Format, shard: PlannedShard) -> Iterator[Item]:
    """The items of a shard in order; blocking; every file is compared with the plan when it is opened. Raises
    StepFailed."""
    with input_errors(location):
        yield from _shard_items(location, form, shard)


def _shard_items(location: Location, form: Format, shard: PlannedShard) -> Iterator[Item]:
    files = {segment.path for segment in shard.segments}
    if len(files) < len(shard.segments) or not all(segment.count == 1 for segment in shard.segments):
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
    seen, picks = 0, set(segment.picks)
    for item in form.read(location, segment):
        if not picks or seen in picks:
            yield item
        seen += 1
    if seen != segment.count:
        message = f"{segment.path} holds fewer items than were planned: restore it, or run a new job"
        raise StepFailed("InputChanged", message)
