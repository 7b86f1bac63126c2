"""Telling cases of onnx.backend.test through `serve`, each answered as onnxruntime alone answers it. The whole set:
`python -m e2e.conformance onnx`."""

from __future__ import annotations

import pytest

from e2e.conformance.cases import cases
from e2e.conformance.report import table
from e2e.conformance.run import outcomes_of

ANSWERED = (
    "test_add", "test_argmax_no_keepdims_random", "test_argmax_default_axis_example", "test_concat_2d_axis_0",
    "test_concat_2d_axis_1", "test_cumsum_1d", "test_cumsum_2d_axis_0", "test_einsum_transpose",
    "test_flatten_axis0", "test_gather_0", "test_layer_normalization_2d_axis0", "test_lstm_defaults",
    "test_matmul_3d", "test_nonzero_example", "test_reduce_mean_keepdims_random",
    "test_reduce_sum_default_axes_keepdims_example", "test_reshape_reordered_all_dims",
    "test_scatter_elements_with_axis", "test_shape", "test_size_example", "test_softmax_axis_0",
    "test_split_equal_parts_1d_opset13", "test_string_concat", "test_strnormalizer_nostopwords_nochangecase",
    "test_top_k", "test_transpose_default", "test_unsqueeze_two_axes", "test_expand_shape_model3",
    "test_expand_dim_changed", "test_training_dropout_default", "test_where_example", "test_div_int8",
)  # fmt: skip
REFUSED = ("test_identity_sequence", "test_cast_FLOAT_to_FLOAT8E4M3FN")


@pytest.mark.slow
def test_a_sample_of_the_cases_is_answered_right_or_refused_with_a_reason() -> None:
    found = [case for case in cases(only=(*ANSWERED, *REFUSED)) if case.name.split("#")[0] in (*ANSWERED, *REFUSED)]
    outcomes = {each.name.split("#")[0]: each for each in outcomes_of(found)}
    others = {name for name, each in outcomes.items() if each.verdict != "right"}
    assert others == set(REFUSED), table([*outcomes.values()])
    assert len(outcomes) == len(ANSWERED) + len(REFUSED)
    assert all("cannot carry" in outcomes[name].note for name in REFUSED)
