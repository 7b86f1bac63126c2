"""Addresses of the manifests and the paths that they mean: the one place that turns either into the other.

    file:///PATH        PATH on this machine                     percent signs are decoded (RFC 8089)
    pvc://CLAIM/PATH    PATH below the root of the claim         likewise
    https://HOST/PATH   a URL                                    as it is, with its query
    s3://BUCKET/KEY     the object of this key, letter by letter: a key may have any sign in it (gs, az, hf likewise)
    models:/NAME/VERSION a version of a registered model of MLflow, or models:/NAME@ALIAS; NAME is the host here
    oci://HOST/REPOSITORY@DIGEST/PATH    PATH in an image, letter by letter; also HOST/REPOSITORY:TAG/PATH

A path may hold any bytes but NUL: what is no UTF-8 is as the file system's functions have it (surrogates).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

OF_PATHS: Final = ("file", "pvc")
_REGISTRY: Final = "models:/"
OF_URLS: Final = ("http", "https")
_IN_IMAGE: Final = re.compile(
    r"(?P<image>[^:@]+(?:@sha256:[0-9a-f]{64}|:\w[\w.-]{0,127}(?:@sha256:[0-9a-f]{64})?))(?:/(?P<path>.*))?", re.ASCII
)
"""What follows the host of oci://. A path needs a tag or a digest before it: nothing else ends a repository's name."""
_ON_HUB: Final = re.compile(
    r"(?P<model>[^/@]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]*))?(?:/(?P<path>.*))?", re.DOTALL
)
"""What follows the organisation of hf://. The hub's own references have slashes, and its clients write them so."""
_HIDDEN_STEP: Final = re.compile(r"%(2e|2f|00)", re.IGNORECASE)
"""An encoded dot, slash or NUL: nobody needs one, and `..` could hide behind it."""
_USER: Final = re.compile(r"(?<=://)[^\s/?#'\"]+@")
_QUERY: Final = re.compile(r"(https?://[^\s?'\"]*)\?(\S*)", re.IGNORECASE)
_BEHIND: Final = ")]'\",.:;"
"""Signs of a sentence that may follow an address."""
_LONGEST_NAME: Final = 200
"""Bytes; file systems take 255, and temporary files have longer names."""


@dataclass(frozen=True, slots=True)
class SplitUri:
    """`rest` is all that follows the slash behind the host, as it is written."""

    scheme: str
    host: str
    rest: str


def split_uri(uri: str) -> SplitUri:
    """The parts of SCHEME://HOST/REST and of models:/HOST/REST; any other text has no scheme and is all rest."""
    scheme, mark, rest = uri.partition("://")
    if not mark and uri.startswith(_REGISTRY):
        scheme, mark, rest = "models", ":/", uri.removeprefix(_REGISTRY)
    if not mark:
        return SplitUri("", "", uri)
    host, _, rest = rest.partition("/")
    return SplitUri(scheme.lower(), host, rest)


def file_uri(path: Path | str) -> str:
    """The address of an absolute path; `path_of` is its reverse."""
    return "file://" + quote_from_bytes(os.fsencode(path))


def pvc_uri(claim: str, path: PurePosixPath | str) -> str:
    """The address of a path below the root of a claim."""
    return f"pvc://{claim}/" + quote_from_bytes(os.fsencode(path))


def path_of(uri: str) -> str:
    """The path that a file:// or pvc:// address means: absolute of the first, below the claim's root of the second.
    Raises ValueError for one that hides a step in percent signs."""
    parts = split_uri(uri)
    if _HIDDEN_STEP.search(parts.rest):
        raise ValueError(f"{uri}: write dots and slashes as they are, not as %2E and %2F")
    path = os.fsdecode(unquote_to_bytes(parts.rest.encode("utf-8", "surrogateescape")))
    return f"/{path}" if parts.scheme == "file" else path.lstrip("/")


@dataclass(frozen=True, slots=True)
class OciAddress:
    """`reference` as image fields of a pod have it; `path` within the image, empty for all of it."""

    reference: str
    path: str


def oci_address(uri: str) -> OciAddress | None:
    """What an oci:// address means, None for other schemes. Without tag and digest all of it names the image."""
    parts = split_uri(uri)
    if parts.scheme != "oci":
        return None
    match = _IN_IMAGE.fullmatch(parts.rest)
    if match is None:
        return OciAddress(f"{parts.host}/{parts.rest.rstrip('/')}", "")
    return OciAddress(f"{parts.host}/{match['image']}", (match["path"] or "").lstrip("/"))


@dataclass(frozen=True, slots=True)
class HubParts:
    """As they are written: `revision` None without an @, `path` empty for all of the model's files."""

    repository: str
    revision: str | None
    path: str


def hub_parts(uri: str) -> HubParts | None:
    """Of hf://ORG/MODEL[@REVISION][/PATH], None for anything else. A slash in a revision is written %2F, but for
    refs/pr/N and refs/convert/X."""
    parts = split_uri(uri)
    match = _ON_HUB.fullmatch(parts.rest)
    if parts.scheme != "hf" or not parts.host or match is None:
        return None
    return HubParts(f"{parts.host}/{match['model']}", match["revision"], match["path"] or "")


def without_secrets(text: str) -> str:
    """A text as it may be shown to anybody: of addresses in it a user with password, and a URL's query, which may be a
    signature that opens what it names (also of a redirect that nobody here has written), are two dots."""
    return _QUERY.sub(_without_query, _USER.sub("..@", text))


def _without_query(found: re.Match[str]) -> str:
    query = found[2]
    return f"{found[1]}?..{query[len(query.rstrip(_BEHIND)) :]}"


def base_name(uri: str) -> str:
    """What a fetched file or folder is called on disk: the last part of the address, decoded where it is a URL."""
    parts = split_uri(uri)
    path = parts.rest
    if parts.scheme in OF_URLS:
        path = re.split(r"[?#]", path, maxsplit=1)[0]
    name = path.rstrip("/").rsplit("/", 1)[-1]
    if parts.scheme in OF_URLS:
        name = unquote_to_bytes(name).decode("utf-8", "replace")
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        return "artifact"
    if len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        return "artifact" + PurePosixPath(name).suffix[:20]
    return name


def is_folder_uri(uri: str) -> bool:
    """Does the path end in a slash? A URL's query is not part of it. hf://ORG/MODEL@REVISION is a folder, too, and so
    are an image without a path and a registered model."""
    parts = split_uri(uri)
    if parts.scheme == "models":
        return True
    if (image := oci_address(uri)) is not None:
        return not image.path or image.path.endswith("/")
    path = re.split(r"[?#]", parts.rest, maxsplit=1)[0] if parts.scheme in OF_URLS else parts.rest
    if (on_hub := hub_parts(uri)) is not None:
        path = on_hub.path
    return path.endswith("/") or not path
