"""Export a model of sentence-transformers or transformers as it can be served, tokenizer files beside it.

    python -m examples.exports.texts MODEL FOLDER [--format onnx|torch-export]

MODEL is a folder or a name on the hub. What is in FOLDER afterwards: model.onnx or model.pt2, which takes input_ids and
attention_mask in any number of rows of any length, and the JSON files by which texts become tokens (tokenizer.json,
modules.json, config.json, ..). A model of sentence-transformers gives one vector of each text, pooling and
normalization included; any other what its head gives (logits, last_hidden_state).

Needs torch, and besides: pip install sentence-transformers onnx onnxscript
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

ROWS, LENGTH = 2, 16
"""Of the example that is traced; a model is exported for any."""


def main() -> None:
    """Export it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", choices=["onnx", "torch-export"], default="onnx")
    args = parser.parse_args()
    _find_packages()
    module, output, files = loaded(args.model)
    args.folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(files.rglob("*.json")):
        target = args.folder / path.relative_to(files)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    written = export(module, output, args.folder, args.format)
    print(f"{written}: {output}")


def loaded(model: str) -> tuple[Any, str, Path]:
    """The network as a module of ids and mask, what its output is called, and the folder of its files."""
    files = Path(model)
    if not files.is_dir():
        from huggingface_hub import snapshot_download

        files = Path(snapshot_download(model, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"]))
    eager = {"attn_implementation": "eager"}  # fused attention has no form in ONNX
    if (files / "modules.json").is_file():
        from sentence_transformers import SentenceTransformer

        return (
            _of_mapping(SentenceTransformer(str(files), device="cpu", model_kwargs=eager)),
            "sentence_embedding",
            files,
        )
    import transformers

    config = transformers.AutoConfig.from_pretrained(files)
    kind = getattr(transformers, (config.architectures or ["AutoModel"])[0])
    network = kind.from_pretrained(files, **eager)
    output = "logits" if hasattr(network, "classifier") or hasattr(network, "score") else "last_hidden_state"
    return _of_keywords(network, output), output, files


def _of_mapping(network: Any) -> Any:
    """A SentenceTransformer takes and gives a dictionary."""
    import torch

    class Embedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.network({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]

    return Embedding().eval()


def _of_keywords(network: Any, output: str) -> Any:
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return getattr(self.network(input_ids=input_ids, attention_mask=attention_mask), output)

    return Network().eval()


def export(module: Any, output: str, folder: Path, format_: str) -> Path:
    """The file."""
    import torch

    ids = torch.ones((ROWS, LENGTH), dtype=torch.int64)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    names = ["input_ids", "attention_mask"]
    with torch.no_grad():
        program = torch.export.export(module, (ids, torch.ones_like(ids)), dynamic_shapes=dict.fromkeys(names, free))
    if format_ == "torch-export":
        torch.export.save(program, folder / "model.pt2")
        return folder / "model.pt2"
    example = (ids, torch.ones_like(ids))
    large = sum(each.numel() * each.element_size() for each in module.parameters()) > 1 << 30
    torch.onnx.export(
        program, example, folder / "model.onnx", input_names=names, output_names=[output], dynamo=True,
        external_data=large,  # beyond 2 GB a file of protobuf cannot be
    )  # fmt: skip
    return folder / "model.onnx"


def _find_packages() -> None:
    """Where they are installed, else those of this repository's tests."""
    if importlib.util.find_spec("sentence_transformers") is None:
        from e2e.peers import peer_python

        [found] = peer_python("transformers").parents[1].glob("lib/python*/site-packages")
        sys.path.append(str(found))


if __name__ == "__main__":
    main()
