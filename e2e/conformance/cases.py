"""The cases of `onnx.backend.test`: a model, inputs, and what onnxruntime alone answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

_RUNS: Final = 4
"""The first two answers of some random operators are the same."""
KINDS: Final = ("node", "simple", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model that onnxruntime runs with these inputs. Values that are no array are sequences or optionals.
    `chance`: another answer each time."""

    name: str
    model: bytes
    inputs: dict[str, Any]
    wanted: dict[str, Any]
    chance: bool = False

    @property
    def of_tensors(self) -> bool:
        """Are all inputs and outputs plain tensors?"""
        return all(isinstance(each, np.ndarray) for each in (*self.inputs.values(), *self.wanted.values()))


def cases(kinds: Sequence[str] = KINDS, only: Sequence[str] = ()) -> Iterator[Case]:
    """All that onnxruntime runs, once for each set of data; `only`: those whose names begin with one of these."""
    from onnx.backend.test.loader import load_model_tests

    for kind in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = load_model_tests(kind=kind)
        for test in sorted(found, key=lambda each: each.name):
            if only and not test.name.startswith(tuple(only)):
                continue
            model = test.model if test.model is not None else onnx.load(Path(test.model_dir) / "model.onnx")
            for number, values in enumerate(_data_sets(test)):
                case = _run(f"{test.name}#{number}", model, values)
                if case is not None:
                    yield case


def _data_sets(test: Any) -> Iterator[list[Any]]:
    """The inputs of each set, in the graph's order."""
    if test.data_sets is not None:
        for inputs, _ in test.data_sets:
            yield list(inputs)
        return
    for folder in sorted(Path(test.model_dir).glob("test_data_set_*")):
        count = len(list(folder.glob("input_*.pb")))
        yield [_tensor(folder / f"input_{number}.pb") for number in range(count)]


def _tensor(path: Path) -> Any:
    proto = TensorProto()
    try:
        proto.ParseFromString(path.read_bytes())
        return numpy_helper.to_array(proto)
    except Exception:
        return None  # a sequence or an optional


def _run(name: str, model: Any, values: list[Any]) -> Case | None:
    """None where onnxruntime does not run it."""
    content = model.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [one.name for one in model.graph.input]
        given = dict(zip(names, map(_plain, values), strict=False))
        feeds = {one.name: given[one.name] for one in session.get_inputs()}
        answers = [session.run(None, feeds) for _ in range(_RUNS)]
    except Exception:
        return None
    gives = [one.name for one in session.get_outputs()]
    wanted = dict(zip(gives, answers[0], strict=True))
    chance = any(not same(one, other) for again in answers[1:] for one, other in zip(answers[0], again, strict=True))
    return Case(name=name, model=content, inputs=feeds, wanted=wanted, chance=chance)


def _plain(value: Any) -> Any:
    """As onnxruntime takes it."""
    if isinstance(value, TensorProto):
        value = numpy_helper.to_array(value)
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "SU":
        return value.astype(object)
    return value


def same(one: Any, other: Any) -> bool:
    """Equal types and shapes, and values up to the last digits."""
    if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)):
        return repr(one) == repr(other)
    return _form(one) == _form(other) and _close(one, other)


def _form(array: NDArray[Any]) -> tuple[str, tuple[int, ...]]:
    return "text" if array.dtype.kind in "OSU" else array.dtype.name, array.shape


def same_form(one: Any, other: Any) -> bool:
    """Equal types and shapes."""
    return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and _form(one) == _form(other)


def _close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.dtype.kind in "OSU":
        return list(map(_text, one.reshape(-1))) == list(map(_text, other.reshape(-1)))
    if one.dtype.kind in "fcV":
        first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
        tolerance = 1e-5 if one.dtype.itemsize >= 4 else 1e-3
        return bool(np.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(np.array_equal(one, other))


def _text(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
