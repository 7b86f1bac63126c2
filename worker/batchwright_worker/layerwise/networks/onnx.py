"""An ONNX network that runs unit by unit on a CPU: one session per unit, its weights handed in where they lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from batchwright_worker.backends.base import Host, LoadError, OutOfDeviceMemoryError, check_outputs
from batchwright_worker.backends.onnx import array_of, is_out_of_memory, ort_value
from batchwright_worker.batching.calls import pieces
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.networks.prepared_folder import HeldFolder, prepared
from batchwright_worker.layerwise.networks.split_onnx import external_files, prepare, read_models, session_options
from batchwright_worker.layerwise.networks.units import (
    Bytes,
    NotDivisible,
    Piece,
    State,
    Unit,
    file_digest,
)

__all__ = ["OnnxUnits", "open_onnx"]

_COPIES: Final = 2
"""Of the weights, while a network is prepared: as onnxruntime writes them, and by units."""
_WITHOUT_NUMPY: Final = (TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)


class OnnxUnits:
    """See `Network`."""

    def __init__(self, folder: Path, found: HeldFolder, threads: int) -> None:
        self.index = found.index
        self.folder = folder
        self._prepared = found
        models = read_models(folder)
        self.inputs: Sequence[TensorSpec] = models.inputs
        self.outputs: Sequence[TensorSpec] = models.outputs
        self._piece = models.piece
        self._units = models.units
        options = session_options(threads)
        self._sessions = [
            ort.InferenceSession(unit.model, options, providers=["CPUExecutionProvider"]) for unit in models.units
        ]

    def begin(self, inputs: Mapping[str, Array], rows: int) -> State:
        """As Network.begin; the inputs are copied (their memory is reused by the caller)."""
        return [
            {spec.name: ort_value(spec, np.array(piece[spec.name])) for spec in self.inputs}
            for piece in pieces(inputs, rows, self._piece)
        ]

    def compute(self, position: int, weights: Bytes, state: State) -> None:
        """As Network.compute."""
        unit, model, session = self.index.units[position], self._units[position], self._sessions[position]
        weight_values = _values(unit, weights)
        try:
            for values in state:
                feeds = {name: values[name] for name in model.takes} | weight_values
                given = session.run_with_ort_values(model.gives, feeds)
                values.update(zip(model.gives, given, strict=True))
                for name in model.drops:
                    del values[name]
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfDeviceMemoryError(str(error)) from error
            raise

    def end(self, state: State, rows: int) -> Mapping[str, Array]:
        """As Network.end."""
        parts = [{spec.name: array_of(spec, values[spec.name]) for spec in self.outputs} for values in state]
        outputs = {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}
        check_outputs(outputs, rows)
        return outputs

    def close(self) -> None:
        """As Network.close."""
        self._sessions = []
        self._prepared.release()


def _values(unit: Unit, weights: Bytes) -> dict[str, Any]:
    """The unit's weights as onnxruntime takes them, where they lie."""
    return {piece.name: _value(piece, weights[piece.offset : piece.offset + piece.size]) for piece in unit.pieces}


def _value(piece: Piece, data: Bytes) -> Any:
    kind = int(piece.dtype)
    if kind in _WITHOUT_NUMPY:
        raw = data.view(np.uint16 if kind == TensorProto.BFLOAT16 else np.uint8).reshape(piece.shape)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, kind)
    return ort.OrtValue.ortvalue_from_numpy(data.view(helper.tensor_dtype_to_np_dtype(kind)).reshape(piece.shape))


def open_onnx(
    source: ModelSource, host: Host, folder_of: Callable[[str], Path], limit_bytes: int, least_bytes: int = 0
) -> OnnxUnits:
    """Prepared on the first use (which takes the memory of the whole model for a moment), from then on opened without
    its weights. Raises LoadError, NotDivisible."""
    path = Path(source.path)
    if not path.is_file():
        raise LoadError(f"there is no file at {path}; check the artifact's uri")
    files = external_files(path)
    others = [file_digest(each) for each in files]
    coming = _COPIES * sum(each.stat().st_size for each in (path, *files))
    digest = file_digest(path, *others, ort.__version__, _processor(), str(limit_bytes), str(least_bytes))
    folder = folder_of(digest)
    try:
        found = prepared(
            folder, lambda place: prepare(path, place, source.name, digest, limit_bytes, least_bytes), coming
        )
    except (NotDivisible, LoadError):
        raise
    except Exception as error:
        raise LoadError(f"{path} cannot be cut into units: {error}") from error
    try:
        return OnnxUnits(folder, found, host.threads)
    except BaseException:
        found.release()
        raise


def _processor() -> str:
    """The layout that onnxruntime chooses depends on it."""
    from batchwright_worker.host.machine import processor_name

    return processor_name()
