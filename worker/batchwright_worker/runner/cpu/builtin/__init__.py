"""Built-in CPU functions, by the name that a manifest uses. They are imported when they are used.

All of them take the result of the one task that they depend on (or the item); where there are several, the argument
`of` names the one that is meant.
"""

from __future__ import annotations

from typing import Final

_HERE: Final = "batchwright_worker.runner.cpu.builtin"

BUILTINS: Final = {
    "decode": f"{_HERE}.decoding:decode",
    "resize": f"{_HERE}.pictures:resize",
    "normalise": f"{_HERE}.pictures:normalise",
    "crop": f"{_HERE}.pictures:crop",
    "tokenize": f"{_HERE}.tokens:tokenize",
    "argmax": f"{_HERE}.scores:argmax",
    "top-k": f"{_HERE}.scores:top_k",
    "ctc-decode": f"{_HERE}.scores:ctc_decode",
    "json-fields": f"{_HERE}.records:json_fields",
}

PREPARED: Final = {"tokenize": f"{_HERE}.tokens:prepare"}
"""What loads the files that a built-in reads, called with its arguments as a process starts."""
FILE_ARGUMENTS: Final = frozenset({"vocabulary", "tokenizer", "characters_file"})
"""Arguments of built-ins that are paths of files."""
ONE_OF: Final = {
    "tokenize": ("vocabulary", "tokenizer"),
    "crop": ("box", "boxes"),
    "ctc-decode": ("characters", "characters_file"),
}
"""Arguments of built-ins of which exactly one is needed."""
