"""Starts `kubectl batchwright` from its one file (`e2e.release.plugin` puts this there as `__main__.py`).

Extensions in C cannot be imported from an archive, so the file is unpacked once, into the user's cache, and runs from
there. Of each extension it has a build for every Python and machine that it knows.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

CONTENT = ""  # digest of what is in the file, written by the build
OLDEST = (3, 11)
INSTEAD = "the package has it too: pip install 'batchwright[operator]'"


def main() -> None:
    if sys.version_info < OLDEST:
        version = "{}.{}".format(*sys.version_info)
        sys.exit(f"Error: kubectl batchwright needs Python 3.11 or newer on the PATH as python3; this is {version}")
    sys.path[0] = str(unpacked(sys.path[0]))
    from batchwright_operator.plugin.cli import main as run

    run()


def unpacked(archive: str) -> Path:
    """The folder of the file's modules. Exits with a sentence where there are none for this Python."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubectl-batchwright"
    folder = cache / f"{CONTENT}-{sys.implementation.cache_tag}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=cache))
    except OSError:  # a home that cannot be written to: unpacked each time
        import atexit

        made = folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, made, ignore_errors=True)
    unpack(archive, made)
    if made != folder:
        try:
            made.rename(folder)
        except OSError:  # somebody else was faster
            shutil.rmtree(made, ignore_errors=True)
    return folder


def unpack(archive: str, folder: Path) -> None:
    """The modules and the extensions' builds for this Python, into a folder."""
    build = "native/{}{}/".format(platform.machine(), sysconfig.get_config_var("EXT_SUFFIX"))
    with zipfile.ZipFile(archive) as found:
        names = [each for each in found.namelist() if each.startswith(("lib/", build))]
        if not any(each.startswith(build) for each in names):
            shutil.rmtree(folder, ignore_errors=True)
            python = "Python {}.{}".format(*sys.version_info)
            sys.exit(f"Error: this file has nothing for {python} on {sys.platform} {platform.machine()}; {INSTEAD}")
        for name in names:
            place = folder / name[len(build) if name.startswith(build) else len("lib/") :]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(found.read(name))


if __name__ == "__main__":
    main()
