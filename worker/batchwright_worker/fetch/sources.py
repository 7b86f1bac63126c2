"""Where bytes come from, by the scheme of a URI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from batchwright_worker.api.names import SECRETS_DIR
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.source import Store


def store_of(uri: str, policy: FetchPolicy, secret: Mapping[str, str], format_: str = "") -> Store:
    """The store of a URI's scheme, for an artifact of this format; the policy has been asked about the URI itself."""
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        from batchwright_worker.fetch.web import WebStore

        return WebStore(policy, authorization=secret.get("authorization", ""))
    if scheme == "hf":
        from batchwright_worker.fetch.hub import HubStore

        return HubStore(policy, secret)
    if scheme == "models":
        from batchwright_worker.fetch.registry import RegistryStore

        return RegistryStore(policy, secret, format_, lambda location: store_of(location, policy, secret))
    from batchwright_worker.fetch.buckets import Buckets
    from batchwright_worker.fetch.objectstore import ObjectStore

    return ObjectStore(Buckets(policy, secret))


def read_secret(name: str | None, folder: Path = Path(SECRETS_DIR)) -> dict[str, str]:
    """Entries of a mounted Secret, stripped of white space at the ends; {} without one."""
    place = folder / name if name else None
    if place is None or not place.is_dir():
        return {}
    return {entry.name: entry.read_text().strip() for entry in place.iterdir() if entry.is_file()}
