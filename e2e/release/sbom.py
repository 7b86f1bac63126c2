"""What is in the images and in the plugin's file, as CycloneDX by cyclonedx-py, from the locks that they are made from:
names, versions, hashes. (The images' own, with Debian's packages in them, are made where they are built.)"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from e2e.peers import peer_python

ROOT = Path(__file__).resolve().parents[2]
OF_IMAGES = ("operator", "worker", "worker-cuda", "serving", "ocr")


def locked(image: str) -> str:
    """The lock of an image, without what stands there so that it is installed nowhere."""
    blocks = re.split(r"^(?=\S)", (ROOT / "locks" / f"{image}.txt").read_text(), flags=re.M)
    return "".join(block for block in blocks if "; sys_platform == 'never'" not in block)


def write(lock: str, target: Path) -> None:
    """The bill of materials of these locked requirements, part of this project's version; validated, and the same each
    time. Raises CalledProcessError with the program's words on the terminal."""
    program = peer_python("sbom").with_name("cyclonedx-py")
    command = [str(program), "requirements", "-", "--pyproject", str(ROOT / "pyproject.toml"), "--sv", "1.6"]
    subprocess.run([*command, "--output-reproducible", "-o", str(target)], input=lock, text=True, check=True)
