"""Server and models as the protocol shows them: metadata, Triton's configuration, statistics and repository index.

Plain dictionaries with the protocol's field names: JSON bodies as they are, and protobuf messages by `ParseDict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from typing import Any, Final

from batchwright_worker.api.accelerators import is_gpu
from batchwright_worker.api.formats import FORMATS, ModelFormat
from batchwright_worker.api.model import Model
from batchwright_worker.api.names import CONFIG_DIGEST
from batchwright_worker.engine.counters import ModelCounters, Tally
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import ModelUnavailable, UnknownModel
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.protocol.classification import WantedClasses

EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)
_SHOWN_NAMES: Final = 20
_NEVER: Final = Tally()
"""There is no response cache here; Triton's clients expect its fields."""

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The models of this deployment as callers see them; `kind` is the pod's kind of accelerator."""

    engine: Engine
    models: Mapping[str, Model]
    kind: str
    more_extensions: tuple[str, ...] = ()
    """Extensions that are served here because somebody asked for them."""
    server_name: str = "batchwright"
    overridden: dict[str, tuple[Model, Model]] = field(default_factory=dict)
    """Models that were loaded with other bounds of batches: as they were before, and as they are since."""

    def check(self, name: str, version: str = "") -> None:
        """Raises UnknownModel unless this model, in this version (empty: any), is served here; ModelUnavailable
        before the engine has started."""
        self.check_name(name)
        if version and version != (only := self.version(name)):
            raise UnknownModel(f"model {name!r} has no version {version!r}; its only version is {only!r}")
        if name not in self.engine.publisher.views:
            raise ModelUnavailable("this replica is starting; try again soon", retry_after_s=1.0)

    def check_name(self, name: str) -> None:
        """Raises UnknownModel unless the manifest has a model of this name."""
        if name not in self.models:
            raise UnknownModel(
                f"Request for unknown model: {name!r} is not found; there are: {_few(sorted(self.models))}"
            )

    def version(self, name: str) -> str:
        """The one that is served."""
        return self.models[name].served_version

    def declared(self, name: str) -> Model:
        """As the manifest has it, whatever a load has said since."""
        now = self.models[name]
        before, since = self.overridden.get(name, (now, now))
        return before if now == since else now

    def override(self, name: str, model: Model) -> None:
        """Serve it with these bounds of batches until `restore`, or until the manifest has others."""
        self.overridden[name] = (self.declared(name), model)
        self.engine.reconfigure([model])

    def restore(self, name: str) -> None:
        """Serve it as the manifest has it."""
        self.engine.reconfigure([self.declared(name)])
        self.overridden.pop(name, None)

    def labels(self, name: str) -> dict[str, tuple[str, ...]]:
        """The names of classes, by output."""
        return {tensor.name: tensor.labels for tensor in self.models[name].outputs if tensor.labels}

    def wanted_classes(self, name: str, of: Mapping[str, int]) -> WantedClasses:
        """What `classification` needs to know of this model's outputs."""
        known = self.engine.model_metadata(name)
        without_rows = frozenset(spec.name for spec in known.outputs if not spec.batched or not known.max_batch_size)
        return WantedClasses(of=of, labels=self.labels(name), without_rows=without_rows)

    def expected_wait_ms(self, name: str) -> int:
        """Of this model, or the longest of all for a name that is not served; 0 before the engine has started."""
        if name in self.engine.publisher.views:
            return round(self.engine.expected_wait_ms(name))
        names = () if name in self.models else self.models
        waits = (self.engine.expected_wait_ms(each) for each in names if each in self.engine.publisher.views)
        return round(max(waits, default=0.0))

    def server(self) -> Body:
        """GET /v2."""
        extensions = [*EXTENSIONS, *self.more_extensions]
        return {"name": self.server_name, "version": package_version("batchwright"), "extensions": extensions}

    def metadata(self, name: str) -> Body:
        """GET /v2/models/NAME; shapes with the batch dimension in front."""
        known = self.engine.model_metadata(name)
        return {
            "name": name,
            "versions": [self.version(name)],
            "platform": self._format(name).platform,
            "inputs": [_tensor(spec) for spec in known.inputs],
            "outputs": [_tensor(spec) for spec in known.outputs],
        }

    def config(self, name: str) -> Body:
        """GET /v2/models/NAME/config: Triton's model configuration; `dims` without the batch dimension. What nobody has
        set is as clients expect it; what means nothing here (how a backend is optimised) is left out."""
        known, model = self.engine.model_metadata(name), self.models[name]
        served_as = self._format(name)
        layouts = {tensor.name: tensor.layout for tensor in model.inputs}
        body: Body = {
            "name": name,
            "platform": served_as.platform,
            "backend": served_as.backend,
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": known.max_batch_size,
            "input": [_config_input(spec, layouts.get(spec.name)) for spec in known.inputs],
            "output": [_config_output(spec) for spec in known.outputs],
            "batch_input": [],
            "batch_output": [],
            "instance_group": [_instance_group(name, is_gpu(self.kind))],
            "default_model_filename": "",
            "cc_model_filenames": {},
            "metric_tags": {},
            "parameters": {
                f"{CONFIG_DIGEST}{kind}": {"string_value": digest} for kind, digest in sorted(known.digests.items())
            },
            "model_warmup": [],
            "model_transaction_policy": {"decoupled": False},
        }
        if known.max_batch_size:
            body["dynamic_batching"] = {
                "preferred_batch_size": [self.engine.scheduler.models[name].tuner.size],
                "max_queue_delay_microseconds": model.batching.max_queue_delay_milliseconds * 1000,
                "preserve_ordering": False,
                "priority_levels": 0,
                "default_priority_level": 0,
                "default_queue_policy": {"max_queue_size": model.batching.max_queue_length},
                "priority_queue_policy": {},
            }
        return body

    def statistics(self, name: str | None) -> Body:
        """GET /v2/models[/NAME]/stats. Every model's where name is None."""
        names = sorted(self.models) if name is None else [name]
        counts = [_statistics(each, self.version(each), self.engine.counters[each]) for each in names]
        return {"model_stats": [{**each, "memory_usage": self._memory(each["name"])} for each in counts]}

    def index(self, *, ready_only: bool = False) -> list[Body]:
        """POST /v2/repository/index."""
        entries = []
        for name in sorted(self.models):
            view = self.engine.publisher.views.get(name)
            state = "Loading" if view is None else view.state
            if state == "Ready" or not ready_only:
                name_of_state = {"Ready": "READY", "Loading": "LOADING"}.get(state, "UNAVAILABLE")
                reason = "" if view is None else view.message
                entries.append({"name": name, "version": self.version(name), "state": name_of_state, "reason": reason})
        return entries

    def _memory(self, name: str) -> list[Body]:
        """Bytes on each device that holds the model."""
        kind = "GPU" if is_gpu(self.kind) else "CPU"
        return [
            {"type": kind, "id": number, "byte_size": device.memory.residents[name].memory_bytes}
            for number, device in enumerate(self.engine.scheduler.devices.values())
            if device.holds(name)
        ]

    def _format(self, name: str) -> ModelFormat:
        artifacts = self.models[name].artifacts
        artifact = next((each for each in artifacts if each.accelerator == self.kind), artifacts[0])
        return FORMATS[artifact.format]


