"""Models of an MLflow registry, or of what speaks its API: models:/NAME/VERSION and models:/NAME@ALIAS.

The registry says where the files of a version are: behind itself (mlflow-artifacts:/..), or in a bucket. Which of them
are the artifact, its flavors decide. Asked over plain HTTP, so that every address is one that the policy allows, which
the registry's own client would not heed.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote

import msgspec
import yaml

from batchwright_worker.api.uris import split_uri
from batchwright_worker.artifacts.names import MOST_FILES, ArtifactError, checked_names
from batchwright_worker.fetch.at_once import at_once
from batchwright_worker.fetch.errors import FetchRefused
from batchwright_worker.fetch.flavors import folder_of
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.source import FileSource, RemoteFile, Store
from batchwright_worker.fetch.web import WebSource

_T = TypeVar("_T")
_PROXIED: Final = "mlflow-artifacts:/"
_DENIED: Final = "the Secret of artifacts[].secretRef needs MLFLOW_TRACKING_TOKEN, or _USERNAME and _PASSWORD"
_ABSENT: Final = "the registry has no such model, version, alias or file; correct artifacts[].uri"
_ADVICE: Final = {400: _ABSENT, 401: _DENIED, 403: _DENIED, 404: _ABSENT}
_LARGEST_DESCRIPTION: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RegistryAddress:
    """Either of `version` and `alias` is empty."""

    name: str
    version: str
    alias: str


def registry_address(uri: str) -> RegistryAddress:
    """Raises FetchRefused. A slash or an @ in a name is written %2F or %40."""
    parts = split_uri(uri)
    name, _, alias = parts.host.partition("@")
    version = parts.rest.strip("/")
    if not name or bool(version) == bool(alias) or "/" in version:
        raise FetchRefused(f"{uri}: write models:/NAME/VERSION or models:/NAME@ALIAS")
    if version and not version.isdecimal():
        raise FetchRefused(
            f"{uri}: {version!r} is no version, which is a number: stages and latest are not read; give the version an "
            "alias, models:/NAME@ALIAS"
        )
    return RegistryAddress(unquote(name), unquote(version), unquote(alias))


class _Version(msgspec.Struct):
    version: str


class _Alias(msgspec.Struct):
    """GET registered-models/alias."""

    model_version: _Version


class _Location(msgspec.Struct):
    """GET model-versions/get-download-uri."""

    artifact_uri: str


class _ListedFile(msgspec.Struct):
    path: str
    is_dir: bool = False


class _Listing(msgspec.Struct):
    """GET mlflow-artifacts/artifacts?path=.."""

    files: list[_ListedFile] = []


@dataclass(slots=True)
class RegistryStore:
    """`secret` may have MLFLOW_TRACKING_URI and its credentials, as the environment may, and those of the bucket.
    `format` is the artifact's; `buckets` makes the store of an address in a bucket."""

    policy: FetchPolicy
    secret: Mapping[str, str]
    format: str
    buckets: Callable[[str], Store]
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def source(self, uri: str) -> FileSource:
        """See Store; of an address that `files` has given."""
        if uri.startswith(_PROXIED):
            path = quote(uri.removeprefix(_PROXIED).lstrip("/"))
            return self._web(f"api/2.0/mlflow-artifacts/artifacts/{path}")
        return self.buckets(uri).source(uri)

    async def files(self, folder_uri: str) -> list[RemoteFile]:
        """See Store: those that the artifact's format takes."""
        location = await self._location(registry_address(folder_uri))
        found = await (self._proxied(location) if location.startswith(_PROXIED) else self._in_bucket(location))
        described = next((file for file in found if file.name == "MLmodel"), None)
        if described is None:
            raise FetchRefused(f"{folder_uri}: {location} has no file MLmodel: it is no model that MLflow has logged")
        below = folder_of(await self._flavors(described, folder_uri), self.format, folder_uri)
        return [replace(file, name=file.name.removeprefix(below)) for file in found if file.name.startswith(below)]

    async def _location(self, address: RegistryAddress) -> str:
        name, version = quote(address.name, safe=""), address.version
        if address.alias:
            query = f"registered-models/alias?name={name}&alias={quote(address.alias, safe='')}"
            version = (await self._asked(query, _Alias)).model_version.version
        query = f"model-versions/get-download-uri?name={name}&version={quote(version, safe='')}"
        return (await self._asked(query, _Location)).artifact_uri

    async def _asked(self, query: str, kind: type[_T]) -> _T:
        return await self._read(f"api/2.0/mlflow/{query}", kind)

    async def _read(self, path: str, kind: type[_T]) -> _T:
        body, _ = await self._web(path).read()
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise FetchRefused(f"{path}: no answer of MLflow ({error}); correct MLFLOW_TRACKING_URI") from error

    def _web(self, path: str) -> WebSource:
        server = self._setting("MLFLOW_TRACKING_URI").rstrip("/")
        if not server.startswith(("https://", "http://")):
            raise FetchRefused(
                "models:/ needs the address of the MLflow server: MLFLOW_TRACKING_URI, https://.., in the Secret of "
                "artifacts[].secretRef, or in the environment"
            )
        return WebSource(f"{server}/{path}", self.policy, authorization=self._authorization(), advice=_ADVICE)

    def _authorization(self) -> str:
        if token := self._setting("MLFLOW_TRACKING_TOKEN"):
            return f"Bearer {token}"
        user, password = self._setting("MLFLOW_TRACKING_USERNAME"), self._setting("MLFLOW_TRACKING_PASSWORD")
        return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}" if user else ""

    def _setting(self, name: str) -> str:
        return (self.secret.get(name) or self.environ.get(name) or "").strip()

    async def _proxied(self, location: str) -> list[RemoteFile]:
        """Everything below, with the version that the server tells of each file."""
        root = location.removeprefix(_PROXIED).strip("/")
        if location.startswith(f"{_PROXIED}/"):
            raise FetchRefused(f"{location}: artifacts behind another server than the registry's are not read")
        names: list[str] = []
        folders = [""]
        while folders:
            folder = folders.pop()
            listing = await self._read(
                f"api/2.0/mlflow-artifacts/artifacts?path={quote(f'{root}/{folder}'.rstrip('/'), safe='')}", _Listing
            )
            for entry in listing.files:
                (folders if entry.is_dir else names).append(f"{folder}{entry.path}{'/' if entry.is_dir else ''}")
            if len(names) + len(folders) > MOST_FILES:
                raise FetchRefused(f"{location}: more than {MOST_FILES} files: no model")
        try:
            files = [RemoteFile(name=name, uri=f"{_PROXIED}{root}/{name}") for name in checked_names(names, location)]
        except ArtifactError as error:
            raise FetchRefused(str(error)) from error
        return await at_once(files, self._with_version)

    async def _with_version(self, file: RemoteFile) -> RemoteFile:
        async with self.source(file.uri).open() as opened:
            return replace(file, total_bytes=opened.total_bytes, version=opened.version)

    async def _in_bucket(self, location: str) -> list[RemoteFile]:
        folder = location.rstrip("/") + "/"
        if split_uri(folder).scheme not in ("s3", "gs"):
            raise FetchRefused(
                f"the registry keeps this model at {location}, which pods cannot read: serve artifacts by the MLflow "
                "server (mlflow server --artifacts-destination), or keep them in a bucket (s3://, gs://)"
            )
        self.policy.check_uri(folder)
        return await self.buckets(folder).files(folder)

    async def _flavors(self, described: RemoteFile, uri: str) -> dict[str, Any]:
        text = bytearray()
        async with self.source(described.uri).open() as opened:
            async for chunk in opened.chunks:
                text += chunk
                if len(text) > _LARGEST_DESCRIPTION:
                    raise FetchRefused(f"{uri}: its file MLmodel is larger than {_LARGEST_DESCRIPTION} bytes")
        try:
            flavors = yaml.safe_load(bytes(text))["flavors"]
        except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise FetchRefused(f"{uri}: its file MLmodel names no flavors") from error
        return flavors if isinstance(flavors, dict) else {}
