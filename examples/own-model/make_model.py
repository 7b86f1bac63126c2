"""Writes scorer.onnx, a model to follow the tutorial with: four numbers in, the weighted sum and its sigmoid out."""

from __future__ import annotations

from pathlib import Path

import onnx

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
scorer (float[N, 4] features) => (float[N, 1] score)
<float[4, 1] weights = {0.5, -0.25, 1.0, 2.0}>
{
  sum = MatMul(features, weights)
  score = Sigmoid(sum)
}
"""

model = onnx.parser.parse_model(TEXT)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, Path(__file__).with_name("scorer.onnx"))
