"""Images without a registry: a base by mmdebstrap, everything else by buildah, kept by the hash of what went in.

    base = build_base()
    archive = build_image("localhost/batchwright/worker:dev", dockerfile=Path("images/worker.Dockerfile"),
                          context=Path("."), inputs=["worker", "pyproject.toml"], base=base)

Buildah runs in a mount namespace of its own and keeps its layers in the cache, apart from the machine's.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from e2e.cluster.machine import preflight
from e2e.cluster.machine.errors import BuildError, NotFoundError
from e2e.cluster.machine.locking import alone
from e2e.cluster.machine.paths import cache_folder
from e2e.cluster.machine.progress import step

SUITE = "bookworm"
_BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
_BASE_DIGEST = hashlib.sha256(repr((_BASE_PACKAGES, _LEFT_OUT)).encode()).hexdigest()[:8]
BASE_IMAGE = f"localhost/batchwright/base:{SUITE}-{_BASE_DIGEST}"
_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_BUNDLE_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_KEEP_S = 3 * 3600
_PRIVATE_MOUNTS = ("unshare", "--mount", "--propagation", "private")


def build_base() -> str:
    """The name of the base image (Debian with Python, venv and CA certificates) in buildah's store, made if need be."""
    preflight.require_images()
    with alone("image-base", waiting="another process is building the base image; waiting for it"):
        if _in_store(BASE_IMAGE):
            return BASE_IMAGE
        with step(f"building the base image ({SUITE} with {', '.join(_BASE_PACKAGES)})"):
            _make_base()
    return BASE_IMAGE


def build_image(
    name: str,
    *,
    dockerfile: Path,
    context: Path,
    inputs: Sequence[str] | None = None,
    build_args: Mapping[str, str] | None = None,
) -> Path:
    """The OCI archive of image `name`, built unless the same inputs were built before.

    `inputs` are the files and folders of `context` that the Dockerfile may copy (all of `context` if None). The
    argument BASE defaults to the base image.
    """
    arguments = {"BASE": BASE_IMAGE, **(build_args or {})}
    files = dict(_files(context, inputs))
    archive = _archive(name, dockerfile, files, arguments)
    if arguments["BASE"] == BASE_IMAGE and not archive.exists():
        build_base()
    # One name means one image in buildah's store: between building and exporting nobody else may give it another one.
    with alone(f"image-{_file_name(name)}", waiting=f"another process is building {name}; waiting for it"):
        if not archive.exists():
            log = _fresh(_folder() / f"{_file_name(name)}.log")
            with step(f"building image {name}"), tempfile.TemporaryDirectory() as scratch:
                _copy(files, Path(scratch))
                _run(_build_command(name, dockerfile, arguments, Path(scratch)), log)
                _export(name, archive, log)
        archive.touch()  # in use: see _forget_outdated
    return archive


def archived(name: str, *, dockerfile: Path, context: Path, inputs: Sequence[str] | None = None) -> bool:
    """Whether `build_image` has built just this already."""
    return _archive(name, dockerfile, dict(_files(context, inputs)), {"BASE": BASE_IMAGE}).exists()


def _archive(name: str, dockerfile: Path, files: Mapping[str, Path], arguments: Mapping[str, str]) -> Path:
    return _folder() / f"{_file_name(name)}-{_digest(name, dockerfile, files, arguments)}.tar"


def _folder() -> Path:
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _buildah(*arguments: str) -> list[str]:
    store = cache_folder() / "buildah"
    return [*_PRIVATE_MOUNTS, "buildah", f"--root={store}/root", f"--runroot={store}/run", *arguments]


def _in_store(name: str) -> bool:
    command = _buildah("images", "--quiet", "--filter", f"reference={name}")
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return bool(found.stdout.strip())


def _make_base() -> None:
    log = _fresh(_folder() / "base.log")
    with tempfile.TemporaryDirectory(dir=_folder()) as scratch:
        packages = ",".join(_BASE_PACKAGES)
        slim = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
        target = [SUITE, f"{scratch}/base.tar"]
        _run([*_PRIVATE_MOUNTS, "mmdebstrap", "--variant=minbase", f"--include={packages}", *slim, *target], log)
        Path(scratch, "Dockerfile").write_text("FROM scratch\nADD base.tar /\nENV LANG=C.UTF-8\n")
        _run(_buildah("bud", "--isolation=chroot", f"--tag={BASE_IMAGE}", scratch), log)


def _build_command(name: str, dockerfile: Path, arguments: Mapping[str, str], context: Path) -> list[str]:
    flags = [
        "bud",
        "--isolation=chroot",
        "--layers",
        "--network=host",
        f"--tag={name}",
        f"--file={dockerfile.resolve()}",
    ]
    for key, value in arguments.items():
        flags.append(f"--build-arg={key}={value}")
    return _buildah(*flags, *_own_authority(), str(context))


def _own_authority() -> list[str]:
    """Behind a proxy with a certificate authority of its own, the build trusts what the machine trusts.

    Mounted, not copied or set: nothing of it is left in the image.
    """
    named = (os.environ.get(variable, "") for variable in _BUNDLE_VARIABLES)
    bundle = next((Path(path) for path in named if path and Path(path).is_file()), None)
    if bundle is None:
        return []
    config = _folder() / "pip.conf"
    config.write_text(f"[global]\ncert = {_BUNDLE}\ntimeout = 180\n")
    return [f"--volume={bundle.resolve()}:{_BUNDLE}:ro", f"--volume={config}:/etc/pip.conf:ro"]


def _export(name: str, archive: Path, log: Path) -> None:
    scratch = archive.with_suffix(f".{os.getpid()}.partial")
    scratch.unlink(missing_ok=True)
    compression = ("--compression-format=zstd", "--compression-level=1")  # quicker on both ends than gzip
    _run(_buildah("push", *compression, name, f"oci-archive:{scratch}:{name}"), log)
    scratch.rename(archive)
    _forget_outdated(name, archive)


def _forget_outdated(name: str, archive: Path) -> None:
    """Other versions of the image go once nobody has asked for them for a while: another clone may be loading one."""
    oldest = time.time() - _KEEP_S
    for other in archive.parent.glob(f"{_file_name(name)}-{'[0-9a-f]' * 16}.tar"):
        if other != archive and other.stat().st_mtime < oldest:
            other.unlink(missing_ok=True)


def _files(context: Path, inputs: Sequence[str] | None) -> Iterator[tuple[str, Path]]:
    """The files by their paths in the context; bytecode and version control are never inputs."""
    for item in inputs or ["."]:
        path = context / item
        if not path.exists():
            raise NotFoundError(f"{path}, an input of the image, does not exist")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not {"__pycache__", ".git"} & set(file.parts):
                yield str(file.relative_to(context)), file


def _digest(name: str, dockerfile: Path, files: Mapping[str, Path], arguments: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr((name, sorted(arguments.items()))).encode())
    digest.update(dockerfile.read_bytes())
    for relative, file in sorted(files.items()):
        digest.update(f"\0{relative}\0{os.access(file, os.X_OK)}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _copy(files: Mapping[str, Path], target: Path) -> None:
    for relative, file in files.items():
        copy = target / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)


def _fresh(log: Path) -> Path:
    log.write_text("")
    return log


def _run(command: Iterable[str], log: Path) -> None:
    with log.open("a") as file:
        finished = subprocess.run(list(command), stdout=file, stderr=file, check=False)
    if finished.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BuildError(f"building an image failed:\n{tail}", remedy=f"the whole log is {log}")
