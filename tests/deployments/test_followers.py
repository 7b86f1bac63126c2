"""Following sidecars and runners by long-poll, over real HTTP on loopback addresses that stand for pod IPs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from batchwright_operator.deployments.follower import NOTIFY_S, SidecarFollower, sidecar_targets
from batchwright_operator.deployments.live_configuration import LiveTexts
from batchwright_operator.jobs.follower import RunnerFollower
from batchwright_operator.kube.objects import (
    CONFIG_MAP,
    DEPLOYMENT,
    INFERENCE_JOB,
    JOB,
    MODEL_DEPLOYMENT,
    POD,
    REPLICA_SET,
    Raw,
    Resource,
)
from batchwright_operator.pods import configuration_sender
from batchwright_operator.pods.state_follower import SCAN_S, FollowedPod, PollPolicy, StateFollower
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.interfaces import Watch
from batchwright_operator.reconcile.keys import no_keys
from batchwright_operator.reconcile.live_state import LiveState, control_token
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import ConfigurationState, RunnerState, SidecarState
from batchwright_worker.api.names import CONFIGURATION_PATH, CONTROL_PORT, STATE_PATH, configuration_digest
from tests.deployments.deployment_objects import NAMESPACE, deployment, model_state, state
from tests.deployments.tiny_api import TinyApi

KEY = Key(reconciler="modeldeployment", namespace=NAMESPACE, name="ocr")
_addresses = (f"127.87.{high}.{low}" for high, low in itertools.product(range(1, 250), range(1, 250)))


@dataclass(slots=True)
class Keys:
    """A queue that tells of every key."""

    added: list[tuple[Key, float]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, key: Key, *, after_s: float = 0.0) -> None:
        self.added.append((key, after_s))
        self.news.set()

    async def next(self) -> None:
        async with asyncio.timeout(60):
            await self.news.wait()
        self.news.clear()


@dataclass(slots=True)
class Peer:
    """A sidecar or runner: answers as soon as its revision is another one than what is asked for."""

    token: str
    state: Any
    bad: list[web.Response] = field(default_factory=list)
    bad_puts: list[web.Response] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == f"Bearer {self.token}"
        if self.bad:
            return self.bad.pop(0)
        after = int(request.query["after"])
        self.asked.append(after)
        try:
            async with self.changed:
                await self.changed.wait_for(lambda: self.state.revision != after)
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return web.Response(body=msgspec.json.encode(self.state))

    async def take(self, request: web.Request) -> web.StreamResponse:
        """A new configuration, after as many failures as there are in `bad_puts`."""
        assert request.headers["Authorization"] == f"Bearer {self.token}"
        self.sent.append(await request.text())
        if self.bad_puts:
            return self.bad_puts.pop(0)
        digest = configuration_digest(self.sent[-1].encode())
        now = ConfigurationState(generation=2, digest=digest)
        await self.become(msgspec.structs.replace(self.state, revision=self.state.revision + 1, configuration=now))
        return web.Response()

    async def become(self, state: Any) -> None:
        async with self.changed:
            self.state = state
            self.changed.notify_all()


@asynccontextmanager
async def served(peer: Peer, address: str, port: int = CONTROL_PORT) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_get(STATE_PATH, peer.answer)
    app.router.add_put(CONFIGURATION_PATH, peer.take)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    try:
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def followed(follower: Any, api: TinyApi, keys: Keys) -> AsyncIterator[None]:
    task = asyncio.create_task(follower.run(api, keys))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(claim: Callable[[], bool]) -> None:
    """For what has no event to wait for."""
    async with asyncio.timeout(60):
        while not claim():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.02)


def model_pod(name: str, address: str) -> Raw:
    labels = {"app.kubernetes.io/component": "model", "batchwright.dev/deployment": "ocr"}
    sidecar = {"name": "sidecar", "state": {"running": {}}}
    metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-of-{name}", "labels": labels}
    config = {"name": "config", "configMap": {"name": "ocr-config-1"}}
    status = {"podIP": address, "initContainerStatuses": [sidecar]}
    return {"metadata": metadata, "spec": {"volumes": [config]}, "status": status}


def owned(api: TinyApi, pod: Raw) -> Raw:
    """The pod as a replica of `ocr`, which is put into the API with all that stands between the two."""
    api.put(MODEL_DEPLOYMENT, deployment())
    owner = {"kind": "ModelDeployment", "name": "ocr", "uid": "uid-of-ocr", "controller": True}
    head = {"name": "ocr-cpu", "namespace": NAMESPACE, "ownerReferences": [owner]}
    above = api.replica_set(api.put(DEPLOYMENT, {"metadata": head, "spec": {}}))["metadata"]
    reference = {"kind": "ReplicaSet", "name": above["name"], "uid": above["uid"], "controller": True}
    return {**pod, "metadata": {**pod["metadata"], "ownerReferences": [reference]}}


OTHERS = {
    "nobody": {},
    "another kind": {"kind": "StatefulSet"},
    "a ReplicaSet of another uid": {"uid": "made-up"},
    "a ReplicaSet that is not there": {"name": "made-up"},
    "a reference that does not control": {"controller": False},
}


@pytest.mark.parametrize("other", OTHERS)
def test_no_token_is_sent_to_a_pod_that_only_says_that_it_is_ours(other: str) -> None:
    api = TinyApi()
    pod = owned(api, model_pod("a", "10.0.0.1"))
    assert len(list(sidecar_targets(api, lambda _: "t0ken"))) == 0
    api.put(POD, pod)
    [target] = sidecar_targets(api, lambda _: "t0ken")
    assert target.key == KEY
    [reference] = pod["metadata"]["ownerReferences"]
    references = [{**reference, **OTHERS[other]}] if OTHERS[other] else []
    api.put(POD, {**pod, "metadata": {**pod["metadata"], "ownerReferences": references}})
    assert list(sidecar_targets(api, lambda _: "t0ken")) == []


async def test_a_sidecar_is_followed_from_its_start_to_its_end() -> None:
    address, api, keys, live = next(_addresses), TinyApi(), Keys(), LiveState(control_key=b"key")
    api.put(POD, owned(api, model_pod("a", address)))
    peer = Peer(control_token(b"key", "uid-of-ocr"), state(revision=3))
    follower = SidecarFollower(Settings(), live, aiohttp.ClientSession)
    async with served(peer, address), followed(follower, api, keys):
        await keys.next()
        assert live.sidecars["uid-of-a"].state.revision == 3
        await peer.become(state(model_state(batch_size=9), revision=4))
        await keys.next()
        assert live.sidecars["uid-of-a"].state.models[0].batch_size == 9
        assert [key for key, _ in keys.added] == [KEY, KEY]
        assert keys.added[0][1] == 0.0
        assert 0.0 < keys.added[1][1] <= NOTIFY_S
        assert peer.asked[:2] == [-1, 3]
        api.remove(POD, NAMESPACE, "a")
        await until(lambda: "uid-of-a" not in live.sidecars)
        async with asyncio.timeout(60):
            await peer.gone.wait()


BAD: list[Callable[[], web.Response]] = [
    lambda: web.Response(status=500, text="no"),
    lambda: web.Response(status=401, text='{"error": "token"}'),
    lambda: web.Response(text="not json"),
    lambda: web.Response(body=b"[" * (2 << 20)),
    lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
]


def follower_of(target: FollowedPod, states: dict[str, Any]) -> StateFollower[SidecarState]:
    return StateFollower(
        targets=lambda _: [target],
        message=SidecarState,
        states=states,
        session_factory=aiohttp.ClientSession,
        policy=PollPolicy(poll_s=0.0, first_backoff_s=0.01, last_backoff_s=0.05),
    )


async def test_bad_answers_of_any_kind_are_survived() -> None:
    address, keys = next(_addresses), Keys()
    states: dict[str, Any] = {}
    target = FollowedPod(uid="u", address=f"{address}:{CONTROL_PORT}", token="t", key=KEY)
    peer = Peer("t", state(revision=1), bad=[make() for make in BAD])
    async with served(peer, address), followed(follower_of(target, states), TinyApi(), keys):
        await keys.next()
        assert states["u"].state.revision == 1
        assert peer.bad == []


async def test_a_sidecar_that_restarts_with_a_lower_revision_is_heard_again() -> None:
    address, keys = next(_addresses), Keys()
    states: dict[str, Any] = {}
    target = FollowedPod(uid="u", address=f"{address}:{CONTROL_PORT}", token="t", key=KEY)
    async with followed(follower_of(target, states), TinyApi(), keys):
        async with served(Peer("t", state(revision=50)), address):
            await keys.next()
        async with served(Peer("t", state(revision=2)), address):
            await keys.next()
        assert states["u"].state.revision == 2


async def test_pods_that_cannot_be_read_do_not_end_the_follower() -> None:
    address, keys = next(_addresses), Keys()
    calls = itertools.count()
    target = FollowedPod(uid="u", address=f"{address}:{CONTROL_PORT}", token="t", key=KEY)

    def targets(_: Any) -> list[FollowedPod]:
        if next(calls) == 0:
            raise RuntimeError("odd pod")
        return [target]

    follower = follower_of(target, {})
    follower.targets = targets
    async with served(Peer("t", state()), address), followed(follower, TinyApi(), keys):
        await keys.next()


# --- runners


LABELS = {"batchwright.dev/step": "run", "batchwright.dev/inferencejob": "pages"}


def runner_pod(name: str, address: str, *, job_uid: str = "uid-of-run", **status: Any) -> Raw:
    owner = {"kind": "Job", "name": "pages-run", "uid": job_uid, "controller": True}
    metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-of-{name}", "labels": LABELS}
    metadata["ownerReferences"] = [owner]
    container = {"name": "runner", "state": status or {"running": {}}}
    return {"metadata": metadata, "status": {"podIP": address, "containerStatuses": [container]}}


def config_map(text: str, **parts: Any) -> Raw:
    owner = {"kind": "ModelDeployment", "name": "ocr", "uid": "uid-of-ocr", "controller": True}
    metadata = {"name": "ocr-config-1", "namespace": NAMESPACE, "ownerReferences": [owner]}
    return {"metadata": metadata, "data": {"deployment.json": text}, **parts}


def serves_by(text: str) -> SidecarState:
    by = ConfigurationState(generation=1, digest=configuration_digest(text.encode()))
    return msgspec.structs.replace(state(revision=1), configuration=by)


async def test_sidecars_are_sent_a_new_configuration_once_and_again_only_while_they_do_not_serve_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(configuration_sender, "FIRST_PAUSE_S", 0.1)
    addresses, api, keys, live = [next(_addresses) for _ in range(2)], TinyApi(), Keys(), LiveState(control_key=b"key")
    peers = [Peer(control_token(b"key", "uid-of-ocr"), serves_by("old")) for _ in addresses]
    peers[1].bad_puts = [web.Response(status=500), web.Response(status=409, text="spec.queueOrder")]
    for name, address in zip("ab", addresses, strict=True):
        api.put(POD, owned(api, model_pod(name, address)))
    api.put(CONFIG_MAP, config_map("old"))
    follower = SidecarFollower(Settings(), live, aiohttp.ClientSession)
    async with (
        served(peers[0], addresses[0]),
        served(peers[1], addresses[1]),
        followed(follower, api, keys),
    ):
        await until(lambda: len(live.sidecars) == 2)
        assert [peer.sent for peer in peers] == [[], []]
        api.put(CONFIG_MAP, config_map("new"))
        wanted = configuration_digest(b"new")
        await until(lambda: all(each.state.configuration.digest == wanted for each in live.sidecars.values()))
        assert [peer.sent for peer in peers] == [["new"], ["new"] * 3]
        # One that comes back with what the kubelet had is told again.
        await peers[0].become(msgspec.structs.replace(serves_by("old"), revision=9))
        await until(lambda: len(peers[0].sent) == 2)


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        (state(), {}),
        (serves_by("old"), {"immutable": True}),
        (serves_by("old"), {"metadata": {"name": "ocr-config-1", "namespace": NAMESPACE}}),
        (serves_by("new"), {}),
    ],
    ids=["a sidecar of an older version", "a configuration that is fixed", "not ours", "the same"],
)
async def test_nothing_is_sent_where_nothing_is_to_be_taken_over(said: SidecarState, parts: Raw) -> None:
    address, api, keys, live = next(_addresses), TinyApi(), Keys(), LiveState(control_key=b"key")
    peer = Peer(control_token(b"key", "uid-of-ocr"), said)
    api.put(POD, owned(api, model_pod("a", address)))
    api.put(CONFIG_MAP, config_map("new", **parts))
    follower = SidecarFollower(Settings(), live, aiohttp.ClientSession)
    async with served(peer, address), followed(follower, api, keys):
        await until(lambda: bool(live.sidecars))
        await asyncio.sleep(2 * SCAN_S)
        assert peer.sent == []


def test_texts_that_no_pod_mounts_any_more_are_forgotten() -> None:
    api, texts = TinyApi(), LiveTexts()
    for number in range(3):
        raw = config_map(f"text {number}")
        api.put(CONFIG_MAP, {**raw, "metadata": {**raw["metadata"], "name": f"ocr-config-{number}"}})
    for number in range(3):
        texts.look_anew()
        first, again = (texts.of(api, KEY, f"ocr-config-{number}") for _ in range(2))
        assert first is not None
        assert first is again
        assert len(texts) <= 2, "of this look and the one before"
    texts.look_anew()
    texts.look_anew()
    assert len(texts) == 0


def said(shard: int, revision: int = 1, **parts: Any) -> RunnerState:
    body: Raw = {"time": 0.0, "items_total": 9, "items_succeeded": 1, "items_failed": 0, **parts}
    return RunnerState(revision=revision, shard=shard, **body)


@pytest.fixture
def job_api() -> TinyApi:
    api = TinyApi()
    api.put(INFERENCE_JOB, {"metadata": {"name": "pages", "namespace": NAMESPACE, "uid": "uid-of-pages"}, "spec": {}})
    owner = {"kind": "InferenceJob", "name": "pages", "uid": "uid-of-pages", "controller": True}
    metadata = {"name": "pages-run", "namespace": NAMESPACE, "uid": "uid-of-run", "labels": LABELS}
    api.put(JOB, {"metadata": metadata | {"ownerReferences": [owner]}, "spec": {}})
    return api


def test_all_pods_together_are_polled_and_all_keys_reconciled_at_a_bounded_rate() -> None:
    policy = PollPolicy(poll_s=0.1, notify_s=0.5)
    for count in (1, 10, 100, 1000, 10_000):
        assert count / policy.pause_s(count) <= max(policy.polls_per_s, 1 / 0.1)
        assert count / policy.notify_pause_s(count) <= max(policy.notified_per_s, 1 / 0.5)
        assert count / policy.numbers_pause_s(count) <= max(policy.numbers_per_s, 1 / 0.5)
    assert (policy.pause_s(1), policy.notify_pause_s(1)) == (0.1, 0.5)


async def test_news_of_runners_ask_for_one_pass_per_interval(job_api: TinyApi) -> None:
    first, second, keys, live = next(_addresses), next(_addresses), Keys(), LiveState(control_key=b"key")
    job_api.put(POD, runner_pod("a", first))
    job_api.put(POD, runner_pod("b", second))
    token = control_token(b"key", "uid-of-pages")
    peers = [Peer(token, said(0)), Peer(token, said(1))]
    follower = RunnerFollower(Settings(job_status_min_interval_seconds=2.0), live, aiohttp.ClientSession)
    async with served(peers[0], first), served(peers[1], second), followed(follower, job_api, keys):
        await until(lambda: set(live.runners) == {"uid-of-a", "uid-of-b"})
        key = Key(reconciler="inferencejob", namespace=NAMESPACE, name="pages")
        assert keys.added[0] == (key, 0.0)
        assert [found for found, _ in keys.added[1:]] == [key]
        assert 1.5 < keys.added[1][1] <= 2.0


async def test_what_is_no_number_is_not_put_off_as_numbers_are() -> None:
    address, api, keys, live = next(_addresses), TinyApi(), Keys(), LiveState(control_key=b"key")
    api.put(POD, owned(api, model_pod("a", address)))
    peer = Peer(control_token(b"key", "uid-of-ocr"), state(revision=1))
    follower = SidecarFollower(Settings(), live, aiohttp.ClientSession)
    follower._follower.policy = PollPolicy(poll_s=0.0, notify_s=0.5, numbers_per_s=0.01)
    async with served(peer, address), followed(follower, api, keys):
        await keys.next()
        await peer.become(state(model_state(throughput=9.0), revision=2))
        await keys.next()
        await peer.become(state(model_state(state="Failed", message="no file"), revision=3))
        await keys.next()
        assert [key for key, _ in keys.added] == [KEY] * 3
        first, numbers, words = (after_s for _, after_s in keys.added)
        assert first == 0.0
        assert numbers > 50.0
        assert 0.0 < words <= 0.5


def test_the_pods_to_follow_are_looked_for_when_something_changed_that_says_whose_they_are() -> None:
    store = Store()
    for resource in (MODEL_DEPLOYMENT, DEPLOYMENT, REPLICA_SET, POD):
        store.register(Watch(resource=resource, keys=no_keys))
    api = TinyApi()
    pod = owned(api, model_pod("a", "10.0.0.1"))
    version = itertools.count(2)

    def put(resource: Resource, raw: Raw) -> None:
        store.written(resource, {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(next(version))}})

    for resource in (MODEL_DEPLOYMENT, DEPLOYMENT, REPLICA_SET):
        for raw in api.all(resource):
            put(resource, raw)
    put(POD, pod)
    follower = SidecarFollower(Settings(), LiveState(control_key=b"key"), aiohttp.ClientSession)

    def look() -> list[FollowedPod]:
        return follower._targets(store)

    first = look()
    assert [each.uid for each in first] == ["uid-of-a"]
    [deployed] = api.all(MODEL_DEPLOYMENT)
    put(MODEL_DEPLOYMENT, deployed)
    look()
    kept = look()
    put(MODEL_DEPLOYMENT, {**deployed, "status": {"readyReplicas": 1}})
    put(POD, {"metadata": {"name": "other", "namespace": NAMESPACE, "uid": "o"}, "spec": {}})
    assert look() is kept, "a status, a pod of somebody else's"
    put(POD, {**pod, "metadata": {**pod["metadata"], "ownerReferences": []}})
    assert look() == []
    put(POD, pod)
    assert look() == first
    [above] = api.all(REPLICA_SET)
    put(REPLICA_SET, {**above, "metadata": {**above["metadata"], "ownerReferences": []}})
    assert look() == []
    put(REPLICA_SET, above)
    store.not_found(MODEL_DEPLOYMENT, NAMESPACE, "ocr")
    assert look() == []


async def test_the_last_word_of_a_finished_shard_outlives_its_pod_but_not_its_job(job_api: TinyApi) -> None:
    keys, live = Keys(), LiveState(control_key=b"key")
    message = msgspec.json.encode(said(4, done=True)).decode()
    job_api.put(POD, runner_pod("good", "", terminated={"exitCode": 0, "message": message}))
    job_api.put(POD, runner_pod("bad", "", terminated={"exitCode": 1, "message": message.replace("4", "5")}))
    job_api.put(POD, runner_pod("odd", "", terminated={"exitCode": 0, "message": "not json"}))
    of_a_deleted_job = {"exitCode": 0, "message": message.replace("4", "7")}
    job_api.put(POD, runner_pod("old", "", job_uid="uid-of-the-run-of-a-deleted-job", terminated=of_a_deleted_job))
    follower = RunnerFollower(Settings(), live, aiohttp.ClientSession)
    async with followed(follower, job_api, keys):
        await until(lambda: "uid-of-pages" in live.terminations)
        job_api.remove(POD, NAMESPACE, "good")
        job_api.put(POD, runner_pod("new", "", terminated={"exitCode": 0, "message": message.replace("4", "6")}))
        await until(lambda: 6 in live.terminations["uid-of-pages"])
        assert list(live.terminations["uid-of-pages"]) == [4, 6]
        job_api.remove(INFERENCE_JOB, NAMESPACE, "pages")
        await until(lambda: not live.terminations)
