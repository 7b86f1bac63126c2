"""Kubeconfig files with everything inside, so that they can be copied anywhere."""

import base64
from pathlib import Path

import yaml

from e2e.cluster.control_plane.certificates import KeyPair
from e2e.cluster.machine.paths import write_private


def write_kubeconfig(path: Path, *, server_url: str, ca: Path, pair: KeyPair, name: str = "batchwright") -> Path:
    """Write a kubeconfig whose one context speaks to `server_url` as the owner of `pair`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": {"server": server_url, "certificate-authority-data": _encoded(ca)}}],
        "users": [{"name": name, "user": _credentials(pair)}],
    }
    return write_private(path, yaml.safe_dump(config, sort_keys=False))


def _credentials(pair: KeyPair) -> dict[str, str]:
    return {"client-certificate-data": _encoded(pair.certificate), "client-key-data": _encoded(pair.key)}


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
