"""all-MiniLM-L6-v2 as a torch module whose parameters have the names of the published safetensors file.

`Model` takes `input_ids` and `attention_mask` (INT64 [n, s]) and gives sentence embeddings (FP32 [n, 384]): the mean
over the tokens that the mask keeps, scaled to length 1. It needs torch alone, so that it serves as the script of a
safetensors artifact too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_EPSILON = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a BERT encoder; the defaults are MiniLM-L6's."""

    vocabulary: int = 30_522
    positions: int = 512
    hidden: int = 384
    heads: int = 12
    layers: int = 6
    inner: int = 1536


MINI = Size()
BASE = Size(hidden=768, layers=12, inner=3072)


class _Embeddings(nn.Module):  # type: ignore[misc]
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(size.vocabulary, size.hidden)
        self.position_embeddings = nn.Embedding(size.positions, size.hidden)
        self.token_type_embeddings = nn.Embedding(2, size.hidden)
        self.LayerNorm = nn.LayerNorm(size.hidden, eps=_EPSILON)

    def forward(self, input_ids: Any) -> Any:
        position = self.position_embeddings.weight[: input_ids.shape[1]]
        kind = self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(input_ids) + position + kind)


class _Self(nn.Module):  # type: ignore[misc]
    def __init__(self, size: Size) -> None:
        super().__init__()
        self._size = size
        self.query, self.key, self.value = (nn.Linear(size.hidden, size.hidden) for _ in range(3))

    def forward(self, x: Any, bias: Any) -> Any:
        rows, length, hidden = x.shape
        heads = self._size.heads
        query, key, value = (
            each(x).reshape(rows, length, heads, hidden // heads).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return mixed.transpose(1, 2).reshape(rows, length, hidden)


class _Output(nn.Module):  # type: ignore[misc]
    """Back to the residual stream."""

    def __init__(self, inner: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=_EPSILON)

    def forward(self, x: Any, residual: Any) -> Any:
        return self.LayerNorm(self.dense(x) + residual)


class _Layer(nn.Module):  # type: ignore[misc]
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _Self(size), "output": _Output(size.hidden, size.hidden)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(size.hidden, size.inner)})
        self.output = _Output(size.inner, size.hidden)

    def forward(self, x: Any, bias: Any) -> Any:
        x = self.attention["output"](self.attention["self"](x, bias), x)
        return self.output(functional.gelu(self.intermediate["dense"](x)), x)


class Model(nn.Module):  # type: ignore[misc]
    """See the module."""

    def __init__(self, size: Size = MINI) -> None:
        super().__init__()
        self.embeddings = _Embeddings(size)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(size) for _ in range(size.layers))})

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
