"""The first process of a node: mounts the node's own folders, starts its programs, restarts and reaps them.

Run as a script by `unshare` in new mount, network, process and host name namespaces, with the path of a JSON file:

    {"binds": {"/run": "/path", ...}, "network": "/path", "hostname": "...", "logs": "/path", "path": "/path:...",
     "programs": [{"name": "kubelet", "argv": [...], "after": "/run/containerd/containerd.sock"}]}

It begins with the programs when the file `network` appears. When it dies, the kernel kills whatever lives in the
node, containers too, and takes the mounts, interfaces and rules away with the namespaces: nothing is left to clean.
Only the standard library is imported, and little of it: there is one such process per node.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

RESTART_DELAY_S = 1.0


def main(path: str) -> None:
    """Run the node until SIGTERM."""
    with open(path) as file:  # noqa: PTH123 (pathlib costs memory here)
        spec = json.load(file)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _mount(spec["binds"])
    socket.sethostname(spec["hostname"])
    _await(spec["network"])
    with open("/proc/sys/net/ipv4/ip_forward", "w") as file:  # noqa: PTH123
        file.write("1")
    os.environ["PATH"] = spec["path"]
    _supervise(spec["programs"], spec["logs"])


def _mount(binds: dict[str, str]) -> None:
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    for target, source in binds.items():
        subprocess.run(["mount", "--bind", source, target], check=True)


def _await(path: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not os.path.exists(path) and time.monotonic() < deadline:  # noqa: PTH110
        time.sleep(0.01)


def _supervise(programs: list[dict[str, object]], logs: str) -> None:
    """Start the programs, and again whichever ends, for ever; orphans of containers are reaped on the way."""
    running = {_start(program, logs): program for program in programs}
    while True:
        pid, _ = os.wait()
        if program := running.pop(pid, None):
            time.sleep(RESTART_DELAY_S)
            running[_start(program, logs)] = program


def _start(program: dict[str, object], logs: str) -> int:
    if after := program.get("after"):
        _await(str(after))
    argv = [str(part) for part in program["argv"]]  # type: ignore[attr-defined]
    pid = os.fork()
    if pid == 0:
        log = os.open(f"{logs}/{program['name']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.execv(argv[0], argv)  # noqa: S606
    return pid


if __name__ == "__main__":
    main(sys.argv[1])
