"""Functions of the tests' jobs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from batchwright_worker.runner.cpu.functions import produces


def double(inputs: Mapping[str, Any]) -> int:
    return int(inputs["item"]["data"]["v"]) * 2


def same(inputs: Mapping[str, Any]) -> Any:
    return inputs["item"]["data"]


def odd_values(inputs: Mapping[str, Any]) -> Any:
    """Of types that have none in common."""
    nan, time_of = float("nan"), np.datetime64("2020-01-01T00:00:00.123456789")
    values = (time_of, nan, {"a": [float("inf")]}, "text", np.datetime64("2020-01-01T00:00:00.000000001"), [1, nan])
    return values[int(inputs["item"]["data"]["v"])]


def masked(inputs: Mapping[str, Any]) -> Any:
    return np.ma.array([1, 2], mask=[False, True])


def masked_batch(inputs: Mapping[str, Any]) -> Any:
    count = len(inputs["item"]["id"])
    return np.ma.array(np.tile(np.float32([1, 2]), (count, 1)), mask=[[True, False]] * count)


def nested(inputs: Mapping[str, Any]) -> Any:
    """As deep as the record's v says."""
    value: Any = 1
    for _ in range(int(inputs["item"]["data"]["v"])):
        value = [value]
    return value


def long_double(inputs: Mapping[str, Any]) -> Any:
    value = int(inputs["item"]["data"]["v"])
    return np.longdouble(value) if value else 0.5


def complex_column(inputs: Mapping[str, Any]) -> Any:
    value = int(inputs["item"]["data"]["v"])
    return np.array([value + 1j]) if value else 0.5


