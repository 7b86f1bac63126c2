"""Which models a data set is made with: the first runner that meets a model writes its digest down, all others compare.

One small file per model and kind of accelerator, `OUTPUT/_batchwright/models/..`, made only if it is not there: so it
does not matter which shard of which pod is the first.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.storage.locations import WORK_DIR, Location, create, output_errors

MODELS_DIR = f"{WORK_DIR}/models"


class PinnedModel(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """`digest` is of what the model was loaded from (artifact, script), as `batchwright-worker digest` tells it of an
    artifact alone."""

    deployment: str
    model: str
    accelerator: str
    digest: str


class ModelPins:
    """The models of one output. Thread-safe. `writes=False`: they are compared, and nothing is written."""

    def __init__(self, output: Location, *, writes: bool = True) -> None:
        self._output = output
        self._writes = writes
        self._pinned: dict[str, PinnedModel] = {}
        self._lock = threading.Lock()

    def check(self, deployment: str, model: str, digests: Mapping[str, str]) -> None:
        """Blocking. Raises StepFailed(ModelChanged) if the results so far are another model's."""
        with self._lock:
            for accelerator, digest in digests.items():
                met = PinnedModel(deployment=deployment, model=model, accelerator=accelerator, digest=digest)
                pinned = self._pin(met)
                if pinned.digest != digest:
                    raise StepFailed("ModelChanged", _changed(self._output, pinned, digest))

    def _pin(self, met: PinnedModel) -> PinnedModel:
        name = f"{MODELS_DIR}/{quote(f'{met.deployment} {met.model} {met.accelerator}', safe='')}.json"
        if name not in self._pinned and not self._writes:
            raw = self._output.read(name)
            self._pinned[name] = met if raw is None else msgspec.json.decode(raw, type=PinnedModel)
        elif name not in self._pinned:
            if create(self._output, name, msgspec.json.encode(met)):
                self._pinned[name] = met
            else:
                self._pinned[name] = msgspec.json.decode(self._output.read(name) or b"", type=PinnedModel)
        return self._pinned[name]


def pinned_models(output: Location) -> list[PinnedModel]:
    """The models of the results so far, sorted."""
    with output_errors(output):
        try:
            paths = [str(path).rpartition("/")[2] for path in output.fs.ls(output.at(MODELS_DIR), detail=False)]
        except FileNotFoundError:
            return []
    names = [name for name in paths if not name.startswith(".")]  # such are on their way to their names
    raw = [output.read(f"{MODELS_DIR}/{name}") for name in names]
    found = [msgspec.json.decode(each, type=PinnedModel) for each in raw if each is not None]
    return sorted(found, key=lambda pin: (pin.deployment, pin.model, pin.accelerator))


def _changed(output: Location, pinned: PinnedModel, digest: str) -> str:
    return (
        f"model {pinned.deployment}/{pinned.model} on {pinned.accelerator} has digest {digest[:12]}, the results in "
        f"{output.uri} were begun with {pinned.digest[:12]}: they are not mixed. Serve that model again, choose "
        "another output.uri, or have the output replaced (output.mode: Overwrite)"
    )
