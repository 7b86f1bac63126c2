"""Which files a model file names, and which file of a folder is the model."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, external_data_helper, helper, load, numpy_helper, save

from batchwright_worker.artifacts.companions import companions
from batchwright_worker.artifacts.digest import digest_of
from batchwright_worker.artifacts.entry import entry_of
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.artifacts.onnx_weights import external_locations

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


def outside(name: str, location: str) -> TensorProto:
    """A tensor whose values are in another file."""
    tensor = numpy_helper.from_array(np.arange(4, dtype=np.float32), name)
    external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def value(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])


def branch(location: str) -> Any:
    constant = helper.make_node("Constant", [], ["c"], value=outside("c", location))
    return helper.make_graph([constant], "branch", [], [value("c")])


def model_with(*locations: str) -> ModelProto:
    """Locations in initializers, in a constant's attribute, in both branches of an If, and in a function."""
    first, second, third, fourth, fifth = locations
    inner = helper.make_node("Constant", [], ["y"], value=outside("y", fifth))
    function = helper.make_function("own", "Outside", [], ["y"], [inner], OPSETS)
    nodes = [
        helper.make_node("Constant", [], ["k"], value=outside("k", second)),
        helper.make_node("If", ["x"], ["z"], then_branch=branch(third), else_branch=branch(fourth)),
    ]
    inside = numpy_helper.from_array(np.ones(1000, np.float32), "inside")
    graph = helper.make_graph(nodes, "g", [value("x")], [value("z")], [outside("w", first), inside])
    return helper.make_model(graph, opset_imports=OPSETS, functions=[function])


def by_the_package(model: ModelProto) -> set[str]:
    """What `onnx` itself finds."""
    return {
        external_data_helper.ExternalDataInfo(tensor).location
        for tensor in external_data_helper._get_all_tensors(model)
        if external_data_helper.uses_external_data(tensor)
    }


def test_every_place_where_a_model_may_keep_a_tensor(tmp_path: Path) -> None:
    names = ["w.bin", "sub/k.bin", "then.bin", "else.bin", "function.bin"]
    (tmp_path / "m.onnx").write_bytes(model_with(*names).SerializeToString())
    found = external_locations(tmp_path / "m.onnx")
    assert sorted(found) == sorted(names)
    package = by_the_package(load(str(tmp_path / "m.onnx"), load_external_data=False))
    assert package == set(found)


def test_the_package_s_own_way_of_saving_external_data(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [weights],
    )
    save(helper.make_model(graph), tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data")
    assert companions("onnx", tmp_path / "m.onnx") == ["m.onnx.data"]


def test_numbers_of_the_wire_are_those_of_onnx() -> None:
    fields = AttributeProto.DESCRIPTOR.fields_by_name
    assert {name: fields[name].number for name in ("t", "g", "tensors", "graphs", "sparse_tensor")} == {
        "t": 5,
        "g": 6,
        "tensors": 10,
        "graphs": 11,
        "sparse_tensor": 22,
    }
    assert TensorProto.DESCRIPTOR.fields_by_name["external_data"].number == 13
    assert TensorProto.DESCRIPTOR.fields_by_name["data_location"].number == 14
    assert ModelProto.DESCRIPTOR.fields_by_name["functions"].number == 25


@given(st.binary(max_size=200))
def test_any_bytes_end(data: bytes) -> None:
    with NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        external_locations(Path(file.name))


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", "a/../../w.bin", "m.onnx"])
def test_locations_that_leave_the_folder_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model_with(location, *"abcd").SerializeToString())
    with pytest.raises(ArtifactError, match=r"m\.onnx names"):
        companions("onnx", tmp_path / "m.onnx")


def test_shards_of_a_safetensors_index(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(
        json.dumps({"metadata": {}, "weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}})
    )
    assert companions("safetensors", path) == ["1.safetensors", "2.safetensors"]
    path.write_text(json.dumps({"weight_map": {"a": "../secret"}}))
    with pytest.raises(ArtifactError, match="without"):
        companions("safetensors", path)
    path.write_text("[]")
    with pytest.raises(ArtifactError, match="weight_map"):
        companions("safetensors", path)


def test_the_digest_of_a_model_covers_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model_with(*"abcde").SerializeToString())
    for name in "abcde":
        (tmp_path / name).write_text(name)
    (tmp_path / "other").write_text("not of the model")
    whole = digest_of(tmp_path / "m.onnx", "onnx")
    (tmp_path / "other").write_text("changed")
    assert digest_of(tmp_path / "m.onnx", "onnx") == whole
    (tmp_path / "c").write_text("changed")
    assert digest_of(tmp_path / "m.onnx", "onnx") != whole


ENTRIES = {
    "the format's own name": ("onnx", ["model.onnx", "other.onnx", "README.md"], "model.onnx"),
    "the only one of its suffix": ("onnx", ["net.onnx", "net.onnx.data", "tokenizer.json"], "net.onnx"),
    "a whole safetensors file": ("safetensors", ["model.safetensors", "tokenizer.json"], "model.safetensors"),
    "where the hub has it": ("onnx", ["onnx/model.onnx", "onnx/model_O4.onnx", "tokenizer.json"], "onnx/model.onnx"),
    "the folder's own first": ("onnx", ["onnx/model.onnx", "net.onnx"], "net.onnx"),
    "shards by their index": (
        "safetensors",
        ["model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"],
        "model.safetensors.index.json",
    ),
    "a torch program": ("torch-export", ["net.pt2"], "net.pt2"),
    "a python model gets the folder": ("python", ["model.py", "vocab.txt"], "."),
    "several": ("onnx", ["a.onnx", "b.onnx"], ArtifactError("several .onnx files")),
    "none": ("onnx", ["a.pt", "b", "c", "d", "e", "f"], ArtifactError("there are: a.pt, b, c, d, e and 1 more")),
    "below": ("onnx", ["onnx/decoder.onnx", "a.txt"], ArtifactError("there are: a.txt, onnx/; write the uri of one")),
    "nothing": ("torchscript", [], ArtifactError("there are: none")),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_the_model_of_a_folder(case: str, tmp_path: Path) -> None:
    format_, names, wanted = ENTRIES[case]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if isinstance(wanted, ArtifactError):
        with pytest.raises(ArtifactError, match=str(wanted)):
            entry_of(format_, tmp_path)
    else:
        assert entry_of(format_, tmp_path) == tmp_path / wanted


def test_a_file_is_its_own_entry(tmp_path: Path) -> None:
    assert entry_of("onnx", tmp_path / "whatever.bin") == tmp_path / "whatever.bin"
