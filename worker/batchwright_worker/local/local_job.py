"""The InferenceJob of manifests, as it is run on this machine: where its input and output are here, which items."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchwright_worker.api.documents import Document, ManifestError, validate, with_defaults
from batchwright_worker.api.messages import JobConfig
from batchwright_worker.api.names import claim_of
from batchwright_worker.api.uris import file_uri, path_of
from batchwright_worker.local.deployment import LocalDeployment, local_deployment
from batchwright_worker.local.job_runtimes import for_throughput
from batchwright_worker.local.weights import LocalCache
from batchwright_worker.runner.job import Job, make_job
from batchwright_worker.runner.storage.plan_file import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalJob:
    """The arguments of `run`: documents of all files, where claims are, and where modules are looked for."""

    documents: Sequence[Document]
    name: str | None
    volumes: Mapping[str, Path]
    folders: tuple[str, ...] = ()
    accelerator: str | None = None
    overwrite: bool = False
    """As `output.mode: Overwrite`."""
    retry_failed: bool = False
    """As `output.mode: RetryFailed`."""
    output: str | None = None
    """Another output.uri than the manifest's; a path will do."""
    selection: Selection | None = None
    """Only these items, into an output of their own: beside the manifest's, unless `output` says otherwise."""
    cache: LocalCache | None = None
    """Of fetched weights; None: the user's."""


def job_of(local: LocalJob, scratch: Path) -> Job:
    """The job; ConfigMaps of functions are written to `scratch`. Raises ManifestError, StepFailed."""
    document = with_defaults(_chosen(local))
    if local.output is not None:
        _set_output(document, local.output if "://" in local.output else file_uri(Path(local.output).absolute()))
    problems = validate(document)
    if problems:
        raise ManifestError("\n".join(str(problem) for problem in problems))
    spec: dict[str, Any] = dict(document["spec"])
    for place in ("input", "output"):
        spec[place] = {**spec[place], "uri": _local_uri(spec[place]["uri"], f"spec.{place}.uri", local.volumes)}
    if local.selection is not None and local.output is None:
        spec["output"]["uri"] = f"{spec['output']['uri'].rstrip('/')}-{local.selection.slug}"
    if local.overwrite:
        spec["output"] = {**spec["output"], "mode": "Overwrite"}
    if local.retry_failed:
        spec["output"] = {**spec["output"], "mode": "RetryFailed"}
    metadata = document["metadata"]
    config = JobConfig(name=metadata["name"], namespace=metadata.get("namespace", "default"), uid="local", spec=spec)
    job = make_job(config, folders=(*_config_maps(local.documents, spec, scratch), *local.folders))
    for variable in job.spec.runner.env:
        if variable.value is not None:
            os.environ.setdefault(variable.name, variable.value)
    return replace(job, selection=local.selection)


def _set_output(document: Document, uri: str) -> None:
    if isinstance(spec := document.get("spec"), dict) and isinstance(spec.get("output"), dict):
        spec["output"]["uri"] = uri


def _chosen(local: LocalJob) -> Document:
    found = {
        str(document.get("metadata", {}).get("name")): document
        for document in local.documents
        if document.get("kind") == "InferenceJob"
    }
    names = ", ".join(found) or "none"
    if local.name is not None and local.name not in found:
        raise ManifestError(f"there is no InferenceJob {local.name!r} in these files; there are: {names}")
    if local.name is None and len(found) != 1:
        raise ManifestError(f"these files hold {len(found)} InferenceJobs ({names}): name one with --name")
    return found[local.name] if local.name is not None else next(iter(found.values()))


def _local_uri(uri: str, field: str, volumes: Mapping[str, Path]) -> str:
    claim = claim_of(uri)
    if claim is None:
        return uri
    if claim not in volumes:
        raise ManifestError(f"{field}: {uri} is on a claim: say where it is here, --volume {claim}=FOLDER")
    return file_uri(volumes[claim].absolute() / path_of(uri))


def _config_maps(documents: Sequence[Document], spec: Mapping[str, Any], scratch: Path) -> Iterator[str]:
    """ConfigMaps of functions that are among the documents, written out as they would be mounted."""
    wanted = spec.get("runner", {}).get("configMaps", [])
    for document in documents:
        name = document.get("metadata", {}).get("name")
        if document.get("kind") == "ConfigMap" and name in wanted:
            folder = scratch / name
            folder.mkdir()
            for key, text in document.get("data", {}).items():
                (folder / key).write_text(text)
            yield str(folder)


def deployments_of(local: LocalJob, job: Job) -> list[LocalDeployment]:
    """The ModelDeployments that the tasks name. Raises ManifestError."""
    names = dict.fromkeys(task.model.deployment for task in job.spec.tasks if task.model is not None)
    found = [
        local_deployment(local.documents, name, local.accelerator, local.volumes, cache=local.cache) for name in names
    ]
    return for_throughput(found, len(os.sched_getaffinity(0)))
