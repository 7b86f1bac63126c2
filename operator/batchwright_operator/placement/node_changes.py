"""Which nodes changed since when. Pure."""

from __future__ import annotations


class NodeChanges:
    """Which nodes changed, in the order of their last changes."""

    def __init__(self) -> None:
        self.serial = 0
        self._at: dict[str, int] = {}

    def note(self, node: str) -> None:
        """Something about this node is no longer as it was."""
        self.serial += 1
        self._at.pop(node, None)
        self._at[node] = self.serial

    def last_of(self, node: str) -> int:
        """The serial of this node's last change; 0: there was none."""
        return self._at.get(node, 0)

    def since(self, serial: int) -> list[str]:
        """The nodes that changed after this serial."""
        found = []
        for node in reversed(self._at):
            if self._at[node] <= serial:
                break
            found.append(node)
        return found
