"""Ends the processes of a folder and removes it when the process that holds our stdin is gone.

Run as `python -m e2e.cluster.machine.watchdog FOLDER` with a pipe as stdin. A test run that is killed leaves no API
server behind this way, whichever of its threads started it.
"""

import shutil
import sys
from pathlib import Path

from e2e.cluster.machine import processes


def main(folder: Path) -> None:
    """Wait for the end of stdin, then clean up."""
    sys.stdin.buffer.read()
    processes.stop(processes.recorded(folder))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
