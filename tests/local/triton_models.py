"""Models as they lie in a Triton model repository."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper, save

from tests.protocol.serving import linear_onnx

PYTHON = '''
import json
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Sum and difference, as in Triton's own examples."""

    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        self.version = args["model_version"]
        wanted = pb_utils.get_output_config_by_name(self.config, "OUTPUT0")
        self.dtype = pb_utils.triton_string_to_numpy(wanted["data_type"])
        self.scale = float(self.config["parameters"]["scale"]["string_value"])
        assert self.config["max_batch_size"] == 8 and wanted["dims"] == [4]

    def execute(self, requests):
        responses = []
        for request in requests:
            a = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            b = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            if (a == 13).any():
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("thirteen is not liked")))
                continue
            total, difference = (a + b) * self.scale, a - b
            responses.append(pb_utils.InferenceResponse(output_tensors=[
                pb_utils.Tensor("OUTPUT0", total.astype(self.dtype)),
                pb_utils.Tensor("OUTPUT1", difference.astype(self.dtype)),
            ]))
        return responses

    def finalize(self):
        pb_utils.Logger.log_info("gone")
'''
PYTHON_CONFIG = """
name: "add_sub"
backend: "python"
max_batch_size: 8
input [
  { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] },
  { name: "INPUT1" data_type: TYPE_FP32 dims: [ 4 ] }
]
output [
  { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] },
  { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 4 ] }
]
dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 2500 priority_levels: 2
                   default_priority_level: 2 default_queue_policy { max_queue_size: 100 } }
instance_group [ { count: 2 kind: KIND_CPU } ]
parameters { key: "scale" value { string_value: "2" } }
model_warmup [ { name: "zeros" batch_size: 1
  inputs { key: "INPUT0" value { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } }
  inputs { key: "INPUT1" value { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } } } ]
"""
LINEAR_CONFIG = """
platform: "onnxruntime_onnx"
max_batch_size: 16
input { name: "x" data_type: TYPE_FP32 dims: 16 }
output { name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "labels.txt" }
dynamic_batching { }
"""
PICTURE_CONFIG = """
platform: "onnxruntime_onnx"
input { name: "p" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 2, 2 ] }
output { name: "q" data_type: TYPE_FP32 dims: [ 3, 2, 2 ] }
"""


def doubling_onnx(path: Path) -> None:
    """q = p + p, [3, 2, 2]: no dimension is a batch."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 2, 2]) for name in ("p", "q")]
    graph = helper.make_graph([helper.make_node("Add", ["p", "p"], ["q"])], "double", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def made(folder: Path, model: str, config: str | None, *versions: str) -> Path:
    """The folder of a model; the folders of its versions are empty."""
    for version in versions:
        (folder / model / version).mkdir(parents=True)
    if config is not None:
        (folder / model / "config.pbtxt").write_text(config)
    return folder / model


def model_repository(folder: Path) -> Path:
    """A Python model, two ONNX models with a configuration (one in two versions, the newer one bigger), one without."""
    (made(folder, "add_sub", PYTHON_CONFIG, "1") / "1" / "model.py").write_text(PYTHON)
    linear = made(folder, "linear", LINEAR_CONFIG, "1", "3")
    (linear / "1" / "model.onnx").write_text("an older one, which nobody loads")
    linear_onnx(linear / "3" / "model.onnx")
    (linear / "labels.txt").write_text("cat\ndog\nowl\nfox\n")
    doubling_onnx(made(folder, "picture", PICTURE_CONFIG, "1") / "1" / "model.onnx")
    linear_onnx(made(folder, "plain", None, "1") / "1" / "model.onnx")
    return folder
