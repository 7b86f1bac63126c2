"""webdataset: tar files whose neighbouring members with one name and several endings are one item."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from batchwright_worker.runner.errors import StepFailed, describe
from batchwright_worker.runner.inputs.ids import id_hash
from batchwright_worker.runner.inputs.items import MAX_ITEM_BYTES, Cuts, Item, Measured, SourceFile
from batchwright_worker.runner.storage.locations import Location
from batchwright_worker.runner.storage.plan_file import PlannedSegment

KEY: Final = "__key__"
_NAME: Final = re.compile(r"^((?:.*/)?[^./]+)[.]([^/]*)$")
"""As the library webdataset cuts names: the first dot behind the last slash."""
_GZIP: Final = b"\x1f\x8b"
_REST: Final = 1 << 20


@dataclass(slots=True, kw_only=True)
class TarSample:
    """Members of one key, by their endings."""

    key: str
    offset: int
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all members."""
        return sum(member.size for member in self.members.values())


class WebDataset:
    """The payload is a dict: `__key__` and each member by its ending, .json decoded, .txt as text, .cls as a whole
    number, .npy as an array, others as bytes. The id is the key, unless ids are to be made of the place."""

    suffixes: tuple[str, ...] = (".tar", ".tar.gz", ".tgz")

    def __init__(self, id_field: str = "id") -> None:
        self._by_key = bool(id_field)

    def measure(self, location: Location, file: SourceFile, cuts: Cuts) -> Measured:
        """Count samples by the members' headers. Raises StepFailed(InputInvalid) for what is no tar file."""
        marks: dict[int, tuple[int, int]] = {}
        ids, count = array("q"), 0
        for sample, _ in _samples(location, file.path, 0):
            if cuts.starts_segment(count):
                marks[count] = (sample.offset, count)
            ids.append(id_hash(sample.key))
            count += 1
        return Measured(count=count, marks=marks, ids=ids if self._by_key else None)

    def read(self, location: Location, segment: PlannedSegment) -> Iterator[Item]:
        """The samples of a segment, from its offset on."""
        left, number = segment.count, segment.start
        for sample, tar in _samples(location, segment.path, segment.offset):
            yield self._item(sample, tar, f"{segment.name}:{number}")
            number += 1
            left -= 1
            if not left:
                return

    def names_with_id(self, location: Location, file: SourceFile, wanted: str) -> Iterator[str]:
        """Places of the samples with this key."""
        for number, (sample, _) in enumerate(_samples(location, file.path, 0)):
            if sample.key == wanted:
                yield f"{file.name}:{number}"

    def _item(self, sample: TarSample, tar: tarfile.TarFile, place: str) -> Item:
        name = sample.key if self._by_key else place
        if sample.size > MAX_ITEM_BYTES:
            return Item(id=name, error=f"its files are larger than {MAX_ITEM_BYTES >> 20} MiB together: split them")
        data: dict[str, Any] = {KEY: sample.key}
        for ending, member in sample.members.items():
            stream = tar.extractfile(member)
            assert stream is not None  # only regular files are members
            try:
                data[ending] = _decoded(ending, stream.read())
            except (ValueError, msgspec.MsgspecError) as error:
                return Item(id=name, error=f"its .{ending} cannot be read: {describe(error)}")
        return Item(id=name, data=data)


def _samples(location: Location, path: str, offset: int) -> Iterator[tuple[TarSample, tarfile.TarFile]]:
    """The samples from an offset on (of the file when it is not compressed), each before the next one is read. Raises
    StepFailed(InputInvalid) for a file that is damaged."""
    with location.open(path) as raw:
        head = raw.read(len(_GZIP))
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if head == _GZIP else raw
        try:
            stream.seek(offset)
            with tarfile.TarFile(fileobj=stream, mode="r") as tar:
                yield from _grouped(tar)
                _check_end(tar, stream)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            message = f"{path} is no whole tar file ({error}): correct it, or set input.format"
            raise StepFailed("InputInvalid", message) from error


def _grouped(tar: tarfile.TarFile) -> Iterator[tuple[TarSample, tarfile.TarFile]]:
    sample: TarSample | None = None
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # or the names of millions of files would be kept
        found = _NAME.match(member.name.removeprefix("./"))
        if found is None or not member.isreg():
            continue
        key, ending = found[1], found[2].lower()
        if sample is None or sample.key != key or ending in sample.members:
            if sample is not None:
                yield sample, tar
            sample = TarSample(key=key, offset=member.offset)
        sample.members[ending] = member
    if sample is not None:
        yield sample, tar


def _check_end(tar: tarfile.TarFile, stream: Any) -> None:
    """The library takes a damaged header for the end; an end is a block of zeros, or that of the file. To read the rest
    of a compressed file compares its checksum."""
    stream.seek(tar.offset)
    if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"the header at byte {tar.offset} is damaged")
    while isinstance(stream, gzip.GzipFile) and stream.read(_REST):
        pass


def _decoded(ending: str, content: bytes) -> Any:
    last = ending.rpartition(".")[2]
    if last == "json":
        return msgspec.json.decode(content)
    if last in ("txt", "text"):
        return content.decode()
    if last == "cls":
        return int(content)
    if last == "npy":
        import numpy as np

        return np.load(io.BytesIO(content), allow_pickle=False)
    return content
