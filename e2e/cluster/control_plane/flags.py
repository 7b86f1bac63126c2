"""What a control plane is made of, and the flags of its programs that follow from that."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlaneSpec:
    """What a control plane is made of.

    `address` is where the API server listens; `service_cidr` where ClusterIPs come from; the extra arguments are
    appended to the defaults, so they win.
    """

    name: str = "control-plane"
    address: str = "127.0.0.1"
    service_cidr: str = "10.96.0.0/20"
    audit_log: bool = True
    scheduler: bool = True
    cgroups: tuple[str, ...] = ()
    apiserver_args: tuple[str, ...] = ()
    controller_manager_args: tuple[str, ...] = ()
    scheduler_args: tuple[str, ...] = ()

    @property
    def kubernetes_service(self) -> str:
        """The ClusterIP of the service `kubernetes`: the first of the range."""
        network = self.service_cidr.partition("/")[0].rpartition(".")[0]
        return f"{network}.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags of the programs of a control plane that lives in `folder` and serves at `port`."""

    spec: ControlPlaneSpec
    folder: Path
    port: int

    def of(self, program: str) -> list[str]:
        """The flags of one program."""
        makers = {
            "etcd": self._etcd,
            "kube-apiserver": self._apiserver,
            "kube-controller-manager": self._controller_manager,
            "kube-scheduler": self._scheduler,
        }
        return makers[program]()

    def _etcd(self) -> list[str]:
        clients, peers = (f"unix://{self.folder}/{name}.sock" for name in ("etcd", "peers"))
        return [
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver(self) -> list[str]:
        pki, spec = self.folder / "pki", self.spec
        loopback = spec.address.startswith("127.")
        flags = [
            f"--etcd-servers=unix://{self.folder}/etcd.sock",
            f"--bind-address={spec.address}",
            f"--advertise-address={spec.address}",
            f"--secure-port={self.port}",
            f"--endpoint-reconciler-type={'none' if loopback else 'lease'}",
            f"--service-cluster-ip-range={spec.service_cidr}",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--client-ca-file={pki}/ca.crt",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki}/service-accounts.key",
            f"--service-account-signing-key-file={pki}/service-accounts.key",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
        ]
        if spec.audit_log:
            flags += [
                f"--audit-policy-file={self.folder}/audit-policy.json",
                f"--audit-log-path={self.folder / 'logs' / 'audit.log'}",
                "--audit-log-maxsize=4096",
            ]
        return [*flags, *spec.apiserver_args]

    def _controller_manager(self) -> list[str]:
        pki = self.folder / "pki"
        return [
            f"--kubeconfig={self.folder}/kubeconfigs/system-kube-controller-manager.yaml",
            f"--service-account-private-key-file={pki}/service-accounts.key",
            f"--root-ca-file={pki}/ca.crt",
            f"--cluster-signing-cert-file={pki}/ca.crt",
            f"--cluster-signing-key-file={pki}/ca.key",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=2000",
            "--kube-api-burst=4000",
            *self.spec.controller_manager_args,
        ]

    def _scheduler(self) -> list[str]:
        return [
            f"--kubeconfig={self.folder}/kubeconfigs/system-kube-scheduler.yaml",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=5000",
            "--kube-api-burst=10000",
            *self.spec.scheduler_args,
        ]
