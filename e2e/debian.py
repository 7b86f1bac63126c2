"""Programs and libraries of Debian's packages, unpacked into the cache: no root, nothing installed on the machine."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from e2e.cluster.machine import tools
from e2e.cluster.machine.errors import RequirementError
from e2e.cluster.machine.locking import alone
from e2e.cluster.machine.paths import cache_folder
from e2e.cluster.machine.progress import step


def unpacked(package: str) -> Path:
    """The folder with the package's files (`usr/bin/..`), downloaded first if need be. Raises RequirementError."""
    folder = _folder(package)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(f"debian-{package}"):
        if not folder.is_dir():
            with step(f"downloading Debian's package {package}"):
                _download(package, folder)
    return folder


def program(package: str, name: str = "") -> str:
    """The path of a program of the package: that of the package's name, or another one."""
    return str(unpacked(package) / "usr" / "bin" / (name or package))


def is_unpacked(package: str) -> bool:
    """Whether `unpacked` finds it in the cache."""
    return _folder(package).is_dir()


def _folder(package: str) -> Path:
    return cache_folder() / "debian" / package


def _download(package: str, folder: Path) -> None:
    tools.require("apt-cache", "apt-get", "dpkg-deb")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            if subprocess.run(["apt-cache", "policy", package], capture_output=True, check=True).stdout.strip() == b"":
                _update()
            subprocess.run(["apt-get", "download", "-q", package], cwd=scratch, check=True, capture_output=True)
            [archive] = Path(scratch).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", str(archive), f"{scratch}/out"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            remedy = f"run apt-get update, or unpack {package} into {folder} (dpkg-deb -x)"
            raise RequirementError(f"Debian's {package} cannot be downloaded: {error}", remedy=remedy) from error
        Path(scratch, "out").rename(folder)


def _update() -> None:
    """A new machine knows no package until it has asked once; only root may."""
    if os.geteuid() == 0:
        with alone("apt"):
            subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
