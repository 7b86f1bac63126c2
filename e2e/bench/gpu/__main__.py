"""`python -m e2e.bench.gpu [--dry-run] [--json FILE]`: both GPU benches one after the other, in one call of at most
eight minutes on one GPU. Exit status 1: one of them has failed, missed a bar, or did not end in its time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

SECONDS: Final = {"layerwise": 200.0, "serving": 270.0}
"""What each may take on a GPU; together within eight minutes. A dry run, on whatever is there, may take three times
as long."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with a stand-in for the GPU")
    parser.add_argument("--json", type=Path, default=Path(os.environ.get("OUT", "build")) / "gpu-benches.json")
    options = parser.parse_args()
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="batchwright-gpu-") as name:
        for bench in SECONDS:
            told[bench] = _run(bench, Path(name), dry_run=options.dry_run)
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(told, indent=2))
    sys.exit(0 if all(each["status"] == 0 for each in told.values()) else 1)


def _run(bench: str, folder: Path, *, dry_run: bool) -> dict[str, Any]:
    facts = folder / ("facts.json" if bench == "layerwise" else "gpu.json")
    more = ["--json", str(facts)] if bench == "layerwise" else ["--out", str(folder), "--strict"]
    if dry_run:
        more = [*(argument for argument in more if argument != "--strict"), "--dry-run"]
    command, begin = [sys.executable, "-m", f"e2e.bench.gpu.{bench}", *more], time.monotonic()
    try:
        status: int | None = subprocess.run(
            command, timeout=SECONDS[bench] * (3 if dry_run else 1), check=False
        ).returncode
    except subprocess.TimeoutExpired:
        status = None
    found = json.loads(facts.read_text()) if facts.is_file() else None
    return {"status": status, "seconds": time.monotonic() - begin, "facts": found}


if __name__ == "__main__":
    main()
