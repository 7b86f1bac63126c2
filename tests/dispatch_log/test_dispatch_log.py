"""The dispatch log: whatever happens to an engine, a scheduler that is told the same decides the same."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchwright_worker.api.deployment import QueueOrder
from batchwright_worker.dispatch_log import format_1
from batchwright_worker.dispatch_log.calls import CALLS, READS, BadLineError, LoggedCall, read, state_of
from batchwright_worker.dispatch_log.recorder import DispatchLog, RecordedScheduler
from batchwright_worker.dispatch_log.replay import Replayed, replay
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.runtime import BatchFailed
from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.devices import DeviceConfig
from batchwright_worker.scheduler.dispatch import RunBatch
from batchwright_worker.scheduler.queues import QueuedRequest
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.simulator import SimulatedDevice, Simulation, poisson
from batchwright_worker.scheduler.steps import Batch
from tests.engine.devices import BAD, POISON, FakeDevice, engine_of, model, request
from tests.engine.virtual import run

LARGE = 1 << 30


def replayed(path: Path) -> Replayed:
    with path.open("rb") as lines:
        return replay(lines)


def recorder(log: DispatchLog, clock: Callable[[], float], order: QueueOrder = "Balanced") -> RecordedScheduler:
    return RecordedScheduler(log, order=order, clock=clock, wall=lambda: 1e9)


async def eventful(engine: Engine, devices: list[FakeDevice], seed: int) -> int:
    """Two models on too little memory; bad rows, poison, leavers, deaths, failed loads, unload and load by request,
    deadlines. Returns how many calls were answered with a result."""
    chance = random.Random(seed)
    await engine.start()
    calls = []
    for number in range(400):
        value = BAD if number % 41 == 7 else POISON if number == 201 else float(number)
        deadline = engine.clock() + chance.choice([0.02, 0.5]) if number % 5 == 0 else None
        ask = request(engine, *[value] * chance.randint(1, 3), model_name=chance.choice("abc"), deadline=deadline)
        calls.append(asyncio.ensure_future(engine.infer(ask)))
        if number % 17 == 0:
            chance.choice(calls).cancel()
        if number == 120:
            devices[0].die()
        if number == 150:
            devices[1].load_errors.append(BatchFailed("no"))
        if number == 260:
            await engine.unload("b")
        if number == 300:
            await engine.load("b")
        if number == 320:
            engine.reconfigure([model("a", latency=500, max_size=4), model("c", latency=90, window_milliseconds=300)])
        await asyncio.sleep(chance.expovariate(150))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, InferenceError | asyncio.CancelledError) or each.outputs for each in answers)
    await engine.close()
    return sum(not isinstance(each, BaseException) for each in answers)


def recorded_story(path: Path, limit: int, seed: int = 1) -> int:
    async def scenario() -> int:
        clock = asyncio.get_running_loop().time
        log = DispatchLog(path, limit, clock)
        devices = [
            FakeDevice(device=f"runtime-{number}", total_bytes=230, bytes_per_row=1, most_rows=20) for number in (0, 1)
        ]
        models = [
            model(name, latency=latency, initial_size=8) for name, latency in (("a", 120), ("b", 300), ("c", None))
        ]
        engine = engine_of(models, *devices, scheduler=recorder(log, clock))
        answered = await eventful(engine, devices, seed)
        log.close()
        return answered

    return run(scenario())


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of one eventful life, whole."""
    path = tmp_path_factory.mktemp("story") / "log"
    answered = recorded_story(path, LARGE)
    assert answered > 100
    path.with_name("answered").write_text(str(answered))
    return path


def test_an_eventful_life_is_decided_again_in_the_same_way(story: Path) -> None:
    answered = int(story.with_name("answered").read_text())
    found = replayed(story)
    assert found.difference is None
    assert found.calls > 1500
    assert sum(tally.answered for tally in found.models.values()) == answered
    assert sum(tally.offered for tally in found.models.values()) >= answered
    calls = {json.loads(line)["call"] for line in story.read_bytes().splitlines()[1:]}
    assert calls >= {"offer", "cancel", "next", "runtime_lost", "runtime_back", "requeue", "block", "unblock"}
    assert calls >= {"load_ended", "batch_failed", "out_of_memory", "open_window", "close_window", "begin_eviction"}


