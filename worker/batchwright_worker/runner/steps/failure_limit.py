"""How many items may fail before a job is ended: as the manifest says, else not most of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST_ITEMS: Final = 100
"""Without a limit of the manifest's nothing is decided before so many items are through."""
MOST: Final = 0.5


@dataclass(slots=True, kw_only=True)
class FailureLimit:
    """Counts items over the shards of one process. `most` is maxFailedItems, None where it is not set."""

    most: int | None
    succeeded: int = 0
    failed: int = 0

    def problem(self) -> str | None:
        """Why the job is ended; None as long as it may go on."""
        items = self.succeeded + self.failed
        if self.most is not None:
            return f"{self.failed} items failed, maxFailedItems is {self.most}" if self.failed > self.most else None
        if items < FIRST_ITEMS or self.failed <= MOST * items:
            return None
        return (
            f"{self.failed} of {items} items failed, more than half: mend the cause and run again, or set "
            "maxFailedItems if so many may fail"
        )
