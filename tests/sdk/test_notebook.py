"""The notebook runs from its first cell to its last, as somebody who opens it runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "notebook" / "first-steps.ipynb"


def test_the_notebook_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in cells if cell["outputs"]] == []  # an output would be of another machine
    script = "\n".join("".join(cell["source"]) for cell in cells)
    end = (
        "\nassert scores['id'].tolist() == ['Ada', 'Grace', 'Linus', 'Margaret', 'Radia']\nassert output.failed == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script + end], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "latencyMilliseconds: 50" in done.stdout
    assert "spec.models[0].artifacts" in done.stdout
