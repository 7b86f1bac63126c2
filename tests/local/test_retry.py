"""`run --retry-failed`."""

from __future__ import annotations

from tests.local.conftest import MakeWorld


def test_failed_items_of_a_complete_output_are_run_again(world: MakeWorld) -> None:
    made = world(10)
    flag = made.folder / "mended"
    (made.folder / "code_of_retry.py").write_text(
        "from pathlib import Path\n"
        "def v(inputs):\n"
        "    value = inputs['item']['data']['v']\n"
        f"    if value in (2, 7) and not Path({str(flag)!r}).exists():\n"
        "        raise ConnectionError('try later')\n"
        "    return value\n"
    )
    made.spec["tasks"] = [{"name": "v", "cpu": {"function": "code_of_retry:v"}}]
    assert made.run("--retry-failed")[1]["reason"] == "OutputIncomplete"
    status, told = made.run()
    assert (status, told["failed"]) == (3, 2)
    assert [reason["items"] for reason in told["failureReasons"]] == [2]
    status, told = made.run("--retry-failed")
    assert (status, told["retried"]) == (3, {"items": 2, "succeeded": 0})
    flag.touch()
    status, told = made.run("--retry-failed")
    assert (status, told["succeeded"], told["failed"], told["retried"]) == (0, 10, 0, {"items": 2, "succeeded": 2})
    assert made.values() == list(range(10))
    assert made.run("--retry-failed")[0] == 0
    assert "complete already" in made.text()[1]
