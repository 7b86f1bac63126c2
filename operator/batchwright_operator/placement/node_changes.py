"""Which nodes changed since when. Pure."""

from __future__ import annotations

from collections.abc import Container, Sized
from typing import Final, Protocol

GONE_MAX: Final = 1000
"""Nodes that are gone are remembered as long as they are no more than this, and half of all."""


class Nodes(Container[str], Sized, Protocol):
    """Names of nodes."""


class NodeChanges:
    """Which nodes changed, in the order of their last changes."""

    def __init__(self) -> None:
        self.serial = 0
        self._at: dict[str, int] = {}
        self.forgotten = 0
        """The last serial at which changes were forgotten: whoever looked before that has to begin anew."""

    def __len__(self) -> int:
        """How many nodes are remembered."""
        return len(self._at)

    def note(self, node: str) -> None:
        """Something about this node is no longer as it was."""
        self.serial += 1
        self._at.pop(node, None)
        self._at[node] = self.serial

    def forget_gone(self, nodes: Nodes) -> None:
        """Forgets the changes of nodes that are not among these, once they are many."""
        if len(self._at) <= 2 * len(nodes) + GONE_MAX:
            return
        self._at = {node: serial for node, serial in self._at.items() if node in nodes}
        self.forgotten = self.serial

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