def times(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """So many nanoseconds, as numpy has them."""
    value = int(inputs["item"]["data"]["v"])
    return {
        "at": np.datetime64(value, "ns"),
        "many": np.array([value], "M8[ns]"),
        "took": np.timedelta64(value, "ns"),
        "day": np.datetime64(value, "D"),
    }


def unlucky(inputs: Mapping[str, Any], number: int) -> int:
    value = int(inputs["item"]["data"]["v"])
    if value == number:
        raise ValueError(f"{value} is unlucky")
    return value


def members(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Of a sample of a tar file: pictures as their first byte, arrays as lists."""
    found = {name: value for name, value in inputs["item"]["data"].items() if name != "__key__"}
    return {
        name: value[0] if isinstance(value, bytes) else value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in found.items()
    }


def sleeps_at(inputs: Mapping[str, Any], numbers: list[int]) -> int:
    value = int(inputs["item"]["data"]["v"])
    if value in numbers:
        time.sleep(60)
    return value


def sleeps_at_in_batch(inputs: Mapping[str, Any], numbers: list[int]) -> Any:
    values = [int(value) for value in inputs["item"]["data"]["v"]]
    if set(values) & set(numbers):
        time.sleep(60)
    return values


def needs_a_file(inputs: Mapping[str, Any], numbers: list[int], path: str, *, fraction: bool = False) -> float:
    """Fails at these numbers as long as there is no file, or the file names others."""
    value = int(inputs["item"]["data"]["v"])
    if value in numbers:
        named = Path(path).read_text().split() if Path(path).exists() else ["none"]
        if named and str(value) not in named:
            raise ValueError(f"{value} is not mended")
        return value + 0.5 if fraction else value
    return value


def unlucky_best(inputs: Mapping[str, Any], number: int) -> int:
    (row,) = inputs.values()
    if int(row["argmax"]) == number:
        raise ValueError(f"{number} is unlucky")
    return int(row["argmax"])


def fragile(inputs: Mapping[str, Any], number: int, once: str = "") -> int:
    """Kills its process at one number; with `once` only as long as that file does not exist."""
    value = int(inputs["item"]["data"]["v"])
    if value == number and not (once and Path(once).exists()):
        if once:
            Path(once).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def add(inputs: Mapping[str, Any], number: int = 1) -> dict[str, Any]:
    return {"sum": sum(inputs.values()) + number}


def identity(inputs: Mapping[str, Any]) -> Any:
    return inputs["item"]["data"]


def unwritable(inputs: Mapping[str, Any]) -> Any:
    return {"value": object}


def array_sum(inputs: Mapping[str, Any]) -> Any:
    data = inputs["item"]["data"]
    return {"total": float(np.sum(data)), "shape": list(data.shape), "array": data[:2]}


@produces(x=("FP32", (-1,)))
def rows(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As many rows as `n` says; the argmax of row i is (v + i) % 8. Widths differ: 8 or 16."""
    record = inputs["item"]["data"]
    made = []
    for index in range(int(record["n"])):
        row = np.zeros(8 if (record["v"] + index) % 3 else 16, np.float32)
        row[(record["v"] + index) % 8] = 1.0
        made.append({"x": row, "stays": "behind"})
    return made


def one_row(inputs: Mapping[str, Any], dtype: str = "float32") -> dict[str, Any]:
    row = np.zeros(8, dtype)
    row[int(inputs["item"]["data"]["v"]) % 8] = 1
    return {"x": row}


def row_when_there(inputs: Mapping[str, Any], path: str, number: int) -> dict[str, Any]:
    """As `one_row`; of item `number` as soon as somebody has made this file."""
    if int(inputs["item"]["data"]["v"]) == number:
        when_there(inputs, path)
    return one_row(inputs)


def best(inputs: Mapping[str, Any]) -> list[int]:
    (result,) = inputs.values()
    return [int(row["argmax"]) for row in result]


def best_one(inputs: Mapping[str, Any]) -> int:
    (row,) = inputs.values()
    return int(row["argmax"])


@produces(x=("INT64", (8,)))
def declared_wrong(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"x": np.zeros(8, np.int64)}


def scaled_row(inputs: Mapping[str, Any]) -> dict[str, Any]:
    value = int(inputs["item"]["data"]["v"])
    return {"x": np.arange(8, dtype=np.float32) + value, "k": np.float32([value % 3])}


def vector(inputs: Mapping[str, Any]) -> Any:
    return np.float32(inputs["item"]["data"]["x"])


def as_float(inputs: Mapping[str, Any]) -> float:
    return float(inputs["item"]["data"]["x"])


def as_array(inputs: Mapping[str, Any]) -> Any:
    return np.array([float(inputs["item"]["data"]["x"])])


def nothing(inputs: Mapping[str, Any]) -> None:
    return None


def when_there(inputs: Mapping[str, Any], path: str) -> int:
    """The item's number, as soon as somebody has made this file."""
    while not Path(path).exists():
        time.sleep(0.01)
    return int(inputs["item"]["data"]["v"])


def batch_sums(inputs: Mapping[str, Any], bad: int = -1) -> dict[str, Any]:
    """Of a batch: each number twice, and how many items came together; raises for a batch that has `bad` in it."""
    values = inputs["item"]["data"]["v"]
    if bad in values:
        raise ValueError(f"{bad} is in it")
    return {"double": np.asarray(values, np.int64) * 2, "together": [len(values)] * len(values)}


def batch_halves(inputs: Mapping[str, Any]) -> Any:
    """Takes what a batch function made; gives one value too few for a batch that has 14 in it and others."""
    doubles = inputs["sums"]["double"]
    return doubles[:-1] if len(doubles) > 1 and 14 in doubles else doubles / 2


def total(inputs: Mapping[str, Any]) -> int:
    """Of one item of `batch_sums`."""
    return int(inputs["sums"]["double"])


class Counting:
    """Writes a line for each object that is made; its calls tell how many there were before."""

    def __init__(self, path: str, first: int = 0) -> None:
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()}\n")
        self._calls = first

    def __call__(self, inputs: Mapping[str, Any]) -> int:
        self._calls += 1
        return self._calls


class Unmakeable:
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no model here")

    def __call__(self, inputs: Mapping[str, Any]) -> int:
        return 0
