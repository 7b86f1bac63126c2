"""A cluster's manifest as this machine can serve it: which kind of accelerator, where the files are."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchwright_worker.api.documents import Document, ManifestError, validate, with_defaults
from batchwright_worker.api.names import KIND_CPU, KIND_EMULATED
from batchwright_worker.api.uris import file_uri, oci_address, path_of, split_uri
from batchwright_worker.local.weights import LocalCache, fetched, local_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalServerAddress:
    """`url` http://HOST:PORT, `grpc` HOST:PORT or empty."""

    url: str
    grpc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDeployment:
    """`document` is the ModelDeployment with defaults and with file:// addresses; `scripts` the ConfigMaps that it
    names, as name -> key -> text."""

    name: str
    document: Document
    kind: str
    runtimes: int = 1
    memory_budget_bytes: int | None = None
    server: ExternalServerAddress | None = None
    """Where the user's own server is, for protocol open-inference: then there are no runtimes of ours."""
    scripts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def write_scripts(self, folder: Path) -> None:
        """One folder per ConfigMap, one file per key, as it is in a pod."""
        for config_map, entries in self.scripts.items():
            (folder / config_map).mkdir(parents=True)
            for key, text in entries.items():
                (folder / config_map / key).write_text(text)


def local_deployment(
    documents: Sequence[Document],
    name: str | None,
    kind: str | None,
    volumes: Mapping[str, Path],
    server: ExternalServerAddress | None = None,
    cache: LocalCache | None = None,
) -> LocalDeployment:
    """The ModelDeployment of this name (None: the only one). `volumes` maps claims to folders, `server` says where the
    user's own server is, `cache` where fetched weights are kept. Raises ManifestError for manifests that the API server
    would refuse too, and for files that are not here."""
    document = with_defaults(_chosen(documents, name))
    problems = validate(document)
    if problems:
        raise ManifestError("\n".join(str(problem) for problem in problems))
    spec = document["spec"]
    kind = _kind(spec, kind)
    runtime: Document = next((each for each in spec.get("runtimes", []) if each["accelerator"] == kind), {})
    _check_server(runtime, kind, server)
    local = _with_local_files(document, kind, volumes, cache or local_cache(), texts_alone=server is not None)
    return LocalDeployment(
        name=document["metadata"]["name"],
        document=local,
        kind=kind,
        runtimes=runtime.get("count", 1),
        memory_budget_bytes=runtime.get("memoryBudgetBytes"),
        server=server,
        scripts={} if server is not None else _scripts(local, kind, documents),
    )


def _check_server(runtime: Document, kind: str, server: ExternalServerAddress | None) -> None:
    """Raises ManifestError unless there is a server exactly where the manifest asks for one."""
    wanted = runtime.get("protocol") == "open-inference"
    if wanted and server is None:
        raise ManifestError(
            f"spec.runtimes: {kind} has protocol open-inference, whose server is a container image: start that server "
            "yourself and say where, --runtime-url http://HOST:PORT, or leave the runtime out to serve the artifact "
            "here"
        )
    if server is not None and not wanted:
        raise ManifestError(
            f"--runtime-url is where the server of protocol open-inference is, and spec.runtimes has none for {kind}: "
            "leave the option out, or write that runtime"
        )


def _chosen(documents: Sequence[Document], name: str | None) -> Document:
    found = {
        str(document.get("metadata", {}).get("name")): document
        for document in documents
        if document.get("kind") == "ModelDeployment"
    }
    if name is not None and name not in found:
        raise ManifestError(
            f"there is no ModelDeployment {name!r} in these files; there are: {', '.join(found) or 'none'}"
        )
    if name is None and len(found) != 1:
        remedy = f"choose one with --name: {', '.join(found)}" if found else "give a file with one"
        raise ManifestError(f"these files hold {len(found)} ModelDeployments: {remedy}")
    return found[name] if name is not None else next(iter(found.values()))