def test_a_log_that_another_version_wrote_is_decided_in_the_same_way_up_to_a_rule_that_has_changed() -> None:
    """`format-1.log.gz` is an eventful life before 0.1.0, before its modules and classes got their names of today."""
    with gzip.open(Path(__file__).with_name("format-1.log.gz")) as lines:
        found = replay(lines)
    assert (found.version, found.calls, found.decisions) == ("0.1.0", 628, 321)
    # Since then every late request of a batch is dropped, not only those before the first in time.
    difference = found.difference
    assert difference is not None
    assert difference.now == difference.logged | {"late": [91]}


def test_every_line_that_another_version_wrote_is_read() -> None:
    with gzip.open(Path(__file__).with_name("format-1.log.gz")) as lines:
        next(lines)
        calls = [format_1.upgraded(msgspec.json.decode(line, type=LoggedCall)) for line in lines]
    assert len(calls) == 2639
    assert {call.call for call in calls} <= {*CALLS}
    chosen = RunBatch(device="d", model="a", bucket=(), rows=1, unload=(), reason="LoadedAndIdle")
    batch = Batch(run=chosen, slices=(), predicted_s=0.0, left_waiting=False)
    batches = dict.fromkeys(range(10_000), batch)
    assert all(len(read(call.args, batches)) == len(call.args) for call in calls)


def test_every_word_of_format_1_has_a_word_of_today() -> None:
    assert set(format_1.CALLS.values()) <= {*CALLS}
    assert not set(format_1.CALLS) & {*CALLS}
    assert set(format_1.STATE_FIELDS.values()) <= set(state_of(Scheduler()))
    device = {"is": "DeviceBooks", "name": "d", "kind": "cpu", "depth": 2, "down": True}
    upgraded = format_1.upgraded(LoggedCall(1.0, "add_device", [device]))
    assert read(upgraded.args, {}) == (DeviceConfig(name="d", kind="cpu", depth=2), False)
    old = {"is": "Waiting", "key": 1, "rows": 2, "arrival": 0.0, "gone": True}
    requeued = format_1.upgraded(LoggedCall(1.0, "requeue", [old, "m"]))
    assert read(requeued.args, {})[0] == QueuedRequest(key=1, rows=2, arrival=0.0, removed=True)


def test_both_files_of_a_bounded_log_can_be_replayed_alone(tmp_path: Path) -> None:
    recorded_story(tmp_path / "log", 100_000)
    for name in ("log", "log.1"):
        assert (tmp_path / name).stat().st_size < 140_000
        found = replayed(tmp_path / name)
        assert found.difference is None
        assert found.calls > 5
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "log.1"]


