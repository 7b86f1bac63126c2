"""images: one item per file; the payload is the file's bytes, the id its path below the input's directory."""

from __future__ import annotations

from collections.abc import Iterator

from batchwright_worker.runner.errors import describe
from batchwright_worker.runner.inputs.items import MAX_ITEM_BYTES, Cuts, Item, Measured, SourceFile
from batchwright_worker.runner.inputs.reading import is_of_this_file
from batchwright_worker.runner.storage.locations import Location
from batchwright_worker.runner.storage.plan_file import PlannedSegment


class Images:
    """One item per file."""

    suffixes: tuple[str, ...] = (
        ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".avif",
    )  # fmt: skip

    def measure(self, location: Location, file: SourceFile, cuts: Cuts) -> Measured:
        """One item; whether it can be decoded is its task's business."""
        return Measured(count=1)

    def read(self, location: Location, segment: PlannedSegment) -> Iterator[Item]:
        """The file's bytes."""
        try:
            with location.open(segment.path) as file:
                data = bytes(file.read(MAX_ITEM_BYTES + 1))
        except Exception as error:
            if not is_of_this_file(location, error):
                raise
            yield Item(id=segment.name, error=f"the file cannot be read: {describe(error)}")
            return
        if len(data) > MAX_ITEM_BYTES:
            yield Item(id=segment.name, error=f"the file is larger than {MAX_ITEM_BYTES >> 20} MiB; split or shrink it")
        else:
            yield Item(id=segment.name, data=data, nbytes=len(data))

    def names_with_id(self, location: Location, file: SourceFile, wanted: str) -> Iterator[str]:
        """Ids are unique by construction."""
        return iter(())
