"""The metrics of the operator's leading replica, through the API server's proxy: live load, and who leads."""

from __future__ import annotations

from dataclasses import dataclass, field

from batchwright_operator.errors import ApiError, NotFound, Unauthorized, Unavailable
from batchwright_operator.kube.client import ApiClient, path_of
from batchwright_operator.kube.objects import LEASE, POD, Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import OPERATOR_METRICS_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorMetrics:
    """`gauges`: name -> (labels, value). `problem`: why there are none; empty if there are. `no_leader`: nobody leads,
    as far as the Lease says. `silence`: why the API server itself says nothing (to us); empty if it does."""

    gauges: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)
    problem: str = ""
    no_leader: bool = False
    silence: str = ""


async def read_metrics(client: ApiClient, system: str, now: float) -> OperatorMetrics:
    """Those of the operator in namespace `system`.

    A replica's identity is its pod's name and a suffix (`process/operator`), so that the Lease names the pod.
    """
    try:
        lease = await client.get(LEASE, system, Settings().lease_name)
    except NotFound:
        text = f"no operator has led in namespace {system} yet; --system names another one"
        return OperatorMetrics(problem=text, no_leader=True)
    except ApiError as error:
        silence = str(error) if isinstance(error, Unavailable | Unauthorized) else ""
        return OperatorMetrics(problem=_unread(system, error), silence=silence)
    pod = str(lease["spec"].get("holderIdentity") or "").rpartition("_")[0]
    if not pod or _expired(lease, now):
        return OperatorMetrics(problem="no operator leads at present", no_leader=True)
    try:
        return OperatorMetrics(
            gauges=parse(await client.text(path_of(POD, system, f"{pod}:{OPERATOR_METRICS_PORT}", "proxy/metrics")))
        )
    except ApiError as error:
        return OperatorMetrics(problem=_unread(system, error))
    except ValueError as error:  # no metrics
        return OperatorMetrics(problem=f"no live values from {pod}: {error}")


def _unread(system: str, error: ApiError) -> str:
    return f"no live values from the operator in namespace {system}: {error}"


def _expired(lease: Raw, now: float) -> bool:
    """A leader that died lets its Lease run out; clocks may differ by as much again."""
    renewed, lasts = unix(lease["spec"].get("renewTime")), lease["spec"].get("leaseDurationSeconds")
    return renewed is not None and lasts is not None and now > renewed + 2 * float(lasts)


def parse(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Prometheus' text format: name -> (labels, value)."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), float(sample.value)))
    return found
