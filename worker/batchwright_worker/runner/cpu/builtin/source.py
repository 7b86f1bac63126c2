"""What a built-in works on, out of the inputs of its task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.runner.graph.dag import ITEM


def value_of(inputs: Mapping[str, Any], of: str | None = None) -> Any:
    """The result of task `of`, or of the only one; of an item its payload. Raises ValueError."""
    if of is None:
        if len(inputs) != 1:
            raise ValueError(f"there are {len(inputs)} inputs ({', '.join(inputs)}): name one of them in args.of")
        of = next(iter(inputs))
    if of not in inputs:
        raise ValueError(f"args.of is {of!r}, dependsOn has {', '.join(inputs)}")
    return inputs[of]["data"] if of == ITEM else inputs[of]


def lines(path: str) -> list[str]:
    """Of a dictionary, as its authors count them: a line ends with a line feed. Not `splitlines`, to which signs end a
    line that are entries themselves (U+2028, U+0085), so that all after them would move. Raises OSError,
    UnicodeDecodeError."""
    found = Path(path).read_text(encoding="utf-8").split("\n")
    return found if found[-1] else found[:-1]


def image_of(inputs: Mapping[str, Any], of: str | None = None) -> NDArray[np.uint8]:
    """An image: uint8, height x width x channels. Raises ValueError."""
    image = value_of(inputs, of)
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.dtype != np.uint8:
        given = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"wanted an image (uint8, height x width x channels, as decode makes it), given {given}")
    return image


def array_of(inputs: Mapping[str, Any], of: str | None = None, output: str | None = None) -> NDArray[Any]:
    """An array: the value itself, or one output of a model's row. Raises ValueError."""
    value = value_of(inputs, of)
    if isinstance(value, Mapping):
        if output is None and len(value) != 1:
            raise ValueError(f"the row has outputs {sorted(value)}: name one of them in args.output")
        name = output if output is not None else next(iter(value))
        if name not in value:
            raise ValueError(f"args.output is {name!r}, the row has {sorted(value)}")
        value = value[name]
    return np.asarray(value)
