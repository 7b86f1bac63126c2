"""The cases: what is asked for, what is seen. Each leaves the bed as it found it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from batchwright_worker.api.names import LABEL_DEPLOYMENT
from e2e.bench.scale.bed import ROOT, SPACES, Bed, OperatorProcess, collection
from e2e.bench.scale.timeline import PodTimes, Timeline, percentile, rate

MODELS_ONLY: Final = {
    "BATCHWRIGHT_RECONCILERS": '["batchwright_operator.deployments.reconciler:ModelDeploymentReconciler"]',
    "BATCHWRIGHT_BACKGROUNDS": "[]",
}
"""Pods are made, and none is placed."""
NO_SIDECARS: Final = {"BATCHWRIGHT_BACKGROUNDS": '["batchwright_operator.telemetry.collector:TelemetryBackground"]'}
"""As shipped, but for the sidecars, of which simulated pods have none."""


LOOK_S: Final = 30.0
"""How often a case that takes long says where it is."""
PLAIN: Final = {"app": "plain"}
SHORT: Final = ("<= 5 ms", "<= 10 ms", "<= 25 ms", "<= 50 ms", "<= 100 ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of the table: `figures` are what `seen` says, as numbers."""

    name: str
    asked: str
    seen: str
    ok: bool
    figures: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


Case = Callable[[Bed], Iterator[Result]]


def _opened(pod: PodTimes) -> float:
    return pod.opened


def _ran(pod: PodTimes) -> float:
    return pod.ran


def bed_alone(bed: Bed) -> Iterator[Result]:
    """The cluster's own ceiling: the same pods behind the same Services and PodDisruptionBudget, without our gate."""
    count = 1000 if bed.quick else 5000
    template, around = _template(bed)
    with Timeline(plane=bed.plane) as pods:
        since = time.monotonic()
        for path, body in around.items():
            bed.api.request("POST", path.rpartition("/")[0], body)
        bed.api.request("POST", f"/apis/apps/v1/namespaces/{SPACES[0]}/deployments", _plain(template, count))
        _all(bed, pods, _ran, count, 180)
        bed.bed_rate = rate(pods.moments(lambda each: each.bound))
        running = rate(pods.moments(_ran))
        took = time.monotonic() - since
    for path in around:
        bed.api.delete(path)
    bed.clean()
    yield Result(
        name="bed alone", asked="(the ceiling)", ok=True,
        seen=f"{count} pods bound at {bed.bed_rate:.0f}/s, Running at {running:.0f}/s, all after {took:.0f} s",
        figures={"bound_per_s": bed.bed_rate, "running_per_s": running, "seconds": took},
    )  # fmt: skip


def burst(bed: Bed) -> Iterator[Result]:
    """One deployment, all pods waiting when the operator starts."""
    count = 1000 if bed.quick else 5000
    with _waiting(bed, deployments=1, replicas=count) as pods:
        yield _placed(bed, pods, f"{count} waiting pods of one deployment")


def many(bed: Bed) -> Iterator[Result]:
    """Many deployments, all pods waiting when the operator starts."""
    deployments = 100 if bed.quick else 500
    with _waiting(bed, deployments=deployments, replicas=10, spaces=SPACES) as pods:
        yield _placed(bed, pods, f"{deployments} deployments x 10 waiting pods")


def ones(bed: Bed) -> Iterator[Result]:
    """Many deployments with one pod each, made while the operator runs."""
    count = 100 if bed.quick else 300
    with Timeline(plane=bed.plane) as pods, bed.operator(**NO_SIDECARS) as operator:
        _leading(operator)
        began = time.monotonic()
        bed.add_deployments(count, 1, prefix="one", spaces=SPACES)
        done = _all(bed, pods, _ran, count, 150)
        took, lost, silence = time.monotonic() - began, operator.lost_leads(), operator.silence()
        placed = pods.count(_opened)
    bed.clean()
    yield Result(
        name=f"{count} deployments x 1, made while it runs",
        asked="all Running <= 45 s, no lost leadership, silence <= 100 ms",
        seen=f"{placed} placed, all Running after {took:.1f} s; {lost} lost; {silence}",
        ok=done and took <= 45 and not lost and silence.is_short,
        figures={
            "placed": placed,
            "seconds": took,
            "lost": lost,
            "silence_s": silence.wall_s,
            "silence_cpu_s": silence.cpu_s,
        },
    )


