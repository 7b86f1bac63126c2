"""A model of a Triton model repository in the words of a ModelDeployment; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from batchwright_worker.artifacts.triton.refusals import BACKENDS, MOST_ROWS, PLATFORMS
from batchwright_worker.oip import inference_pb2 as pb

Document = dict[str, Any]
DEFAULT_FILES: Final = {"onnxruntime": "model.onnx", "pytorch": "model.pt", "python": "model.py"}
_NUMBERED: Final = re.compile(r"__(\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """A model as it lies in a repository. `versions`: its numbered folders; `labels` by output."""

    name: str
    config: pb.ModelConfig
    version: str
    files: frozenset[str]
    """Names in the folder of the version; of folders with a slash behind."""
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)


def backend_of(config: pb.ModelConfig, files: frozenset[str]) -> str:
    """As the configuration says, else as Triton tells it from the files; empty where neither does."""
    if config.backend:
        return config.backend
    if config.platform:
        return PLATFORMS.get(config.platform, config.platform)
    plain = {name.rstrip("/") for name in files}
    return next((backend for backend, name in DEFAULT_FILES.items() if name in plain), "")


def version_of(config: pb.ModelConfig, versions: Sequence[str], chosen: str | None = None) -> str:
    """The one version that is served; `chosen` goes before the policy. Raises ValueError where the policy wants
    several, or for one that is not there."""
    there = sorted(versions, key=int)
    if not there:
        raise ValueError("there is no folder of a version (1, 2, ..) with a model in it")
    if chosen is not None:
        if chosen not in there:
            raise ValueError(f"version {chosen} is not there; there are {', '.join(there)}")
        return chosen
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            wanted = there
        case "specific":
            wanted = [str(number) for number in policy.specific.versions]
        case _:
            wanted = there[-max(1, policy.latest.num_versions) :]
    if len(wanted) != 1:
        raise ValueError(
            f"version_policy: it wants the versions {', '.join(wanted) or 'none'}, and one version of a model is "
            "served; write specific: { versions: [..] } with one (or models[].version), and give others a name of "
            "their own"
        )
    if wanted[0] not in there:
        raise ValueError(f"version_policy: version {wanted[0]} is not there; there are {', '.join(there)}")
    return wanted[0]


def model_document(found: FoundModel, kind: str, uri_of: Callable[[PurePosixPath], str]) -> Document:
    """An entry of `spec.models`; `uri_of` says the address of a path in the model's folder (a folder's without a slash
    behind). Raises ValueError for a file that is not there. Only for what has no refusals."""
    config = found.config
    whole = config.max_batch_size == 0 and bool(config.input)
    document: Document = {
        "name": found.name,
        "version": found.version,
        "artifacts": [{"accelerator": kind, **_artifact(found, uri_of)}],
        "batching": _batching(config, whole=whole),
    }
    inputs, outputs = _in_order(config.input), _in_order(config.output)
    if inputs:
        document["inputs"] = [_tensor(each) for each in inputs]
    if outputs:
        labels = found.labels
        document["outputs"] = [
            _tensor(each) | ({"labels": list(labels[each.name])} if each.name in labels else {}) for each in outputs
        ]
    if warmup := _warmup(config):
        document["warmup"] = warmup
    return document


def _artifact(found: FoundModel, uri_of: Callable[[PurePosixPath], str]) -> Document:
    config = found.config
    backend = backend_of(config, found.files)
    file = config.default_model_filename or DEFAULT_FILES[backend]
    if backend == "python":
        _check_file(found, file)
        script = {"file": f"{found.version}/{file}"}
        return {"format": BACKENDS[backend], "uri": f"{uri_of(PurePosixPath())}/", "script": script}
    is_folder = f"{file}/" in found.files
    if not is_folder:
        _check_file(found, file)
    return {"format": BACKENDS[backend], "uri": uri_of(PurePosixPath(found.version, file)) + ("/" if is_folder else "")}


def _check_file(found: FoundModel, file: str) -> None:
    if file not in found.files:
        names = ", ".join(sorted(found.files)) or "none"
        raise ValueError(f"there is no {file} in the folder of version {found.version}; there are: {names}")


def _batching(config: pb.ModelConfig, *, whole: bool) -> Document:
    """Without dynamic batching Triton joins no requests: whether rows may be joined is then found out by trying."""
    if whole:
        return {"mode": "Whole"}
    batching: Document = {}
    if config.max_batch_size:
        batching["maxSize"] = min(config.max_batch_size, MOST_ROWS)
    if not config.HasField("dynamic_batching"):
        return batching
    given = config.dynamic_batching
    batching["mode"] = "Rows"
    if given.preferred_batch_size:
        batching["initialSize"] = min(max(given.preferred_batch_size), batching.get("maxSize", MOST_ROWS))
    if given.max_queue_delay_microseconds >= 1000:
        batching["maxQueueDelayMilliseconds"] = given.max_queue_delay_microseconds // 1000
    if given.default_queue_policy.max_queue_size:
        batching["maxQueueLength"] = given.default_queue_policy.max_queue_size
    return batching


def _warmup(config: pb.ModelConfig) -> Document | None:
    """Zeros as such; random numbers are what a warm-up without inputs makes."""
    if not config.model_warmup:
        return None
    sample = config.model_warmup[0]
    if any(given.WhichOneof("input_data_type") != "zero_data" for given in sample.inputs.values()):
        return None
    rows = [max(1, sample.batch_size)] if config.max_batch_size else []
    return {
        "inputs": [
            {
                "name": name,
                "shape": [*rows, *given.dims],
                "data": ["false" if given.data_type == pb.TYPE_BOOL else "" if _is_text(given.data_type) else "0"],
            }
            for name, given in sorted(sample.inputs.items())
        ]
    }


def _in_order(tensors: Sequence[Any]) -> list[Any]:
    """By the numbers behind their names (INPUT__0), which are TorchScript's places; else as they stand there."""
    places = [_NUMBERED.search(each.name) for each in tensors]
    if not all(places):
        return list(tensors)
    return sorted(tensors, key=lambda each: int(_NUMBERED.search(each.name)[1]))  # type: ignore[index]


def _tensor(tensor: Any) -> Document:
    datatype = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    document = {
        "name": tensor.name,
        "datatype": "BYTES" if datatype == "STRING" else datatype,
        "shape": list(tensor.dims),
    }
    layout = getattr(tensor, "format", pb.ModelInput.FORMAT_NONE)
    if layout != pb.ModelInput.FORMAT_NONE:
        document["layout"] = pb.ModelInput.Format.Name(layout).removeprefix("FORMAT_")
    return document


def _is_text(datatype: int) -> bool:
    return datatype == pb.TYPE_STRING
