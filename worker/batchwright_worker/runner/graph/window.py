"""Back-pressure: how many items may be held at once, from what items were seen to need. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MOST_ITEMS = 2048
_FORGET = 0.02


@dataclass(slots=True, kw_only=True)
class Window:
    """`budget_bytes` bounds the memory of all items that are read and not yet written.

    Until an item is finished nobody knows how large items grow, so only a few start; then the largest need seen
    (slowly forgotten) decides. One item is always allowed, whatever its size.
    """

    budget_bytes: int
    first_items: int
    items: int = 0
    bytes: int = 0
    need_bytes: float = 0.0

    @property
    def room(self) -> int:
        """Items that may be read now."""
        if not self.items:
            return max(1, self.limit)  # an item larger than the budget must run some time, so it runs alone
        if self.bytes >= self.budget_bytes:
            return 0
        return max(0, self.limit - self.items)

    @property
    def limit(self) -> int:
        """Most items at once."""
        if not self.need_bytes:
            return self.first_items
        return max(1, min(MOST_ITEMS, int(self.budget_bytes / self.need_bytes)))

    def finished(self, peak_bytes: float, items: int = 1) -> None:
        """So many items were finished, each of which held this much at most."""
        forgotten = 1.0 - (1.0 - _FORGET) ** items
        self.need_bytes = max(float(peak_bytes), self.need_bytes + forgotten * (peak_bytes - self.need_bytes), 1024.0)
