"""What a cluster is made of, as values."""

import re
from dataclasses import dataclass, field

from e2e.cluster.machine.errors import ClusterError

GIBIBYTE = 1 << 30
EMULATED_RESOURCE = "batchwright.dev/emulated"
EMULATED_ANNOTATION = "batchwright.dev/emulated-device"
STORAGE_CLASS = "batchwright-shared"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name) or name in ("system", "outside"):
        rule = "use lower-case letters, digits and '-', at most 32 characters, not 'system' or 'outside'"
        raise ClusterError(f"{name!r} cannot name a {kind}", remedy=rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedDevice:
    """How an emulated accelerator behaves: a batch of n rows takes fixed + n * per row, models fit its memory."""

    fixed_microseconds: int = 10_000
    per_row_microseconds: int = 2_000
    memory_bytes: int = GIBIBYTE


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """A node: `cpus` cores of pods by CPU quota, `memory_bytes` for pods, `emulated` emulated accelerators."""

    name: str
    cpus: float = 1.0
    memory_bytes: int = 4 * GIBIBYTE
    emulated: int = 0
    device: EmulatedDevice = EmulatedDevice()
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        _check_name("node", self.name)
        if not 0.05 <= self.cpus <= 256:
            raise ClusterError(f"node {self.name} has {self.cpus} cores", remedy="give 0.05 to 256, as in fast=1.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A cluster: real nodes, kwok's simulated ones, and how many shared volumes are made beforehand."""

    name: str = "batchwright"
    nodes: tuple[NodeSpec, ...] = (NodeSpec(name="fast", cpus=1.0), NodeSpec(name="slow", cpus=0.5))
    kwok_nodes: int = 0
    audit_log: bool = False
    volumes: int = 16

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        _check_name("cluster", self.name)
        names = [node.name for node in self.nodes]
        if len(set(names)) < len(names):
            raise ClusterError(f"two nodes have the same name: {', '.join(names)}", remedy="name each node once")
        if not 1 <= len(names) <= 60:
            raise ClusterError(f"{len(names)} nodes", remedy="give 1 to 60 nodes, as in --node fast=1.0")
