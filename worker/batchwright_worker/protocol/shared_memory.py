"""Triton's system shared memory extension: tensors of clients on this machine, in POSIX shared memory.

A region is read and written by `preadv` and `pwritev`, never mapped: a client that cuts its file short while it is
mapped here would end this process by SIGBUS, whereas a read just ends early. What is read is a copy, so that a client
that writes on changes no tensor that was checked already.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.protocol.parameters import REGION

EXTENSION: Final = "system_shared_memory"
_OFFSET: Final = "shared_memory_offset"
_SIZE: Final = "shared_memory_byte_size"
FOLDER: Final = Path("/dev/shm")  # noqa: S108 - where shm_open makes its files
MOST_REGIONS: Final = 256
"""Each is an open file."""
OFF: Final = (
    "shared memory of clients is not read or written here, so no region can be registered; send tensors in the body, "
    "as binary data, or start `batchwright-worker serve` with --shared-memory"
)
CUDA: Final = "CUDA shared memory is not served; register system shared memory, or send tensors in the body"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor lies: `size` bytes from `offset` of a region on."""

    region: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A registered part of a shared memory object, which is open as `file`."""

    name: str
    key: str
    offset: int
    size: int
    file: int


class PlacedOutput(NamedTuple):
    """An output, and where it is to lie."""

    name: str
    place: Place
    data: bytes


class Regions:
    """The regions of one process, over all its ports. `most_bytes`: of one request's tensors."""

    def __init__(self, most_bytes: int, folder: Path = FOLDER) -> None:
        self._most_bytes = most_bytes
        self._folder = folder
        self._known: dict[str, Region] = {}

    # --- registration ---

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Raises BadInput for what is there already, is not a shared memory object or does not have so many bytes."""
        if not name:
            raise BadInput("the region has no name: wanted one that requests can use")
        if name in self._known:
            raise BadInput(f"shared memory region {name!r} is registered already; unregister it first")
        if len(self._known) >= MOST_REGIONS:
            raise BadInput(f"{MOST_REGIONS} regions are registered: wanted at most that; unregister some")
        if offset < 0 or size < 1:
            raise _bad(name, "offset and byte_size", "an offset of at least 0 and 1 byte or more", f"{offset}, {size}")
        file = self._opened(name, key)
        if (there := os.fstat(file).st_size) < offset + size:
            os.close(file)
            raise _bad(name, "byte_size", f"at most the {there} bytes of {key!r}", f"{size} from {offset} on")
        self._known[name] = Region(name=name, key=key, offset=offset, size=size, file=file)

    def unregister(self, name: str = "") -> None:
        """One region, or all of them; one that is not known is none afterwards either."""
        for each in [name] if name else list(self._known):
            region = self._known.pop(each, None)
            if region is not None:
                os.close(region.file)

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """One region, or all of them, with the protocol's field names. Raises BadInput for one that is not known."""
        found = [self._region(name)] if name else self._known.values()
        return [{"name": one.name, "key": one.key, "offset": one.offset, "byte_size": one.size} for one in found]

    def _opened(self, name: str, key: str) -> int:
        plain = key.removeprefix("/")
        if plain in ("", ".", "..") or "/" in plain or "\0" in plain:
            raise _bad(name, "key", "the name of a shared memory object, such as '/input_data'", repr(key))
        try:
            file = os.open(self._folder / plain, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise _bad(
                name, "key", "a shared memory object that can be read and written", f"{key!r} ({why})"
            ) from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise _bad(name, "key", "a shared memory object", f"{key!r}, which is something else")
        return file

    def _region(self, name: str) -> Region:
        region = self._known.get(name)
        if region is None:
            raise BadInput(f"shared memory region {name!r} is not registered; register it first")
        return region

    # --- tensors ---

    def check(self, inputs: Sequence[Place], outputs: Sequence[Place]) -> None:
        """The places of a request, before anything of their size is allocated. Raises BadInput."""
        total = sum(place.size for place in inputs)
        if total > self._most_bytes:
            raise BadInput(
                f"the inputs in shared memory have {total} bytes: wanted at most {self._most_bytes}, as of a "
                "body; send fewer rows at a time",
                wanted=f"at most {self._most_bytes} bytes",
                given=f"{total} bytes",
            )
        for place in (*inputs, *outputs):
            self._checked(place)

    def read(self, place: Place) -> memoryview:
        """A copy of the bytes. Raises BadInput."""
        region = self._checked(place)
        data = memoryview(bytearray(place.size))
        at = 0
        while at < place.size:
            count = os.preadv(region.file, [data[at:]], region.offset + place.offset + at)
            if not count:
                raise _cut(region)
            at += count
        return data

    def write_all(self, outputs: Sequence[PlacedOutput]) -> None:
        """The outputs of one request. Raises BadInput where one has more bytes than its place, or two would lie over
        each other, by whatever names their regions go."""
        spans = []
        for output in (each for each in outputs if each.data):
            region = self._checked(output.place)
            begin = region.offset + output.place.offset
            spans.append((os.fstat(region.file).st_ino, begin, begin + len(output.data), output.name, region.key))
        spans.sort()
        for (file, _, end, one, key), (other_file, begin, _, other, _) in itertools.pairwise(spans):
            if file == other_file and begin < end:
                raise BadInput(
                    f"outputs {one!r} and {other!r} would lie over each other in {key!r}; give each its own {_OFFSET}"
                )
        for output in outputs:
            self.write(output.place, output.data, output.name)

    def write(self, place: Place, data: bytes | memoryview, output: str) -> None:
        """The bytes of an output. Raises BadInput where there are more than the place has."""
        if len(data) > place.size:
            raise BadInput(
                f"output {output!r} does not fit its place in shared memory region {place.region!r}: wanted at least "
                f"{len(data)} bytes, given {place.size}; make {_SIZE} larger"
            )
        region = self._checked(place)
        view, at = memoryview(data), 0
        try:
            while at < len(view):
                at += os.pwritev(region.file, [view[at:]], region.offset + place.offset + at)
        except OSError as error:
            raise BadInput(f"output {output!r} cannot be written to {region.key!r}: {error.strerror}") from error

    def _checked(self, place: Place) -> Region:
        region = self._region(place.region)
        if place.offset + place.size > region.size:
            raise BadInput(
                f"{place.size} bytes from {place.offset} on are not in shared memory region {place.region!r}: it has "
                f"{region.size}; correct {_OFFSET} and {_SIZE}"
            )
        if os.fstat(region.file).st_size < region.offset + place.offset + place.size:
            raise _cut(region)
        return region


def place_of(parameters: Mapping[str, Any], where: str) -> Place | None:
    """Where the parameters of a tensor put it; None for one that travels in the body. Raises BadInput."""
    region = parameters.get(REGION)
    if region is None:
        return None
    offset, size = parameters.get(_OFFSET, 0), parameters.get(_SIZE)
    if not isinstance(region, str):
        raise BadInput(f"{where}: {REGION!r} is wrong: wanted the name of a region, given {region!r}")
    for name, value, least in ((_OFFSET, offset, 0), (_SIZE, size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 62:
            raise BadInput(f"{where}: {name!r} is wrong: wanted a number of bytes from {least} on, given {value!r}")
    return Place(region=region, offset=offset, size=size)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTensors:
    """What of a request lies in shared memory: the bytes of its inputs, the places of its outputs."""

    input_bytes: int
    outputs: Mapping[str, Place]


def _bad(region: str, what: str, wanted: str, given: str) -> BadInput:
    return BadInput(
        f"shared memory region {region!r}: {what} is wrong: wanted {wanted}, given {given}", wanted=wanted, given=given
    )


def _cut(region: Region) -> BadInput:
    return BadInput(
        f"{region.key!r}, of shared memory region {region.name!r}, has been cut short since it was registered"
    )
