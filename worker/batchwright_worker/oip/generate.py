"""Writes the protobuf and gRPC modules of inference.proto: `python -m batchwright_worker.oip.generate [--check]`.

The messages get a descriptor pool of their own. Other packages (tritonclient, the KServe SDK) carry the same
protocol under other file names, and the default pool refuses a second definition of `inference.*` in one process.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

_HERE = Path(__file__).parent
_PACKAGE = Path("batchwright_worker/oip")
_SHARED_POOL = "_descriptor_pool.Default()"
_OWN_POOL = "_descriptor_pool.DescriptorPool()"
_GENERATED = ("inference_pb2.py", "inference_pb2.pyi", "inference_pb2_grpc.py")


def render() -> dict[str, str]:
    """File name -> text of every generated module; needs grpcio-tools."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as out:
        arguments = ["protoc", f"-I{_HERE.parents[1]}", f"-I{files('grpc_tools') / '_proto'}"]
        arguments += [f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
        if protoc.main([*arguments, str(_HERE / "inference.proto")]) != 0:
            raise SystemExit("protoc refused inference.proto; its messages are above")
        texts = {name: (Path(out) / _PACKAGE / name).read_text() for name in _GENERATED}
    module = texts["inference_pb2.py"]
    if _SHARED_POOL not in module:
        raise SystemExit("protoc no longer writes descriptor_pool.Default(); adapt oip/generate.py")
    texts["inference_pb2.py"] = module.replace(_SHARED_POOL, _OWN_POOL)
    return texts


def main() -> None:
    """Writes the modules, or with --check only compares them: exit 1 and their names if they differ."""
    texts = render()
    stale = [name for name, text in texts.items() if not (_HERE / name).exists() or (_HERE / name).read_text() != text]
    if "--check" in sys.argv[1:]:
        if stale:
            raise SystemExit(f"not what inference.proto gives: {', '.join(stale)}; run `make generate`")
        return
    for name in stale:
        (_HERE / name).write_text(texts[name])


if __name__ == "__main__":
    main()
