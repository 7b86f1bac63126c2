"""The dashboard's page, bundled from `worker/page/src` by esbuild with the packages of its lock: `make page`.

    python -m e2e.page [--check]

npm verifies each package by the lock's integrity, runs no script of any package, and nothing is loaded from anywhere
when the page is used. What is built is committed, so that nobody needs node to install or to serve it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from e2e.cluster.machine import tools
from e2e.cluster.machine.locking import alone
from e2e.cluster.machine.paths import cache_folder
from e2e.cluster.machine.progress import step

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "worker" / "page"
BUILT = ROOT / "worker" / "batchwright_worker" / "dashboard" / "static"
FILES = ("index.html", "dashboard.js", "dashboard.css")


def packages(source: Path) -> Path:
    """The folder `node_modules` of a folder with package.json and its lock, in the cache; made first if need be.
    Raises RequirementError without npm, CalledProcessError with its words on the terminal."""
    folder = _folder(source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(f"npm-{source.name}"):
        if not (folder / "done").exists():
            tools.require("node", "npm")
            with step(f"installing the packages of {source.relative_to(ROOT)}"):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                for name in ("package.json", "package-lock.json"):
                    shutil.copy(source / name, folder / name)
                command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
                subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                (folder / "done").touch()
    return folder / "node_modules"


def is_installed(source: Path) -> bool:
    """Whether `packages` finds it in the cache."""
    return (_folder(source) / "done").exists()


def _folder(source: Path) -> Path:
    digest = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()[:12]
    return cache_folder() / "npm" / f"{source.name}-{digest}"


def build(target: Path) -> None:
    """Writes the page's files into `target`."""
    modules = packages(SOURCE)
    command = [str(modules / ".bin" / "esbuild"), str(SOURCE / "src" / "main.js"), "--bundle", "--minify"]
    command += ["--target=es2022", "--legal-comments=eof", "--log-level=warning", f"--outfile={target}/dashboard.js"]
    subprocess.run(command, check=True, env={**os.environ, "NODE_PATH": str(modules)})
    shutil.copy(SOURCE / "src" / "index.html", target / "index.html")


def stale() -> list[str]:
    """The files that are not what the sources make."""
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch))
        return [name for name in FILES if not _same(Path(scratch) / name, BUILT / name)]


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say which files are stale; exit status 1 if any is")
    if parser.parse_args().check:
        found = stale()
        sys.exit(f"stale, run make page: {', '.join(found)}" if found else 0)
    BUILT.mkdir(exist_ok=True)
    build(BUILT)


if __name__ == "__main__":
    main()
