"""Model formats, one row each. Whatever needs to know something of a format reads it here.

A new format is a row here and the module of its loader in `backends/`, then `make generate` for the CRDs
(tests/house/test_adding_a_format.py does it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFormat:
    """One format of a model's artifact."""

    name: str
    loader: str
    """Module in `backends/` with `load(source, host) -> LoadedModel`. Empty: the sidecar puts what the artifact says of
    itself, with another format, in its place (`artifacts/triton`)."""
    platform: str
    """Platform in the model's metadata and configuration, in Triton's words where it has some."""
    backend: str
    """Backend in the model's configuration, likewise."""
    title: str = ""
    """How prose writes the name, where it differs."""
    preload: tuple[str, ...] = ()
    """Modules that the runtime imports once, before it forks the processes that load models."""
    needs_script: bool = False
    declares_signature: bool = True
    """The artifact declares its inputs and outputs; else the manifest must."""
    file: Literal["needed", "optional", "none"] = "needed"
    entries: tuple[str, ...] = ()
    """Names that the model may have in a folder, best first; else it is the only file with the first one's suffix.
    Empty: the loader takes the folder itself."""
    entry_below: str = ""
    """Where it is in a repository of a model hub that has it among others, where the folder itself has none."""
    loads_beside_batches: bool = False
    """On a CPU a load may run on a thread of its own while batches of other models run: its library lets go of the
    interpreter's lock, and does not care which thread loads and which one runs. Code of a user's own may."""
    divisible: bool = False
    """Layerwise serving can cut it into units (`layerwise/networks`)."""


TRITON_REPOSITORY: Final = "triton-repository"
_ROWS: Final = (
    ModelFormat(
        name="onnx",
        loader="onnx",
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        title="ONNX",
        preload=("onnxruntime",),
        loads_beside_batches=True,
        divisible=True,
        entries=("model.onnx",),
        entry_below="onnx/model.onnx",
    ),
    ModelFormat(
        name="torch-export",
        loader="torch",
        platform="pytorch_export",
        backend="pytorch",
        preload=("torch",),
        divisible=True,
        entries=("model.pt2",),
    ),
    ModelFormat(
        name="torchscript",
        loader="torch",
        platform="pytorch_libtorch",
        backend="pytorch",
        preload=("torch",),
        declares_signature=False,
        entries=("model.pt",),
    ),
    ModelFormat(
        name="safetensors",
        loader="torch",
        platform="pytorch_safetensors",
        backend="pytorch",
        preload=("torch", "safetensors.torch"),
        needs_script=True,
        declares_signature=False,
        divisible=True,
        entries=("model.safetensors", "model.safetensors.index.json"),
    ),
    ModelFormat(
        name="python",
        loader="python",
        platform="python",
        backend="python",
        needs_script=True,
        declares_signature=False,
        file="optional",
    ),
    ModelFormat(
        name="triton-python",
        loader="triton_python",
        platform="python",
        backend="python",
        title="Triton's Python",
        needs_script=True,
        declares_signature=False,
    ),
    ModelFormat(
        name=TRITON_REPOSITORY,
        loader="",
        platform="triton_repository",
        backend="triton",
        title="a Triton model repository",
    ),
    ModelFormat(
        name="emulated",
        loader="emulated",
        platform="batchwright_emulated",
        backend="batchwright",
        file="none",
    ),
)
FORMATS: Final = {each.name: each for each in _ROWS}

# mypy cannot read a Literal off a table; msgspec, which validates manifests and makes the schema of the CRDs, can.
if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[*FORMATS]

SCRIPTED: Final = tuple(each.name for each in FORMATS.values() if each.needs_script)
DECLARING: Final = tuple(each.title or each.name for each in FORMATS.values() if each.declares_signature)
"""As prose writes them."""
UNDECLARING: Final = tuple(each.name for each in FORMATS.values() if not each.declares_signature)
WITHOUT_FILE: Final = tuple(each.name for each in FORMATS.values() if each.file == "none")
FILE_OPTIONAL: Final = tuple(each.name for each in FORMATS.values() if each.file == "optional")
DIVISIBLE: Final = tuple(each.name for each in FORMATS.values() if each.divisible)


def listed(names: Sequence[str], last: Literal["and", "or"] = "and") -> str:
    """Names as prose lists them: `a, b and c`."""
    *head, tail = names
    return f"{', '.join(head)} {last} {tail}" if head else tail
