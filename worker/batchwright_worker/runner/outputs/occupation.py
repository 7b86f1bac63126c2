"""What lies in an output: what a plan of ours vouches for, and what somebody else put there, which is never touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from batchwright_worker.runner.outputs.parts import parts_made, remove_errors
from batchwright_worker.runner.storage.locations import ERRORS_DIR, WORK_DIR, Location, output_errors, remove
from batchwright_worker.runner.storage.output_lock import LOCK_NAME
from batchwright_worker.runner.storage.plan_file import MANIFEST_NAME, PLAN_NAME, PlanFile, part_name

_NO_DATA: Final = (".", "_")
"""Names that begin so are skipped by whatever reads a folder as a data set."""
_OURS: Final = frozenset({MANIFEST_NAME, ERRORS_DIR})
_OF_THE_VOLUME: Final = frozenset({"lost+found"})


def own_parts(output: Location, plan: PlanFile) -> list[str]:
    """The parts that stand and that this plan's runners have made."""
    present = set(_entries(output)) & parts_made(output)
    names = (part_name(index, plan.suffix) for index in range(len(plan.shards)))
    return [name for name in names if name in present]


def foreign(output: Location, plan: PlanFile | None) -> list[str]:
    """Names of what is neither ours nor hidden, sorted; without a plan nothing is ours, whatever its name."""
    own = {*own_parts(output, plan), *_OURS} if plan is not None else set()
    return sorted(name for name in _entries(output) if name not in own and (name in _OURS or not _is_hidden(name)))


def clear(output: Location, plan: PlanFile) -> None:
    """Remove what an earlier plan vouches for: the manifest first, so that what is left is no whole data set."""
    with output_errors(output):
        parts = own_parts(output, plan)
        if output.exists(MANIFEST_NAME):
            output.fs.rm_file(output.at(MANIFEST_NAME))
        for name in parts:
            output.fs.rm_file(output.at(name))
        remove_errors(output)
        work = {f"{WORK_DIR}/{name}" for name in _entries(output, WORK_DIR)} - {LOCK_NAME}  # which is held
        for name in sorted(work, key=PLAN_NAME.__eq__):  # the plan last: it is what vouches for the rest
            remove(output, name)


def _is_hidden(name: str) -> bool:
    return name.startswith(_NO_DATA) or name in _OF_THE_VOLUME


def _entries(output: Location, folder: str = "") -> Iterator[str]:
    place = output.at(folder) if folder else output.path
    with output_errors(output):
        try:
            found = output.fs.ls(place, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return iter(())
    paths = (str(path).rstrip("/") for path in found)
    return (path.rpartition("/")[2] for path in paths if path != place.rstrip("/"))  # a file lists itself
