"""A model's new targets, limits and bounds of batches, taken over as it is served."""

from __future__ import annotations

from batchwright_worker.api.model import Model
from batchwright_worker.engine.parts import EngineParts
from batchwright_worker.engine.windows import Windows
from batchwright_worker.scheduler.served_model import config_of


def reconfigured(engine: EngineParts, windows: Windows, model: Model) -> None:
    """One model that is served; before the engine has started there is nothing to change but `models`."""
    served = engine.scheduler.models.get(model.name)
    if served is None:
        return
    known = served.config
    config = config_of(model, known.load_bytes, known.bytes_per_row, known.load_table)
    size = engine.scheduler.reconfigure(config)
    if config.window_s != known.window_s:
        windows.resized(served)
    engine.publisher.resized(model.name, size, "Reconfigured", "the configuration has other bounds")
