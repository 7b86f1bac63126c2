"""Results of two models, two versions of code or two inputs never end in one data set; what is not ours is not
touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.steps.commit import committed
from batchwright_worker.runner.steps.model_pins import PinnedModel, pinned_models
from batchwright_worker.runner.steps.plan import make_plan
from tests.runner.bench import Bench, cpu, model
from tests.runner.serving_rig import REPLICAS, Names, deployment, replica

MakeBench = Callable[..., Bench]
TASKS = (
    cpu("row", "sample_functions:one_row"),
    model("m", "emu", "m", "row"),
    cpu("b", "sample_functions:best_one", "m"),
)


def other_model() -> dict[str, Any]:
    """Of the same name, made of something else."""
    changed = deployment()
    changed["spec"]["models"][0]["artifacts"][0]["emulated"]["perRowMicroseconds"] = 99
    return changed


async def test_a_model_that_was_replaced_between_two_shards_is_refused(bench: MakeBench) -> None:
    job = bench(*TASKS, shard_size=2)
    job.write_records([{"v": v} for v in range(4)])
    make_plan(job.job())
    async with replica(deployment()) as here:
        job.endpoints = {"emu": f"{here.host}:{here.http}"}
        await job.run_shard(0)
    async with replica(other_model()) as here:
        job.endpoints = {"emu": f"{here.host}:{here.http}"}
        with pytest.raises(StepFailed, match=r"model emu/m on batchwright\.dev/emulated has digest") as caught:
            await job.run_shard(1)
    assert (caught.value.reason, caught.value.permanent) == ("ModelChanged", True)
    assert list(job.parts()) == ["part-00000.jsonl"]


async def test_a_replica_with_another_model_that_joins_later_gets_no_row(bench: MakeBench, names: Names) -> None:
    job = bench(*TASKS)
    job.write_records([{"v": v} for v in range(200)])
    make_plan(job.job())
    async with replica(deployment()) as first, replica(other_model(), host="127.0.0.2", port=first.http):
        names.addresses = [first.host, "127.0.0.2"]
        job.endpoints = {"emu": f"{REPLICAS}:{first.http}"}
        with pytest.raises(StepFailed) as caught:
            await job.run_shard(0)
    assert caught.value.reason == "ModelChanged"
    assert not job.parts()


async def test_the_output_says_which_models_made_it(bench: MakeBench) -> None:
    job = bench(*TASKS)
    job.write_records([{"v": 1}])
    async with replica(deployment()) as here:
        job.endpoints = {"emu": f"{here.host}:{here.http}"}
        done = await job.run_all()
    (pin,) = pinned_models(job.job().output())
    assert pin == PinnedModel(deployment="emu", model="m", accelerator="batchwright.dev/emulated", digest=pin.digest)
    assert len(pin.digest) == 64
    assert done.manifest.models == [pin]


DOUBLE = cpu("a", "sample_functions:double")


def refusal(job: Bench) -> StepFailed:
    """What the next run of this job is told before anything runs."""
    with pytest.raises(StepFailed) as caught:
        committed(job.job()) or make_plan(job.job())
    return caught.value


@pytest.fixture
async def whole(bench: MakeBench) -> Bench:
    """A job of four items in two shards, complete."""
    job = bench(DOUBLE, shard_size=2)
    job.write_records([{"v": v} for v in range(4)])
    await job.run_all()
    return job


async def test_a_complete_output_is_not_made_again(whole: Bench) -> None:
    found = committed(whole.job())
    assert found is not None
    assert found.manifest.items == 4


async def test_a_file_that_has_grown_since_is_another_input(whole: Bench) -> None:
    with (whole.input / "data.jsonl").open("a") as file:
        file.write('{"v": 4}\n')
    error = refusal(whole)
    assert error.reason == "InputChanged"
    assert "data.jsonl (changed)" in str(error)
    assert "--overwrite" in str(error)


async def test_an_edit_of_the_same_size_is_another_input(whole: Bench) -> None:
    path = whole.input / "data.jsonl"
    path.write_text(path.read_text().replace("3", "7"))
    assert refusal(whole).reason == "InputChanged"


async def test_new_and_lost_files_are_another_input(whole: Bench) -> None:
    whole.write_records([{"v": 9}], "more.jsonl")
    assert "more.jsonl (new)" in str(refusal(whole))
    (whole.input / "more.jsonl").unlink()
    (whole.input / "data.jsonl").unlink()
    assert "data.jsonl (gone)" in str(refusal(whole))


async def test_a_file_that_was_only_touched_is_the_same_input(bench: MakeBench) -> None:
    job = bench(DOUBLE, shard_size=2)
    job.write_records([{"v": v} for v in range(4)])
    make_plan(job.job())
    await job.run_shard(0)
    os.utime(job.input / "data.jsonl", (1, 1))
    await job.run_shard(1)  # as in a pod, without a new plan
    os.utime(job.input / "data.jsonl", (2, 2))
    await job.run_all()
    assert committed(job.job()) is not None


async def test_other_input_replaces_the_results_when_the_job_says_so(whole: Bench) -> None:
    whole.write_records([{"v": 5}])
    whole.output_more = {"mode": "Overwrite"}
    await whole.run_all()
    assert [record["a"] for record in whole.records()] == [10]
    assert list(whole.parts()) == ["part-00000.jsonl"]


async def test_overwriting_the_same_results_changes_nothing(whole: Bench) -> None:
    before = whole.parts()
    whole.output_more = {"mode": "Overwrite"}
    make_plan(whole.job())
    assert whole.parts() == before
    assert committed(whole.job()) is not None


@pytest.mark.parametrize("mode", ["New", "Overwrite"])
@pytest.mark.parametrize("name", ["part-00000.jsonl", "part-00007.jsonl", "notes.txt", "old/data.csv"])
def test_files_of_others_are_in_the_way_and_stay(bench: MakeBench, name: str, mode: str) -> None:
    job = bench(DOUBLE, output_more={"mode": mode})
    job.write_records([{"v": 1}])
    theirs = job.output / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text('{"old":1}\n')
    error = refusal(job)
    assert (error.reason, name.split("/", maxsplit=1)[0] in str(error)) == ("OutputInUse", True)
    assert theirs.read_text() == '{"old":1}\n'
    assert [path.name for path in job.output.iterdir()] == [name.split("/", maxsplit=1)[0]]


async def test_a_part_that_somebody_else_puts_there_meanwhile_stays(bench: MakeBench) -> None:
    job = bench(DOUBLE, shard_size=2)
    job.write_records([{"v": v} for v in range(4)])
    make_plan(job.job())
    (job.output / "part-00001.jsonl").write_text("theirs")
    with pytest.raises(StepFailed, match="was not made by this job") as caught:
        await job.run_shard(1)
    assert caught.value.reason == "OutputInUse"
    assert (job.output / "part-00001.jsonl").read_text() == "theirs"


async def test_a_folder_with_hidden_files_alone_is_free(bench: MakeBench) -> None:
    job = bench(DOUBLE)
    job.write_records([{"v": 1}])
    (job.output / "lost+found").mkdir(parents=True)
    (job.output / ".keep").touch()
    await job.run_all()
    assert (job.output / ".keep").exists()


def code_job(bench: MakeBench, tmp_path: Path, name: str) -> tuple[Bench, Path]:
    """A job whose function takes its factor from a module beside it."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / f"{name}.py").write_text(f"import {name}_factor\ndef f(inputs): return {name}_factor.N\n")
    factor = folder / f"{name}_factor.py"
    factor.write_text("N = 1\n")
    job = bench(cpu("a", f"{name}:f"), shard_size=1, folders=[folder])
    job.write_records([{"v": 1}, {"v": 2}])
    return job, factor


