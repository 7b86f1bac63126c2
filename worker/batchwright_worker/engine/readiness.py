"""When a replica takes traffic: `readiness` of the manifest. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from batchwright_worker.api.deployment import ReadinessRule


@dataclass(slots=True, kw_only=True)
class Readiness:
    """`All` asks for every model, once: a new revision with a broken model must not replace one that serves it, but in
    a pod that has served all of them one that breaks takes no other down. `Any` asks for one from the beginning.

    `was_ready`: this pod has been ready, maybe before a restart of its containers.
    """

    rule: ReadinessRule = "All"
    was_ready: bool = False
    _tried: set[str] = field(default_factory=set)

    def see(self, model: str, state: str) -> None:
        """A model has entered a state."""
        if state != "Loading":
            self._tried.add(model)

    def is_ready(self, states: Mapping[str, str], *, device_up: bool) -> bool:
        """With these states of all models, is the replica ready? Remembers that it was."""
        ready = device_up and bool(states) and self._suffices(states)
        self.was_ready = self.was_ready or ready
        return ready

    def _suffices(self, states: Mapping[str, str]) -> bool:
        # Unloaded by request: whoever did that does not wait for the model.
        if all(state in ("Ready", "Unloaded") for state in states.values()):
            return True
        if self.rule == "All" and not self.was_ready:
            return False
        # Whoever is told that the replica is ready may call any model, so each gets its first try before.
        return states.keys() <= self._tried and "Ready" in states.values()