def _kind(spec: Document, wanted: str | None) -> str:
    """The wanted one, else cpu, else the emulated accelerator, else the first that all models have an artifact for."""
    of_models = [[artifact["accelerator"] for artifact in model["artifacts"]] for model in spec["models"]]
    common = [kind for kind in of_models[0] if all(kind in kinds for kinds in of_models)]
    if wanted is not None:
        if wanted not in common:
            raise ManifestError(
                f"spec.models: not every model has an artifact for {wanted!r}: choose --accelerator from {common}"
            )
        return wanted
    return next((kind for kind in (KIND_CPU, KIND_EMULATED) if kind in common), common[0])


def _with_local_files(
    document: Document, kind: str, volumes: Mapping[str, Path], cache: LocalCache, *, texts_alone: bool
) -> Document:
    """`texts_alone`: a server of the user's has the models' files, and the sidecar the tokenizers of those with a
    task."""
    local = copy.deepcopy(document)
    for index, model in enumerate(local["spec"]["models"]):
        if texts_alone and not model.get("task"):
            continue
        for artifact in model["artifacts"]:
            if artifact["accelerator"] == kind and artifact.get("uri"):
                artifact["uri"] = _local_uri(artifact, f"spec.models[{index}].artifacts", volumes, cache)
    return local


def _local_uri(artifact: Document, where: str, volumes: Mapping[str, Path], cache: LocalCache) -> str:
    uri = artifact["uri"]
    parts = split_uri(uri)
    if parts.scheme == "file":
        path = Path(path_of(uri))
    elif parts.scheme == "pvc":
        if parts.host not in volumes:
            raise ManifestError(f"{where}: {uri} is on a claim: say where it is here, --volume {parts.host}=FOLDER")
        path = volumes[parts.host] / path_of(uri)
    elif (image := oci_address(uri)) is not None:
        if image.reference not in volumes:
            raise ManifestError(
                f"{where}: {uri} is in an image, which a cluster mounts: say where its files are here, "
                f"--volume {image.reference}=FOLDER"
            )
        path = volumes[image.reference] / image.path
    else:
        return _fetched(artifact, where, cache)
    if not path.exists():
        raise ManifestError(f"{where}: {uri}: there is no file {path}: put it there or correct the address")
    _check_digest(artifact, path, f"{where}: {uri}")
    return file_uri(path.resolve())


def _check_digest(artifact: Document, path: Path, where: str) -> None:
    """Of what is here already, as a pod's init container checks what is mounted. Raises ManifestError."""
    if not artifact.get("sha256"):
        return
    from batchwright_worker.artifacts.digest import digest_of
    from batchwright_worker.artifacts.names import ArtifactError

    try:
        found = digest_of(path, artifact["format"])
    except (ArtifactError, OSError) as error:
        raise ManifestError(f"{where}: its digest cannot be told: {error}") from error
    if found != artifact["sha256"]:
        raise ManifestError(f"{where}: its digest is {found}, sha256 says {artifact['sha256']}: correct either")


def _fetched(artifact: Document, where: str, cache: LocalCache) -> str:
    from batchwright_worker.fetch.errors import FetchError

    try:
        return file_uri(fetched(artifact, cache))
    except FetchError as error:
        raise ManifestError(f"{where}: {error}; or download it yourself and map it with file:// or --volume") from error


def _scripts(document: Document, kind: str, documents: Sequence[Document]) -> Mapping[str, Mapping[str, str]]:
    config_maps: dict[str, Any] = {
        each["metadata"]["name"]: each.get("data", {}) for each in documents if each.get("kind") == "ConfigMap"
    }
    scripts: dict[str, dict[str, str]] = {}
    for index, model in enumerate(document["spec"]["models"]):
        for artifact in model["artifacts"]:
            reference = (artifact.get("script") or {}).get("configMapKeyRef")
            if artifact["accelerator"] != kind or reference is None:
                continue
            text = config_maps.get(reference["name"], {}).get(reference["key"])
            if text is None:
                raise ManifestError(
                    f"spec.models[{index}].artifacts: script {reference['key']!r} of ConfigMap {reference['name']!r} "
                    "is in none of the files: add the ConfigMap with another -f"
                )
            scripts.setdefault(reference["name"], {})[reference["key"]] = text
    return scripts
