"""From a model's outputs to vectors and scores. Pure."""

from __future__ import annotations

import numpy as np

from batchwright_worker.api.text_task import Activation, Pooling
from batchwright_worker.inference.requests import Array

_SMALLEST = 1e-12


def pooled(vectors: Array, mask: Array, how: Pooling) -> Array:
    """[n, tokens, d] and [n, tokens] of 0 and 1 to FP32 [n, d]; what is masked does not count."""
    vectors = vectors.astype(np.float32, copy=False)
    match how:
        case "Mean":
            weights = mask[:, :, None].astype(np.float32)
            return np.asarray((vectors * weights).sum(1) / np.maximum(weights.sum(1), 1e-9), np.float32)
        case "Max":
            return np.asarray(np.where(mask[:, :, None] > 0, vectors, -np.inf).max(1), np.float32)
        case "Cls":
            return np.ascontiguousarray(vectors[:, 0])
        case "LastToken":
            return np.asarray(vectors[np.arange(len(vectors)), mask.sum(1) - 1])


def unit(vectors: Array) -> Array:
    """Scaled to length 1, but for those of length 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, _SMALLEST), np.float32)


def scores(output: Array, how: Activation) -> Array:
    """[n] or [n, 1] to FP32 [n]."""
    flat = output.astype(np.float32, copy=False).reshape(len(output))
    if how == "Identity":
        return flat
    exponent = np.exp(-np.abs(flat))  # never of a large number
    return np.asarray(np.where(flat >= 0, 1, exponent) / (1 + exponent), np.float32)


def cosines(query: Array, documents: Array) -> Array:
    """Of [d] with each of [n, d]: [n]."""
    return np.asarray(unit(documents) @ unit(query[None])[0], np.float32)
