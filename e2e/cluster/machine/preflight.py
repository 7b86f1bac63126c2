"""What the machine must have: checked first, installed where that is ours to do, else named.

On Debian and Ubuntu as root, missing packages are installed after saying so. Elsewhere the error names them and
offers kind, which needs nothing but Docker.
"""

import glob
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.machine import cgroups, tools
from e2e.cluster.machine.errors import RequirementError
from e2e.cluster.machine.locking import alone
from e2e.cluster.machine.paths import cache_folder, state_folder
from e2e.cluster.machine.progress import say, step

USE_KIND = "or use kind where Docker runs: https://kind.sigs.k8s.io"
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_ENOUGH = 1024
_HIDDEN_IN_NODES = ("/run", "/var/lib", "/var/log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that Debian's packages bring; `present` tells whether it is there."""

    source: tools.Source
    present: Callable[[], bool]


def _program(name: str) -> Need:
    return Need(source=tools.SOURCES[name], present=lambda: shutil.which(name) is not None)


def _file(pattern: str, package: str) -> Need:
    present = lambda: bool(glob.glob(pattern))  # noqa: E731, PTH207 (absolute patterns)
    return Need(source=tools.Source(debian=package), present=present)


NODES = (
    _program("ip"),
    _program("nft"),
    _program("unshare"),
    _program("nsenter"),
    _file("/usr/lib*/**/libseccomp.so.2", "libseccomp2"),
)
COMPILING = (
    _program("gcc"),
    _program("pkg-config"),
    _file("/usr/include/stdio.h", "libc6-dev"),
    _file("/usr/include/seccomp.h", "libseccomp-dev"),
)
IMAGES = (
    _program("mmdebstrap"),
    _program("buildah"),
    _program("unshare"),
    _file("/usr/share/keyrings/debian-archive-keyring.*", "debian-archive-keyring"),
)


def require_nodes(*, compiling: bool) -> None:
    """Have what nodes need (and, if `compiling`, what building their programs needs), or RequirementError."""
    _require_root("nodes")
    cgroups.hierarchies()
    _require_visible(cache_folder(), state_folder())
    _require((*NODES, *COMPILING) if compiling else NODES)
    raise_inotify_limit()


def require_images() -> None:
    """Have what building images needs, or RequirementError."""
    _require_root("images")
    _require(IMAGES)


def require_compiling() -> None:
    """Have what compiling containerd and runc needs, or RequirementError."""
    _require(COMPILING)


def raise_inotify_limit(limit: Path = INOTIFY) -> None:
    """Let a user have 1,024 inotify instances at least, saying so; where that is not ours to do, say what to do.

    The kernel gives 128 to all processes of a user together. A two-node cluster takes 26 of them; where a few run side
    by side, containerd then starts without its service for kubelet, and a node never becomes Ready.
    """
    before = int(limit.read_text())
    if before >= _INOTIFY_ENOUGH:
        return
    setting = f"fs.inotify.max_user_instances={_INOTIFY_ENOUGH}"
    try:
        limit.write_text(str(_INOTIFY_ENOUGH))
    except OSError as error:
        say(f"Only {before} inotify instances per user ({error}); nodes may fail for want of them: sysctl {setting}")
    else:
        say(f"Raised the limit of inotify instances per user from {before}: sysctl {setting}")


def _require_root(what: str) -> None:
    if platform.system() != "Linux" or os.geteuid() != 0:
        remedy = f"run it as root on Linux, {USE_KIND}; a control plane alone needs no root"
        raise RequirementError(f"{what} of the embedded cluster need root on Linux", remedy=remedy)


def _require_visible(*folders: Path) -> None:
    """Nodes mount folders of their own over these, so what they need may not lie there."""
    for folder in folders:
        for hidden in _HIDDEN_IN_NODES:
            if folder.resolve().is_relative_to(hidden):
                remedy = "set XDG_CACHE_HOME and XDG_STATE_HOME to folders elsewhere"
                raise RequirementError(f"{folder} lies in {hidden}, which nodes do not see", remedy=remedy)


def _require(needs: Iterable[Need]) -> None:
    sources = [need.source for need in needs if not need.present()]
    packages = sorted({package for source in sources for package in source.debian.split()})
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        how = f"{tools.remedy(sources)}, {USE_KIND}"
        raise RequirementError(f"this machine lacks {', '.join(packages)} (Debian's names)", remedy=how)
    say(f"This machine lacks {', '.join(packages)}: installing them by apt-get.")
    with alone("apt"), step(f"apt-get install {' '.join(packages)}"):
        _install(packages)


def _install(packages: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    log = cache_folder() / "apt.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    patience = "DPkg::Lock::Timeout=300"  # others install packages too
    install = ["apt-get", "install", "-o", patience, "--yes", "--no-install-recommends", *packages]
    with log.open("w") as file:
        for command in (["apt-get", "update"], install):
            code = subprocess.run(command, env=environment, stdout=file, stderr=file, check=False).returncode
    if code:
        remedy = f"see {log}; install them yourself, {USE_KIND}"
        raise RequirementError(f"apt-get could not install {', '.join(packages)}", remedy=remedy)