@settings(max_examples=5, deadline=None)
@example(rates=[5.0], order="Balanced", memory=100, target=None, seed=0)
@given(
    rates=st.lists(st.floats(5, 600), min_size=1, max_size=3),
    order=st.sampled_from(get_args(QueueOrder)),
    memory=st.sampled_from([0, 100, 250]),
    target=st.sampled_from([None, 0.05, 0.2]),
    seed=st.integers(0, 1000),
)
def test_any_simulated_load_is_decided_again_in_the_same_way(
    tmp_path_factory: pytest.TempPathFactory,
    rates: list[float],
    order: QueueOrder,
    memory: int,
    target: float | None,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    device = SimulatedDevice(
        seconds=lambda _model, rows, _now: 0.010 + 0.002 * rows, memory_bytes=memory, load_s=0.02, load_bytes=100
    )
    tuning = TuningConfig(latency_s=target)
    configs = [ModelConfig(name=f"m{number}", tuning=tuning, load_bytes=100) for number in range(len(rates))]
    simulation = Simulation(configs, [device], order)
    log = DispatchLog(path, 40_000, lambda: 0.0)
    scheduler = recorder(log, lambda: 0.0, order)
    for name, value in state_of(simulation.scheduler).items():
        setattr(scheduler, name, value)
    scheduler.__post_init__()  # what it is made of by now
    simulation.scheduler = scheduler
    load = sorted(
        arrival
        for number, rate in enumerate(rates)
        for arrival in poisson(rate, 1.5, random.Random(seed + number), f"m{number}")
    )
    simulation.run(load, 2.0)
    log.close()
    names = ("log", "log.1") if path.with_name("log.1").exists() else ("log",)
    assert all(replayed(path.with_name(name)).difference is None for name in names)


def test_another_decision_is_named_with_its_line(story: Path) -> None:
    lines = story.read_bytes().splitlines(keepends=True)
    number = next(number for number, line in enumerate(lines) if b'"RunBatch"' in line and b'"rows":3' in line)
    changed = lines[number].replace(b'"rows":3', b'"rows":2', 1)
    difference = replay([*lines[:number], changed, *lines[number + 1 :]]).difference
    assert difference is not None
    assert (difference.line, difference.call) == (number + 1, "next")
    assert difference.logged != difference.now


def test_a_forgotten_event_shows_at_a_decision_that_it_changes(story: Path, tmp_path: Path) -> None:
    lines = story.read_bytes().splitlines(keepends=True)
    number = next(number for number, line in enumerate(lines) if b'"call":"offer"' in line and b'"gave":5' in line)
    found = replay(lines[:number] + lines[number + 1 :])
    assert found.difference is not None
    assert found.difference.line == number + 1 or found.difference.call == "offer"


def test_a_log_that_was_cut_off_is_replayed_up_to_there(story: Path) -> None:
    lines = story.read_bytes()[:-10].splitlines(keepends=True)
    found = replay(lines)
    assert found.difference is None
    assert found.calls == len(lines) - 2


def test_every_public_method_of_the_scheduler_is_logged_or_only_reads() -> None:
    public = {name for name in dir(Scheduler) if not name.startswith("_") and callable(getattr(Scheduler, name))}
    assert public == {*CALLS, *READS}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no head of a dispatch log"),
        (b"{}\n", "no head of a dispatch log"),
        (b'{"dispatch_log":99,"version":"9.9","t":0,"wall":0,"state":""}\n', "replay it with batchwright 9.9"),
        (b'{"dispatch_log":2,"version":"9.9","t":0,"wall":0,"state":"AAAA"}\n', "state cannot be read"),
    ],
)
def test_what_is_no_log_of_this_version_is_refused_in_words(content: bytes, words: str) -> None:
    with pytest.raises(BadLineError, match=words):
        replay(content.splitlines(keepends=True))


@pytest.mark.parametrize(
    "line", [b'{"t":0,"call":"__init__"}\n', b'{"t":0,"call":"offer","args":[3]}\n', b"nonsense\n"]
)
def test_a_line_that_is_no_event_is_named(story: Path, line: bytes) -> None:
    head = story.read_bytes().splitlines(keepends=True)[0]
    with pytest.raises(BadLineError, match="line 2: "):
        replay([head, line])


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo pwned",)


def test_a_log_cannot_make_its_reader_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchwright_worker.dispatch_log.calls.state_of", lambda _scheduler: {"models": Hostile()})
    recorded_story(tmp_path / "log", LARGE)
    monkeypatch.undo()
    with pytest.raises(BadLineError, match="has no place in a dispatch log"):
        replayed(tmp_path / "log")
    assert pickle.dumps(Hostile())


def test_a_disk_that_refuses_ends_the_log_and_not_the_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert recorded_story(tmp_path / "file" / "log", LARGE) > 100
    assert caplog.text.count("dispatch log") == 1


def test_without_a_log_the_scheduler_is_the_plain_one() -> None:
    assert RecordedScheduler.offer is not Scheduler.offer
    assert Scheduler.__mro__[0] is Scheduler

    async def scenario() -> None:
        engine = engine_of([model()], FakeDevice())
        assert type(engine.scheduler) is Scheduler

    run(scenario())
