"""OCI archives: reading the name of one, and writing the one that needs no tool, the pause image."""

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.machine import tools
from e2e.cluster.machine.errors import BuildError, NotFoundError
from e2e.cluster.machine.locking import alone
from e2e.cluster.machine.paths import COMPONENTS, cache_folder

PAUSE_IMAGE = "localhost/batchwright/pause:1"
_NAME = "org.opencontainers.image.ref.name"
_TYPE = "application/vnd.oci.image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The name of an image and the digest of its manifest."""

    name: str
    digest: str


def image_of(archive: Path) -> Image:
    """The image in an OCI archive; NotFoundError if the file is no archive of one named image."""
    try:
        with tarfile.open(archive) as tar:
            index = tar.extractfile("index.json")
            manifest = json.load(index)["manifests"][0] if index else {}
        names = manifest["annotations"]
        return Image(name=names.get("io.containerd.image.name") or names[_NAME], digest=manifest["digest"])
    except (OSError, tarfile.TarError, KeyError, IndexError, ValueError) as error:
        remedy = "make one by `python -m e2e.cluster image build`, or `buildah push IMAGE oci-archive:FILE:NAME`"
        raise NotFoundError(f"{archive} is no OCI archive of a named image ({error!r})", remedy=remedy) from error


def pause_archive() -> Path:
    """The archive of the pause image, compiled on first use."""
    source = COMPONENTS / "pause" / "pause.c"
    archive = cache_folder() / "images" / f"pause-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.tar"
    with alone("image-pause"):
        if not archive.exists():
            archive.parent.mkdir(parents=True, exist_ok=True)
            _write_archive(archive, _compile(source), PAUSE_IMAGE)
    return archive


def _compile(source: Path) -> bytes:
    program = cache_folder() / "images" / "pause"
    command = [str(tools.find("gcc")), "-Os", "-static", "-s", "-o", str(program), str(source)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise BuildError(f"the pause program does not compile:\n{finished.stderr}")
    return program.read_bytes()


def _write_archive(archive: Path, program: bytes, name: str) -> None:
    layer = _tar({"pause": program}, mode=0o755)
    packed = gzip.compress(layer, mtime=0)
    blobs: dict[str, bytes] = {}
    diff = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = _put(blobs, f"{_TYPE}.config.v1+json", _json(_config(diff)))
    filled = _put(blobs, f"{_TYPE}.layer.v1.tar+gzip", packed)
    manifest = {"schemaVersion": 2, "mediaType": f"{_TYPE}.manifest.v1+json", "config": config, "layers": [filled]}
    entry = _put(blobs, f"{_TYPE}.manifest.v1+json", _json(manifest)) | {"annotations": {_NAME: name}}
    index = {"schemaVersion": 2, "mediaType": f"{_TYPE}.index.v1+json", "manifests": [entry]}
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index), **blobs}
    scratch = archive.with_suffix(".partial")
    scratch.write_bytes(_tar(files))
    scratch.rename(archive)


def _config(diff: str) -> dict[str, Any]:
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    }


def _put(blobs: dict[str, bytes], media_type: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    blobs[f"blobs/sha256/{digest}"] = content
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _tar(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
