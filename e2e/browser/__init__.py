"""A real Chromium for tests of pages: the machine's own, else the one that an npm package carries (no root, and no
download but that package's, whose integrity the lock names)."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster.machine.locking import alone
from e2e.cluster.machine.progress import step
from e2e.page import packages

HERE = Path(__file__).resolve().parent
INSTALLED = ("chromium", "chromium-browser", "google-chrome")
_PACKED = ("chromium", "al2023.tar", "swiftshader.tar", "fonts.tar")
_UNPACK = """
import { createBrotliDecompress } from "node:zlib";
import { createReadStream, createWriteStream } from "node:fs";
import { pipeline } from "node:stream/promises";
const [from, to] = process.argv.slice(-2);
await pipeline(createReadStream(from), createBrotliDecompress(), createWriteStream(to));
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chromium:
    """What playwright's `launch` is given: the program, its arguments, and variables of its environment."""

    program: Path
    arguments: tuple[str, ...] = ("--no-sandbox", "--disable-dev-shm-usage", "--font-render-hinting=none")
    environment: dict[str, str] = field(default_factory=dict)


def chromium() -> Chromium:
    """Unpacked first if need be. Raises RequirementError where there is neither a Chromium nor npm."""
    found = next((path for name in INSTALLED if (path := shutil.which(name))), None)
    if found is not None:
        return Chromium(program=Path(found))
    package = packages(HERE) / "@sparticuz" / "chromium" / "bin"
    folder = package.parents[3] / "unpacked"
    with alone("npm-chromium"):
        if not (folder / "done").exists():
            with step("unpacking Chromium"):
                _unpack(package, folder)
    libraries = f"{folder}/lib:{folder}"
    arguments = (*Chromium(program=folder).arguments, "--no-zygote", "--disable-gpu")
    environment = {"LD_LIBRARY_PATH": libraries, "FONTCONFIG_PATH": _fonts(folder)}
    return Chromium(program=folder / "chromium", arguments=arguments, environment=environment)


def _fonts(folder: Path) -> str:
    """The machine's own fonts where it has any; a bare one has those of the package."""
    return "/etc/fonts" if Path("/etc/fonts/fonts.conf").exists() else str(folder)


def _unpack(package: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in _PACKED:
        packed = [str(package / f"{name}.br"), str(folder / name)]
        subprocess.run(["node", "--input-type=module", "-e", _UNPACK, "--", *packed], check=True, env={**os.environ})
        if name.endswith(".tar"):
            subprocess.run(["tar", "-xf", str(folder / name), "-C", str(folder)], check=True)
            (folder / name).unlink()
    (folder / "chromium").chmod(0o755)
    (folder / "done").touch()