async def test_a_module_that_a_function_imports_belongs_to_its_code(bench: MakeBench, tmp_path: Path) -> None:
    job, factor = code_job(bench, tmp_path, "code_of_two_shards")
    make_plan(job.job())
    await job.run_shard(0)
    factor.write_text("N = 2\n")
    with pytest.raises(StepFailed, match="the code of task a changed") as caught:
        await job.run_shard(1)
    assert (caught.value.reason, caught.value.permanent) == ("CodeChanged", True)
    assert refusal(job).reason == "CodeChanged"
    job.output_more = {"mode": "Overwrite"}
    make_plan(job.job())
    assert not job.parts()


async def test_code_may_change_as_long_as_no_part_stands(bench: MakeBench, tmp_path: Path) -> None:
    job, factor = code_job(bench, tmp_path, "code_without_parts")
    make_plan(job.job())
    factor.write_text("N = 3\n")
    await job.run_all()
    assert [record["a"] for record in job.records()] == [3, 3]


async def test_a_file_that_an_argument_names_belongs_to_the_code(bench: MakeBench, tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nword\n")
    job = bench(cpu("a", "tokenize", vocabulary=str(vocabulary)), input_format="text")
    job.input.mkdir()
    (job.input / "a.txt").write_text("word\n")
    await job.run_all()
    assert list(json.loads((job.output / "_manifest.json").read_text())["code"]["files"]) == [str(vocabulary)]
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nother\n")
    error = refusal(job)
    assert error.reason == "CodeChanged"
    assert str(vocabulary) in str(error)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (cpu("a", "json-fields", feilds=["v"]), "args may have fields, of, single, default"),
        (cpu("a", "tokenize"), "wants exactly one of args vocabulary, tokenizer"),
        (cpu("a", "tokenize", vocabulary="nowhere.txt"), "is no file here"),
        (cpu("a", "sample_functions:unlucky"), "missing a required argument: 'number'"),
        (cpu("a", "sample_functions:double", factor=3), "unexpected keyword argument 'factor'"),
    ],
)
def test_arguments_are_bound_before_the_first_item(bench: MakeBench, task: dict[str, Any], words: str) -> None:
    job = bench(task)
    job.write_records([{"v": 1}])
    error = refusal(job)
    assert error.reason == "InvalidTask"
    assert words in str(error)


async def test_a_job_whose_items_mostly_fail_ends_early(bench: MakeBench) -> None:
    job = bench(DOUBLE, shard_size=1000)
    job.write_records([{"w": v} for v in range(1000)])
    make_plan(job.job())
    with pytest.raises(StepFailed, match=r"100 of 100 items failed, more than half: mend the cause") as caught:
        await job.run_shard(0)
    assert caught.value.reason == "TooManyFailedItems"
    job.write_records([{"v": v} for v in range(1000)])
    await job.run_all()  # nothing is in the way of the mended one


async def test_as_many_may_fail_as_the_manifest_says(bench: MakeBench) -> None:
    job = bench(DOUBLE, shard_size=1000, more={"maxFailedItems": 150})
    job.write_records([{"w": v} for v in range(150)])
    assert (await job.run_all()).manifest.failed == 150