def _few(names: list[str]) -> str:
    """There may be hundreds; POST /v2/repository/index lists them."""
    shown = ", ".join(names[:_SHOWN_NAMES])
    return shown if len(names) <= _SHOWN_NAMES else f"{shown} and {len(names) - _SHOWN_NAMES} more"


def _tensor(spec: TensorSpec) -> Body:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.full_shape)}


def _config_input(spec: TensorSpec, layout: str | None) -> Body:
    more = {"allow_ragged_batch": False, "optional": False}
    return {**_config_tensor(spec), "format": f"FORMAT_{layout or 'NONE'}", **more}


def _config_output(spec: TensorSpec) -> Body:
    return {**_config_tensor(spec), "label_filename": ""}


def _config_tensor(spec: TensorSpec) -> Body:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(spec.shape), "is_shape_tensor": False}


def _instance_group(name: str, gpu: bool) -> Body:
    """One: a model is loaded once per device, and its batches follow each other there."""
    lists: Body = {"gpus": [], "secondary_devices": [], "profile": []}
    kind = "KIND_GPU" if gpu else "KIND_CPU"
    return {"name": name, "kind": kind, "count": 1, **lists, "passive": False, "host_policy": ""}


def _statistics(name: str, version: str, measures: ModelCounters) -> Body:
    durations = {
        "success": measures.success,
        "fail": measures.fail,
        "queue": measures.queue,
        "compute_input": measures.compute_input,
        "compute_infer": measures.compute,
        "compute_output": measures.compute_output,
        "cache_hit": _NEVER,
        "cache_miss": _NEVER,
    }
    return {
        "name": name,
        "version": version,
        "last_inference": int(measures.last_inference * 1000),
        "inference_count": measures.rows,
        "execution_count": measures.executions.count,
        "inference_stats": {key: _duration(tally) for key, tally in durations.items()},
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(tally.compute_input),
                "compute_infer": _duration(tally.compute),
                "compute_output": _duration(tally.compute_output),
            }
            for size, tally in sorted(measures.batches.items())
        ],
    }


def _duration(tally: Tally) -> Body:
    return {"count": tally.count, "ns": tally.ns}
