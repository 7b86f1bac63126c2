"""An InferenceJob as a frozen value: identity from metadata, spec parsed once, defaults of the schema included."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from batchwright_operator.api.identity import Identified, identity
from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.job import InferenceJobSpec, Task, parse_job_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceJob(Identified):
    """What a user wants of one job. `spec` is the typed spec, `raw` the object it came from (never mutated)."""

    spec: InferenceJobSpec
    raw: Raw

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.spec.tasks

    def deployments(self) -> tuple[str, ...]:
        """Names of the ModelDeployments that the tasks use, each once, in the order of the tasks."""
        return tuple(dict.fromkeys(task.model.deployment for task in self.tasks if task.model is not None))


def parse(raw: Raw) -> InferenceJob:
    """The only reader of a raw InferenceJob's spec. Raises InvalidSpec."""
    try:
        spec = parse_job_spec(raw.get("spec", {}))
    except msgspec.ValidationError as error:
        raise InvalidSpec(error) from error
    return InferenceJob(identity=identity(raw), spec=spec, raw=raw)
