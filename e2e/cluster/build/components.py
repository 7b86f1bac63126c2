"""Programs of the cluster, compiled once from pinned Go modules and kept in the cache.

A component's folder in the cache is named by the hash of its sources and flags, and appears whole or not at all.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from e2e.cluster.build import toolchain
from e2e.cluster.machine import preflight
from e2e.cluster.machine.errors import BuildError, NotFoundError
from e2e.cluster.machine.locking import alone
from e2e.cluster.machine.paths import COMPONENTS, cache_folder
from e2e.cluster.machine.progress import say, step

KUBERNETES_VERSION = "v1.37.1"
_VERSION_PACKAGE = "k8s.io/component-base/version"
_VERSION_FLAGS = (
    f"-X {_VERSION_PACKAGE}.gitVersion={KUBERNETES_VERSION} "
    f"-X {_VERSION_PACKAGE}.gitMajor=1 -X {_VERSION_PACKAGE}.gitMinor=37"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A Go module of ours: the package it builds and the programs that come out.

    With `multicall`, all programs are links to the one binary, which acts by the name it is called as. `seconds` is how
    long it took to build on two cores, with an empty cache of Go's and others at work.
    """

    name: str
    programs: tuple[str, ...]
    seconds: int
    package: str = "."
    tags: str = ""
    link_flags: str = "-s -w"
    multicall: bool = False

    @property
    def source(self) -> Path:
        """The folder of the module."""
        return COMPONENTS / self.name

    @property
    def folder(self) -> Path:
        """Where the built programs lie, or will."""
        return cache_folder() / "bin" / f"{self.name}-{_digest(self)}"

    @property
    def built(self) -> bool:
        """Whether the programs are in the cache."""
        return self.folder.is_dir()


_KUBERNETES_PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
)
_CONTAINERD_PROGRAMS = (
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "ptp",
    "loopback",
    "host-local",
    "portmap",
)

CATALOGUE: dict[str, Component] = {
    component.name: component
    for component in (
        Component(
            name="kubernetes",
            programs=_KUBERNETES_PROGRAMS,
            seconds=310,
            link_flags=f"-s -w {_VERSION_FLAGS}",
            multicall=True,
        ),
        Component(name="containerd", programs=_CONTAINERD_PROGRAMS, seconds=57, package="tool", tags="seccomp"),
        Component(name="coredns", programs=("coredns",), seconds=40),
        Component(name="kwok", programs=("kwok",), seconds=62),
        Component(name="k6", programs=("k6",), seconds=45, package="tool"),
        Component(name="helm", programs=("helm",), seconds=110, package="tool"),
        Component(name="gitops", programs=("gitops",), seconds=120),
    )
}


def program(name: str) -> Path:
    """The path of a program, building its component first if need be."""
    for component in CATALOGUE.values():
        if name in component.programs:
            ensure_built([component.name])
            return component.folder / name
    raise NotFoundError(f"no component has a program {name!r}")


def kubectl_path() -> Path:
    """The path of a `kubectl` of the cluster's version."""
    return program("kubectl")


def ensure_built(names: Iterable[str] | None = None) -> None:
    """Build what is missing of the named components (all without names), saying so on stderr.

    An interrupted build goes on where it was: Go caches what it compiled. BuildError if one does not compile.
    """
    wanted = [CATALOGUE[name] for name in (CATALOGUE if names is None else names)]
    missing = [component for component in wanted if not component.built]
    if missing:
        minutes = sum(component.seconds for component in missing) / 60
        names = ", ".join(component.name for component in missing)
        say(f"Building {names}, once: kept in {cache_folder()} (about {minutes:.0f} min on two cores).")
    for number, component in enumerate(missing, start=1):
        waiting = f"another process is building {component.name}; waiting for it"
        with alone(f"build-{component.name}", waiting=waiting):
            if not component.built:
                _build(component, f"[{number}/{len(missing)}] building {component.name}")


@cache
def _digest(component: Component) -> str:
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        path = component.source / name
        digest.update(path.read_bytes() if path.exists() else b"")
    digest.update(repr((component.package, component.tags, component.link_flags, component.programs)).encode())
    return digest.hexdigest()[:16]


def _build(component: Component, title: str) -> None:
    if component.tags:
        preflight.require_compiling()
    go = toolchain.find_go()
    scratch = component.folder.with_name(f".{component.folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    log = component.folder.with_name(f"{component.name}.log")
    with step(title, _compiled_packages(log)):
        _compile(component, go, scratch, log)
    if component.multicall:
        _link_names(component, scratch)
    scratch.rename(component.folder)


def _compile(component: Component, go: Path, target: Path, log: Path) -> None:
    output = f"{target}/{component.name if component.package == '.' else ''}"
    flags = ["-v", "-trimpath", "-buildvcs=false", "-mod=readonly", f"-tags={component.tags}"]
    command = [str(go), "build", *flags, f"-ldflags={component.link_flags}", "-o", output, component.package]
    with log.open("w") as file:
        finished = subprocess.run(command, cwd=component.source, env=_environment(), stderr=file, check=False)
    if finished.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise BuildError(f"{component.name} does not compile:\n{tail}", remedy=f"the whole log is {log}")


def _environment() -> dict[str, str]:
    return {**os.environ, "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local"}


def _compiled_packages(log: Path) -> Callable[[], str]:
    def count() -> str:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return f"{sum(not line.startswith('go: ') for line in lines)} packages compiled"

    return count


def _link_names(component: Component, folder: Path) -> None:
    for name in component.programs:
        (folder / name).symlink_to(component.name)
