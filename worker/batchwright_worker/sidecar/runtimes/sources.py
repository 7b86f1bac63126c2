"""The manifest's artifact resolved for a runtime process: paths, script, emulated figures."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batchwright_worker.api.deployment import Artifact
from batchwright_worker.api.names import SCRIPTS_DIR, weights_path
from batchwright_worker.inference.runtime import DeclaredSource
from batchwright_worker.ipc import messages


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """Folders in the runtime's file system."""

    scripts: Path = Path(SCRIPTS_DIR)


def resolved(model: str, source: DeclaredSource, paths: Paths) -> messages.ModelSource:
    """The source as the runtime process takes it in a Load."""
    artifact: Artifact = source.artifact
    return messages.ModelSource(
        name=model,
        format=artifact.format,
        path=weights_path(artifact.uri) if artifact.uri else "",
        inputs=list(source.inputs),
        outputs=list(source.outputs),
        script=_script(artifact, paths),
        emulated=_emulated(artifact),
        mode=source.mode,
        warmup=source.warmup,
        padding=source.padding,
        sha256=artifact.sha256 or "",
    )


def _script(artifact: Artifact, paths: Paths) -> str:
    script = artifact.script
    if script is None:
        return ""
    if script.config_map_key_ref is not None:
        return str(paths.scripts / script.config_map_key_ref.name / script.config_map_key_ref.key)
    if script.file is not None:
        return f"{weights_path(artifact.uri or '').rstrip('/')}/{script.file}"
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
