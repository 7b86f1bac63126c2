"""One artifact, whatever it consists of, from its store to its place: whole and of the right digest, or not there.

A `uri` that ends in a slash is a folder, and everything below it is fetched. Any other is a file, with the files that
it names (external data of ONNX, the shards of a safetensors index) from beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from batchwright_worker.api.uris import is_folder_uri
from batchwright_worker.artifacts.companions import companions
from batchwright_worker.artifacts.digest import digest_of, digest_over, file_sha256
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.fetch.addresses import beside
from batchwright_worker.fetch.at_once import at_once
from batchwright_worker.fetch.download import Transfers, attempts, download
from batchwright_worker.fetch.errors import FetchRefused, Interrupted, NoSpace, NotCached
from batchwright_worker.fetch.source import RemoteFile, Store
from batchwright_worker.fetch.staging import Allowance, Staging


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedArtifact:
    """What to fetch and where to: `target` is the file or folder, alone in a folder of its own. `sha256` empty: any
    digest."""

    uri: str
    format: str
    target: Path
    max_bytes: int
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedArtifact:
    """`already`: it was there and of the right digest. `contents`: each file as it is now, with its name relative to
    the folder of the target, where it came from and in which version; empty with `already`."""

    files: int
    total_bytes: int
    already: bool = False
    contents: tuple[RemoteFile, ...] = ()


async def fetch_artifact(
    wanted: WantedArtifact,
    store: Store,
    say: Callable[[str], None],
    *,
    base_wait_s: float = 1.0,
    on_growth: Callable[[int], None] | None = None,
) -> FetchedArtifact:
    """Fetches all files of the artifact, or keeps it if it is there and of the right digest. It appears by one rename.
    `on_growth`: see Allowance. Raises FetchRefused, or Interrupted after the last attempt."""
    if _is_there(wanted):
        return FetchedArtifact(files=0, total_bytes=0, already=True)
    place = wanted.target.parent
    staging = Staging(place.with_name(f".{place.name}.part"))
    allowance = Allowance(wanted.uri, wanted.max_bytes, on_growth)
    transfers = Transfers(
        staging=staging, allowance=allowance, say=say, base_wait_s=base_wait_s, digest_is_known=bool(wanted.sha256)
    )
    try:
        fetch = _fetch_folder if is_folder_uri(wanted.uri) else _fetch_file
        files = await fetch(wanted, store, transfers)
        _check_digest(wanted, staging, files)
    except FetchRefused:
        staging.remove()  # what the next process would go on with has been refused
        raise
    contents = tuple(_as_fetched(file, staging) for file in files)
    staging.move_to(place)
    return FetchedArtifact(
        files=len(files), total_bytes=sum(each.total_bytes or 0 for each in contents), contents=contents
    )


def _as_fetched(file: RemoteFile, staging: Staging) -> RemoteFile:
    return replace(file, total_bytes=staging.whole(file.name).stat().st_size, version=staging.version(file.name))


def _is_there(wanted: WantedArtifact) -> bool:
    if not wanted.target.exists():
        return False
    try:
        return not wanted.sha256 or digest_of(wanted.target, wanted.format) == wanted.sha256
    except ArtifactError:
        return False


async def _fetch_file(wanted: WantedArtifact, store: Store, transfers: Transfers) -> list[RemoteFile]:
    """The file, then those that it names."""
    main = RemoteFile(name=wanted.target.name, uri=wanted.uri)
    path = await download(main, store.source(main.uri), transfers)
    try:
        names = companions(wanted.format, path)
    except ArtifactError as error:
        raise FetchRefused(f"{wanted.uri}: {error}") from error
    others = [RemoteFile(name=name, uri=beside(wanted.uri, name)) for name in names]
    try:
        await _fetch_all(others, store, transfers)
    except (NoSpace, NotCached):
        raise
    except FetchRefused as error:
        raise FetchRefused(
            f"{main.name} keeps its weights in {_listed(names)} beside it, and they cannot all be fetched: {error}; "
            "put the files there, or write the uri of their folder (ending in /)"
        ) from error
    return [main, *others]


async def _fetch_folder(wanted: WantedArtifact, store: Store, transfers: Transfers) -> list[RemoteFile]:
    listed: list[RemoteFile] = []
    async for attempt in attempts(transfers.say, transfers.base_wait_s):
        with attempt:
            listed = await store.files(wanted.uri)
    if not listed:
        raise FetchRefused(f"{wanted.uri}: there is nothing in this folder; correct artifacts[].uri")
    files = [replace(file, name=f"{wanted.target.name}/{file.name}") for file in listed]
    await _fetch_all(files, store, transfers)
    return files


async def _fetch_all(files: Sequence[RemoteFile], store: Store, transfers: Transfers) -> None:
    """Several at a time; the first that is refused ends all. What is missing or too large is found before any bytes are
    spent on the others."""

    async def fetch(file: RemoteFile) -> None:
        await download(file, store.source(file.uri), transfers)

    known = await at_once(files, lambda file: _asked(file, store))
    for file in known:
        transfers.allowance.check(file.name, file.total_bytes or 0)
    await at_once(known, fetch)


async def _asked(file: RemoteFile, store: Store) -> RemoteFile:
    """The file with what its source says of it."""
    if file.total_bytes is not None:
        return file
    try:
        async with store.source(file.uri).open() as opened:
            return replace(file, total_bytes=opened.total_bytes, version=opened.version)
    except Interrupted:  # its download will try again
        return file


def _check_digest(wanted: WantedArtifact, staging: Staging, files: Sequence[RemoteFile]) -> None:
    """Of all files, as `artifacts/digest` has it."""
    if not wanted.sha256:
        return
    folder = f"{wanted.target.name}/" if is_folder_uri(wanted.uri) else ""
    sums = {file.name.removeprefix(folder): file.sha256 or file_sha256(staging.whole(file.name)) for file in files}
    is_one_file = not folder and len(files) == 1
    found = sums[files[0].name] if is_one_file else digest_over(sums)
    if found == wanted.sha256:
        return
    if not folder and not is_one_file and sums[files[0].name] == wanted.sha256:
        raise FetchRefused(
            f"{wanted.uri}: artifacts[].sha256 is that of {files[0].name} alone, and its weights are in other files; "
            f"the digest over all of them is {found} (batchwright-worker digest FILE)"
        )
    what = "its SHA-256" if is_one_file else f"the digest over its {len(files)} files (batchwright-worker digest)"
    raise FetchRefused(
        f"{wanted.uri}: {what} is {found}, artifacts[].sha256 says {wanted.sha256}; the artifact has changed, or the "
        "digest is of another one"
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} files ({names[0]}, ..)"