def steady(bed: Bed) -> Iterator[Result]:
    """A hundred more replicas every second."""
    seconds = 10 if bed.quick else 30
    with Timeline(plane=bed.plane) as pods, bed.operator(**NO_SIDECARS) as operator:
        _leading(operator)
        bed.add_deployments(10, 1, prefix="steady")
        pods.until(lambda: pods.count(_ran) >= 10, 60)
        cpu_s, began, total = operator.cpu_s(), time.monotonic(), 1
        for step in range(seconds * 10):
            time.sleep(max(0.0, began + step / 10 - time.monotonic()))
            total = 1 + (step // 10 + 1) * 10
            bed.api.patch(f"{collection(SPACES[0])}/steady{step % 10}", {"spec": {"replicas": total}})
            if step % 100 == 99:
                bed.say(f"asked for {10 * total}, {len(pods.pods)} made, {pods.count(_opened)} without a gate")
        done = _all(bed, pods, _opened, 10 * total, 120)
        cpu_s, silence = operator.cpu_s() - cpu_s, operator.silence()
        ages = [each.opened - each.made for each in list(pods.pods.values()) if each.opened and each.gated]
        made = rate(pods.moments(lambda each: each.made))
    bed.clean()
    p99 = percentile(ages, 0.99)
    yield Result(
        name=f"steady, {made:.0f} pods/s for {seconds} s",
        asked="gate removed p99 <= 0.25 s (at 100 pods/s)",
        seen=f"p50 {percentile(ages, 0.5):.3f} s, p99 {p99:.3f} s; {silence}; {cpu_s:.1f} s CPU",
        ok=done and p99 <= 0.25,
        figures={"p50_s": percentile(ages, 0.5), "p99_s": p99, "made_per_s": made, "cpu_s": cpu_s},
    )


def settled(bed: Bed) -> Iterator[Result]:
    """Nothing changes; resyncs come by."""
    count, seconds, resync_s = (100, 45, 30) if bed.quick else (500, 600, 300)
    with (
        Timeline(plane=bed.plane) as pods,
        bed.operator(**NO_SIDECARS, BATCHWRIGHT_RESYNC_SECONDS=str(resync_s)) as operator,
    ):
        bed.add_deployments(count, 1, prefix="calm", spaces=SPACES)
        _all(bed, pods, _ran, count, 180)
        _quiet(bed, 120)
        operator.metrics()
        since, cpu_s = datetime.now(UTC), operator.cpu_s()
        before = operator.metrics()
        bed.say(f"settled; {seconds} s of nothing begin")
        time.sleep(seconds)
        written = bed.writes(since)
        share = (operator.cpu_s() - cpu_s) / seconds
        silence, lost = _silence_since(before, operator.metrics()), operator.lost_leads()
        operator_silence = operator.silence()
    bed.clean()
    kinds = Counter(f"{one.verb} {one.resource}" for one in written).most_common(3)
    yield Result(
        name=f"{count} settled deployments, {seconds} s with a resync every {resync_s} s",
        asked="0 writes (Lease aside), silence <= 100 ms, CPU <= 2 % of a core",
        seen=f"{len(written)} writes {kinds or ''}; silence {silence}; CPU {share:.1%}; {lost} lost",
        ok=not written and share <= 0.02 and not lost and (silence in SHORT or operator_silence.is_short),
        figures={"writes": len(written), "cpu_share": share, "lost": lost},
    )


def sidecars(bed: Bed) -> Iterator[Result]:
    """Replicas whose sidecars have news every second."""
    count, seconds = (300, 20) if bed.quick else (1000, 60)
    with bed.local_pods(), Timeline(plane=bed.plane) as pods, bed.operator() as operator:
        bed.add_deployments(count // 10, 10, prefix="busy", spaces=SPACES)
        _all(bed, pods, _ran, count, 180)
        with _sidecar_server(_addresses(bed)):
            time.sleep(20)
            since, cpu_s = datetime.now(UTC), operator.cpu_s()
            before = operator.metrics()
            time.sleep(seconds)
            share = (operator.cpu_s() - cpu_s) / seconds
            written = [one for one in bed.writes(since) if one.resource.endswith("/status")]
            silence, lost = _silence_since(before, operator.metrics()), operator.lost_leads()
    bed.clean()
    per_s = len(written) / seconds
    yield Result(
        name=f"{count} replicas that report a change every second",
        asked=f"CPU <= {0.3 * count / 1000:.0%} of a core, status writes <= 5/s",
        seen=f"CPU {share:.1%}; {per_s:.2f} status writes/s; silence {silence}; {lost} lost",
        ok=share <= 0.3 * count / 1000 and per_s <= 5 and not lost,
        figures={"cpu_share": share, "status_writes_per_s": per_s, "lost": lost},
    )


def outage(bed: Bed) -> Iterator[Result]:
    """The API server is gone for 20 s in the middle of a burst."""
    count = 500 if bed.quick else 2000
    with _waiting(bed, deployments=4, replicas=count // 4) as pods:
        since = datetime.now(UTC)
        with bed.operator(**NO_SIDECARS) as operator:
            pods.until(lambda: pods.count(_opened) >= count // 5, 120)
            bed.plane.stop_apiserver()
            time.sleep(20)
            bed.plane.start_apiserver()
            back = time.monotonic()
            done = _all(bed, pods, _opened, count, 180)
            took, lost = time.monotonic() - back, operator.lost_leads()
        opened = [one for one in bed.writes(since) if one.resource == "pods" and one.verb == "patch"]
        twice = [name for name, times in Counter(one.name for one in opened if one.status == 200).items() if times > 1]
    yield Result(
        name=f"API server gone 20 s in a burst of {count}", asked="all placed <= 60 s after it is back, nothing twice",
        seen=f"all after {took:.1f} s; {len(twice)} twice; {lost} lost", ok=done and took <= 60 and not twice,
        figures={"seconds": took, "twice": len(twice), "lost": lost},
    )  # fmt: skip


# --- parts


def _all(bed: Bed, pods: Timeline, of: Callable[[PodTimes], float], count: int, within_s: float) -> bool:
    """Waits until it is so of this many pods, and says now and then how many there are; whether it became so."""
    deadline = time.monotonic() + within_s
    while (left_s := deadline - time.monotonic()) > 0:
        if pods.until(lambda: pods.count(of) >= count, min(LOOK_S, left_s)):
            return True
        bed.say(f"{pods.count(_opened)} of {count} without a gate, {pods.count(_ran)} Running")
    return False


@contextlib.contextmanager
def _waiting(bed: Bed, *, deployments: int, replicas: int, spaces: tuple[str, ...] = SPACES[:1]) -> Iterator[Timeline]:
    """This many gated pods; cleaned away afterwards."""
    count = deployments * replicas
    with Timeline(plane=bed.plane) as pods:
        with bed.operator(**MODELS_ONLY) as operator:
            _leading(operator)
            bed.add_deployments(deployments, replicas, prefix="burst", spaces=spaces)
            if not pods.until(lambda: len(pods.pods) >= count, 240):
                raise TimeoutError(f"only {len(pods.pods)} of {count} pods were made in 240 s")
        bed.say(f"{count} pods wait")
        try:
            yield pods
        finally:
            bed.clean()


def _placed(bed: Bed, pods: Timeline, name: str) -> Result:
    """From the operator's start until all run."""
    count = len(pods.pods)
    with bed.operator(**NO_SIDECARS) as operator:
        done = _all(bed, pods, _ran, count, 180)
        cpu_s, lost, silence = operator.cpu_s(), operator.lost_leads(), operator.silence()
        resident = operator.resident_mib()
    gates, running = pods.moments(_opened), pods.moments(_ran)
    first = gates[0] - operator.began if gates else float("inf")
    all_s = running[-1] - operator.began if done else float("inf")
    per_s = rate(gates)
    ratio = per_s / bed.bed_rate if bed.bed_rate else float("nan")
    return Result(
        name=name,
        asked=">= 150 gates/s (>= 0.6 of the bed), first <= 2 s, all Running <= 45 s, none lost, silence <= 100 ms",
        seen=f"{per_s:.0f} gates/s ({ratio:.2f} of the bed), first {first:.1f} s, {len(running)} Running after "
        f"{all_s:.1f} s; {lost} lost; {silence}; CPU {cpu_s:.1f} s, {resident:.0f} MiB",
        ok=bool(done and ratio >= 0.6 and first <= 2 and all_s <= 45 and not lost and silence.is_short),
        figures={
            "gates_per_s": per_s, "ratio": ratio, "first_s": first, "all_s": all_s, "lost": lost,
            "silence_s": silence.wall_s, "silence_cpu_s": silence.cpu_s, "cpu_s": cpu_s, "resident_mib": resident,
        },
    )  # fmt: skip


def _template(bed: Bed) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The pod template that the operator makes, without its gate, and what it puts around its pods, by path."""
    path = f"/apis/apps/v1/namespaces/{SPACES[0]}/deployments/like0-cpu"
    found: dict[str, dict[str, Any]] = {}
    with bed.operator(**MODELS_ONLY):
        bed.add_deployments(1, 1, prefix="like")
        deadline = time.monotonic() + 60
        while not bed.api.exists(path):
            if time.monotonic() > deadline:
                raise TimeoutError("the operator made no Deployment in 60 s")
            time.sleep(0.1)
        template: dict[str, Any] = bed.api.get(path)["spec"]["template"]
        labelled = f"labelSelector={LABEL_DEPLOYMENT}=like0"
        for collection_path in (
            f"/api/v1/namespaces/{SPACES[0]}/services",
            f"/apis/policy/v1/namespaces/{SPACES[0]}/poddisruptionbudgets",
        ):
            for number, each in enumerate(bed.api.get(f"{collection_path}?{labelled}")["items"]):
                found[f"{collection_path}/plain-{number}"] = _around(each, f"plain-{number}")
    bed.clean()
    template["spec"].pop("schedulingGates", None)
    return template, found


def _around(made: dict[str, Any], name: str) -> dict[str, Any]:
    """A Service or PodDisruptionBudget like this one, around plain pods."""
    spec = {key: value for key, value in made["spec"].items() if key != "clusterIPs"}
    if spec.get("clusterIP") != "None":
        spec.pop("clusterIP", None)
    spec["selector"] = PLAIN if "ports" in spec else {"matchLabels": PLAIN}
    return {"metadata": {"name": name}, "spec": spec}


def _plain(template: dict[str, Any], replicas: int) -> dict[str, Any]:
    metadata = {"labels": PLAIN, "annotations": template["metadata"].get("annotations") or {}}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": PLAIN},
        "template": {"metadata": metadata, "spec": template["spec"]},
        "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "100%"}},
    }
    return {"metadata": {"name": "plain"}, "spec": spec}


def _leading(operator: OperatorProcess) -> None:
    deadline = time.monotonic() + 60
    while "leading as" not in operator.text():
        if time.monotonic() > deadline or operator.process.poll() is not None:
            raise TimeoutError(f"the operator does not lead:\n{operator.text()[-2000:]}")
        time.sleep(0.05)


def _quiet(bed: Bed, within_s: float, calm_s: float = 8.0) -> None:
    """Until the operator has written nothing for a while."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        since = datetime.now(UTC)
        time.sleep(calm_s)
        if not bed.writes(since):
            return


def _silence_since(before: dict[str, float], after: dict[str, float]) -> str:
    """The bucket of the longest silence between two looks at the metrics."""
    name = "batchwright_event_loop_silence_seconds_bucket"
    bounds = sorted((float(key.split('"')[1]), key) for key in after if key.startswith(name))
    if not bounds:
        return "not measured"
    total = after[bounds[-1][1]] - before.get(bounds[-1][1], 0.0)
    for bound, key in bounds:
        if after[key] - before.get(key, 0.0) >= total:
            return f"<= {bound * 1e3:.0f} ms"
    return "longer"


def _addresses(bed: Bed) -> list[str]:
    paths = [f"/api/v1/namespaces/{space}/pods" for space in SPACES]
    found = [one["status"].get("podIP", "") for path in paths for one in bed.api.get(path)["items"]]
    return [each for each in found if each]


@contextlib.contextmanager
def _sidecar_server(addresses: list[str]) -> Iterator[None]:
    command = [sys.executable, "-m", "e2e.bench.scale.sidecars"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write("\n".join(addresses))
        process.stdin.close()
        try:
            yield
        finally:
            process.terminate()


CASES: Final[dict[str, Case]] = {
    "bed": bed_alone,
    "burst": burst,
    "many": many,
    "ones": ones,
    "steady": steady,
    "settled": settled,
    "sidecars": sidecars,
    "outage": outage,
}
"""By the names of `--only`: those that share a bed."""
