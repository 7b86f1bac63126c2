"""The models of a runtime process as its server sees them: whole (`whole_models`) or by layers (`layerwise_models`)."""

from __future__ import annotations

from typing import Protocol

from batchwright_worker.ipc.messages import Load, Run, Unload
from batchwright_worker.runtime.responses import ResponseSender

__all__ = ["RuntimeModels"]


class RuntimeModels(Protocol):
    """One implementation per process. Called from the server's thread alone."""

    def take(self, request: Load | Unload | Run, sender: ResponseSender) -> None:
        """Send the one response to a request, before this returns or later from another thread. What a model raises
        becomes a RequestFailed. Raises OSError if the sidecar is gone."""

    def finish(self) -> None:
        """Returns when the response to every batch in flight has been sent."""

    def unload_all(self) -> None:
        """Unload everything: a new sidecar starts with an empty runtime. Waits for what still loads."""

    def used_bytes(self) -> int:
        """Memory that models and batches use now."""

    def close(self) -> None:
        """Give everything back, once, at the end of the process."""
