"""How often a sentence is nearer to the one that says the same than to the next one that does not.

    python examples/embeddings/evaluate.py FOLDER

Ends with 1 below 90 %.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pyarrow import dataset


def main() -> None:
    """Sentences 2n and 2n + 1 say the same."""
    table = dataset.dataset(Path(sys.argv[1]) / "vectors").to_table().sort_by("id")
    vectors = np.stack(table["embedding"].to_numpy())
    first, same, other = vectors[::2], vectors[1::2], np.roll(vectors[::2], 1, axis=0)
    right = int(((first * same).sum(1) > (first * other).sum(1)).sum())
    print(f"{right} of {len(first)} are nearer to their like")
    sys.exit(right < 0.9 * len(first))


if __name__ == "__main__":
    main()
