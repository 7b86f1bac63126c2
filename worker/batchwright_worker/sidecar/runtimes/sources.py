"""From the manifest's artifact to what a runtime process needs: paths, script, emulated figures."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batchwright_worker.api.deployment import Artifact
from batchwright_worker.api.names import SCRIPTS_DIR, weights_path
from batchwright_worker.inference.runtime import ModelSource, TensorSpec
from batchwright_worker.ipc import messages


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """Where things lie in the runtime's file system."""

    scripts: Path = Path(SCRIPTS_DIR)


def wire_source(model: str, source: ModelSource, paths: Paths) -> messages.ModelSource:
    """The Load message's source."""
    artifact: Artifact = source.artifact
    return messages.ModelSource(
        name=model,
        format=artifact.format,
        path=weights_path(artifact.uri) if artifact.uri else "",
        inputs=[_wire(spec) for spec in source.inputs],
        outputs=[_wire(spec) for spec in source.outputs],
        script=_script(artifact, paths),
        emulated=_emulated(artifact),
    )


def spec_of(spec: messages.TensorSpec) -> TensorSpec:
    """The engine's value of a message's spec."""
    return TensorSpec(name=spec.name, datatype=spec.datatype, shape=tuple(spec.shape))


def _wire(spec: TensorSpec) -> messages.TensorSpec:
    return messages.TensorSpec(name=spec.name, datatype=spec.datatype, shape=list(spec.shape))


def _script(artifact: Artifact, paths: Paths) -> str:
    script = artifact.script
    if script is None:
        return ""
    if script.config_map_key_ref is not None:
        return str(paths.scripts / script.config_map_key_ref.name / script.config_map_key_ref.key)
    return script.module or ""


def _emulated(artifact: Artifact) -> messages.EmulatedSource | None:
    given = artifact.emulated
    if given is None:
        return None
    return messages.EmulatedSource(
        fixed_microseconds=given.fixed_microseconds,
        per_row_microseconds=given.per_row_microseconds,
        weights_bytes=given.weights_bytes,
        bytes_per_row=given.bytes_per_row,
        load_milliseconds=given.load_milliseconds,
        load_overlaps=given.load_overlaps,
    )
