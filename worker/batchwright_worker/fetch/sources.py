"""Where bytes come from: a source gives them from any offset on, so that a download can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from batchwright_worker.api.names import SECRETS_DIR
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.source import ArtifactSource


def source_of(uri: str, policy: FetchPolicy, secret: Mapping[str, str]) -> ArtifactSource:
    """The source of a URI; the policy has been asked about the URI itself."""
    if urlsplit(uri).scheme in ("http", "https"):
        from batchwright_worker.fetch.web import WebSource

        return WebSource(uri, policy, authorization=secret.get("authorization", ""))
    from batchwright_worker.fetch.objectstore import ObjectSource

    return ObjectSource(uri, policy, secret)


def read_secret(name: str | None, folder: Path = Path(SECRETS_DIR)) -> dict[str, str]:
    """Entries of a mounted Secret, stripped of white space at the ends; {} without one."""
    place = folder / name if name else None
    if place is None or not place.is_dir():
        return {}
    return {entry.name: entry.read_text().strip() for entry in place.iterdir() if entry.is_file()}
