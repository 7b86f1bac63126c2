"""A Kubernetes control plane: etcd, API server, controller manager and (if wanted) scheduler, as plain processes.

It needs no privileges, listens on one address (loopback unless told otherwise) and is ready in about 3 s. Any number
of them live side by side: ports are free ones, and each has a folder of its own.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from e2e.cluster.build import components
from e2e.cluster.control_plane import audit
from e2e.cluster.control_plane.api import Api
from e2e.cluster.control_plane.certificates import Authority, KeyPair
from e2e.cluster.control_plane.flags import ControlPlaneSpec, Flags
from e2e.cluster.control_plane.kubeconfig import write_kubeconfig
from e2e.cluster.machine import processes
from e2e.cluster.machine.errors import NotFoundError, StartError
from e2e.cluster.machine.paths import write_private
from e2e.cluster.machine.ports import free_port
from e2e.cluster.machine.processes import Process
from e2e.cluster.machine.waiting import wait_until

READY_TIMEOUT_S = 60.0
_START_ATTEMPTS = 3
_RECORD = "control-plane.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    spec: ControlPlaneSpec
    port: int


@dataclass(slots=True, kw_only=True)
class ControlPlane:
    """A running control plane. A context manager: leaving it stops and removes it."""

    spec: ControlPlaneSpec
    folder: Path
    port: int
    _watchdog: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @classmethod
    def start(
        cls,
        name: str = "control-plane",
        *,
        audit_log: bool = True,
        scheduler: bool = True,
        apiserver_args: Sequence[str] = (),
        controller_manager_args: Sequence[str] = (),
    ) -> Self:
        """Start a control plane on loopback in a temporary folder, ready when this returns.

        The arguments are further flags, which win over the defaults. It ends with this process, however this
        process ends.
        """
        spec = ControlPlaneSpec(
            name=name,
            audit_log=audit_log,
            scheduler=scheduler,
            apiserver_args=tuple(apiserver_args),
            controller_manager_args=tuple(controller_manager_args),
        )
        folder = Path(tempfile.mkdtemp(prefix=f"batchwright-{name[:20]}-"))
        watchdog = _start_watchdog(folder)
        try:
            plane = cls.launch(spec, folder)
        except BaseException:
            _end_watchdog(watchdog)
            raise
        plane._watchdog = watchdog
        return plane

    @classmethod
    def launch(cls, spec: ControlPlaneSpec, folder: Path) -> Self:
        """Start a control plane in `folder` that outlives this process, ready when this returns."""
        components.ensure_built(["kubernetes"])
        for attempt in range(1, _START_ATTEMPTS + 1):
            plane = cls(spec=spec, folder=folder, port=free_port(spec.address))
            try:
                plane._bring_up()
            except StartError as failure:  # somebody may have taken the port in between
                processes.stop(processes.recorded(folder))
                if attempt == _START_ATTEMPTS or "address already in use" not in str(failure):
                    raise
            else:
                return plane
        raise AssertionError("unreachable")

    @classmethod
    def attach(cls, folder: Path) -> Self:
        """The control plane that `launch` started in `folder`; NotFoundError if there is none."""
        try:
            record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=_Record)
        except (OSError, msgspec.MsgspecError) as error:
            raise NotFoundError(f"no control plane in {folder}") from error
        return cls(spec=record.spec, folder=folder, port=record.port)

    @property
    def server_url(self) -> str:
        """Where the API server answers."""
        return f"https://{self.spec.address}:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig of the administrator (group system:masters)."""
        return self.folder / "kubeconfig"

    @property
    def ca_path(self) -> Path:
        """The certificate of the cluster's authority."""
        return self.folder / "pki" / "ca.crt"

    @property
    def client_cert(self) -> Path:
        """The administrator's certificate."""
        return self.folder / "pki" / "admin.crt"

    @property
    def client_key(self) -> Path:
        """The administrator's private key."""
        return self.folder / "pki" / "admin.key"

    @property
    def audit_log_path(self) -> Path:
        """The audit log (see `audit.writes`); there is none if it was not asked for."""
        return self.folder / "logs" / "audit.log"

    @property
    def api(self) -> Api:
        """A client of the administrator."""
        return Api(self.server_url, self.ca_path, KeyPair(certificate=self.client_cert, key=self.client_key))

    @property
    def authority(self) -> Authority:
        """The cluster's certificate authority."""
        return Authority(self.folder / "pki")

    @property
    def processes(self) -> dict[str, Process]:
        """The processes by name, dead ones too."""
        return {process.name: process for process in processes.recorded(self.folder)}

    @property
    def alive(self) -> bool:
        """Whether every process of it runs."""
        found = self.processes
        return all(name in found and found[name].alive for name in self._names())

    def kubeconfig_for(self, user: str, group: str = "batchwright", *, server_url: str | None = None) -> Path:
        """A kubeconfig of another user, who may do what RBAC grants that user or group."""
        file = user.replace(":", "-").replace("/", "-")
        pair = self.authority.client(file, user, group)
        path = self.folder / "kubeconfigs" / f"{file}.yaml"
        return write_kubeconfig(path, server_url=server_url or self.server_url, ca=self.ca_path, pair=pair)

    def stop_apiserver(self, *, grace_s: float = 0.0) -> None:
        """End the API server: at once, or with `grace_s` seconds to finish what it does."""
        processes.stop(
            [process for process in self.processes.values() if process.name == "kube-apiserver"], grace_s=grace_s
        )

    def start_apiserver(self) -> None:
        """Start the API server again, at the same address with the same data; ready when this returns."""
        self._spawn("kube-apiserver")
        self._await_ready()

    def restart_apiserver(self, *, grace_s: float = 0.0) -> None:
        """Stop and start the API server."""
        self.stop_apiserver(grace_s=grace_s)
        self.start_apiserver()

    def stop(self) -> None:
        """End every process and remove the folder; a second call does nothing."""
        processes.stop(self.processes.values())
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._watchdog is not None:
            _end_watchdog(self._watchdog)
            self._watchdog = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _names(self) -> Iterator[str]:
        yield from ("etcd", "kube-apiserver", "kube-controller-manager")
        if self.spec.scheduler:
            yield "kube-scheduler"

    def _bring_up(self) -> None:
        _issue_certificates(self)
        write_private(self.folder / "audit-policy.json", json.dumps(audit.POLICY))
        self._spawn("etcd")
        self._spawn("kube-apiserver")
        self._await_ready()
        self._spawn("kube-controller-manager")
        if self.spec.scheduler:
            self._spawn("kube-scheduler")
        self._await_service_account()
        write_private(self.folder / _RECORD, msgspec.json.encode(_Record(spec=self.spec, port=self.port)))

    def _spawn(self, name: str) -> None:
        flags = Flags(spec=self.spec, folder=self.folder, port=self.port).of(name)
        groups = [Path(group) for group in self.spec.cgroups]
        processes.spawn(name, [str(components.program(name)), *flags], folder=self.folder, cgroups=groups)

    def _await_ready(self) -> None:
        api = self.api
        wait_until(lambda: api.ready() or self._any_dead(), timeout_s=READY_TIMEOUT_S)
        if self._any_dead() or not api.ready():
            raise StartError(f"the API server did not become ready:\n{self._tails()}", remedy=f"see {self.folder}/logs")

    def _await_service_account(self) -> None:
        """Pods are refused until the controller manager has made the default service account."""
        api = self.api
        path = "/api/v1/namespaces/default/serviceaccounts/default"
        if not wait_until(lambda: api.exists(path), timeout_s=READY_TIMEOUT_S):
            raise StartError(f"the controller manager does not work:\n{self._tails()}")

    def _any_dead(self) -> bool:
        found = self.processes
        return not (found["etcd"].alive and found["kube-apiserver"].alive)

    def _tails(self) -> str:
        return "\n".join(f"--- {process.name}\n{process.log_tail(5)}" for process in self.processes.values())


def _issue_certificates(plane: ControlPlane) -> None:
    authority = plane.authority
    names = ("localhost", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
    addresses = {plane.spec.address, plane.spec.kubernetes_service} - {"127.0.0.1"}
    authority.server("apiserver", *names, "kubernetes.default.svc.cluster.local", *sorted(addresses))
    authority.server("service-accounts", "service-accounts")
    authority.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
    pair = authority.client("admin", "admin", "system:masters")
    write_kubeconfig(plane.kubeconfig, server_url=plane.server_url, ca=plane.ca_path, pair=pair)
    for component in ("kube-controller-manager", "kube-scheduler"):
        plane.kubeconfig_for(f"system:{component}")


def _start_watchdog(folder: Path) -> "subprocess.Popen[bytes]":
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-m", "e2e.cluster.machine.watchdog", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)


def _end_watchdog(watchdog: "subprocess.Popen[bytes]") -> None:
    assert watchdog.stdin is not None
    watchdog.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        watchdog.wait(timeout=30)
