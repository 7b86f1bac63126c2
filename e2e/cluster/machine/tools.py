"""Programs that others' packages bring: found on PATH, or an error that says how to install them."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.machine.errors import RequirementError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a program comes from: Debian's package, Homebrew's, else its project's page; "" where there is none."""

    debian: str = ""
    brew: str = ""
    page: str = ""


SOURCES: dict[str, Source] = {
    "apt-cache": Source(debian="apt"),
    "apt-get": Source(debian="apt"),
    "buildah": Source(debian="buildah"),
    "docker": Source(debian="docker.io", brew="docker", page="https://docs.docker.com/engine/install"),
    "dpkg-deb": Source(debian="dpkg", brew="dpkg"),
    "gcc": Source(debian="gcc libc6-dev", brew="gcc"),
    "go": Source(brew="go", page="https://go.dev/dl"),
    "ip": Source(debian="iproute2"),
    "kind": Source(brew="kind", page="https://kind.sigs.k8s.io"),
    "kubectl": Source(brew="kubernetes-cli", page="https://kubernetes.io/docs/tasks/tools"),
    "mmdebstrap": Source(debian="mmdebstrap"),
    "nft": Source(debian="nftables"),
    "nsenter": Source(debian="util-linux"),
    "pkg-config": Source(debian="pkg-config", brew="pkgconf"),
    "taskset": Source(debian="util-linux"),
    "unshare": Source(debian="util-linux"),
    "wrk": Source(debian="wrk", brew="wrk"),
}


def find(program: str) -> Path:
    """The path of a program of `SOURCES`. Raises RequirementError, which says how to install it."""
    require(program)
    return Path(str(shutil.which(program)))


def require(*programs: str) -> None:
    """Raises RequirementError, which says how to install those of the programs that are not on PATH."""
    gone = [program for program in programs if shutil.which(program) is None]
    if gone:
        raise RequirementError(missing(gone))


def missing(programs: Iterable[str]) -> str:
    """The sentence that says which programs of `SOURCES` are missing, and how to install them."""
    names = sorted(programs)
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing: {remedy(SOURCES[name] for name in names)}"


def remedy(sources: Iterable[Source]) -> str:
    """The commands that install all of this, or the pages to look at where no package does."""
    wanted = list(sources)
    debian = " ".join(sorted({word for source in wanted for word in source.debian.split()}))
    brew = " ".join(sorted({source.brew for source in wanted}))
    said = [f"apt-get install {debian} (Debian, Ubuntu)"] if all(source.debian for source in wanted) else []
    said += [f"brew install {brew}"] if all(source.brew for source in wanted) else []
    said += [f"see {source.page}" for source in wanted if source.page]
    return ", ".join(said)
