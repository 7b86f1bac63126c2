"""all-MiniLM-L6-v2 as a torch module whose parameters have the names of the published safetensors file.

`Model` takes `input_ids` and `attention_mask` (INT64 [n, s]) and gives sentence embeddings (FP32 [n, 384]): the mean
over the tokens that the mask keeps, scaled to length 1. It needs torch alone, so that it serves as the script of a
safetensors artifact too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, POSITIONS, HIDDEN, HEADS, LAYERS, INNER = 30_522, 512, 384, 12, 6, 1536
_EPSILON = 1e-12


class _Embeddings(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, HIDDEN)
        self.position_embeddings = nn.Embedding(POSITIONS, HIDDEN)
        self.token_type_embeddings = nn.Embedding(2, HIDDEN)
        self.LayerNorm = nn.LayerNorm(HIDDEN, eps=_EPSILON)

    def forward(self, input_ids: Any) -> Any:
        position = self.position_embeddings.weight[: input_ids.shape[1]]
        kind = self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(input_ids) + position + kind)


class _Self(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(HIDDEN, HIDDEN) for _ in range(3))

    def forward(self, x: Any, bias: Any) -> Any:
        rows, length, _ = x.shape
        query, key, value = (
            each(x).reshape(rows, length, HEADS, HIDDEN // HEADS).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return mixed.transpose(1, 2).reshape(rows, length, HIDDEN)


class _Output(nn.Module):  # type: ignore[misc]
    """Back to the residual stream."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, HIDDEN)
        self.LayerNorm = nn.LayerNorm(HIDDEN, eps=_EPSILON)

    def forward(self, x: Any, residual: Any) -> Any:
        return self.LayerNorm(self.dense(x) + residual)


class _Layer(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _Self(), "output": _Output(HIDDEN)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(HIDDEN, INNER)})
        self.output = _Output(INNER)

    def forward(self, x: Any, bias: Any) -> Any:
        x = self.attention["output"](self.attention["self"](x, bias), x)
        return self.output(functional.gelu(self.intermediate["dense"](x)), x)


class Model(nn.Module):  # type: ignore[misc]
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = _Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer() for _ in range(LAYERS))})

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        x = self.embeddings(input_ids)
        kept = attention_mask.to(x.dtype)
        bias = (1.0 - kept)[:, None, None, :] * torch.finfo(x.dtype).min
        for layer in self.encoder["layer"]:
            x = layer(x, bias)
        weights = kept[:, :, None]
        mean = (x * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return functional.normalize(mean, dim=1)


def weights(published: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """Of the published tensors those that the module has (the pooler is not used for sentences)."""
    names = module.state_dict().keys()
    return {name: tensor for name, tensor in published.items() if name in names}
