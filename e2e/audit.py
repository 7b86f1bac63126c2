"""Known vulnerabilities of what the images are made from, whether all of it has wheels for the machines that images are
built for, bandit's findings in the product, and what `pip check` says.

A finding fails. A service of vulnerabilities that cannot be reached is told and does not: that says nothing about the
code.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from e2e.peers import peer_python
from e2e.release.sbom import OF_IMAGES
from e2e.unmet import report

ROOT = Path(__file__).resolve().parents[1]
MACHINES = ("x86_64", "aarch64")
CODE = ("operator", "worker")


def main() -> int:
    """The status for make."""
    folder = peer_python("audit").parent
    results = [_known_vulnerabilities(folder / "pip-audit", lock) for lock in OF_IMAGES]
    results += [_wheels(lock, machine) for lock in OF_IMAGES for machine in MACHINES]
    return max(report(), _findings(folder / "bandit"), *results)


def without_wheel(lock: str, machine: str) -> str:
    """What uv says of packages of an image's lock that have no wheel for this machine; empty: all have one."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("uv")), "pip", "install", "-q", "--dry-run", "--no-deps"]
        command += ["--target", folder, "--only-binary", ":all:", "--require-hashes", "--python-version", "3.12"]
        command += ["--python-platform", f"{machine}-manylinux_2_36", "-r", str(ROOT / "locks" / f"{lock}.txt")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def _wheels(lock: str, machine: str) -> int:
    said = without_wheel(lock, machine)
    sys.stdout.write(f"{lock}: {said or f'every package has a wheel for {machine}'}\n")
    return 1 if said else 0


def _known_vulnerabilities(program: Path, lock: str) -> int:
    command = [str(program), "--disable-pip", "--require-hashes", "--timeout", "20", "--progress-spinner", "off"]
    command += ["-f", "json", "-r", str(ROOT / "locks" / f"{lock}.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    asked = _asked(done.stdout)
    if not asked:  # none of them: a mirror that answers 404, or no answer at all
        sys.stdout.write(f"{lock}: not audited, the service of vulnerabilities is out of reach\n")
        return 0
    vulnerable = {f"{each['name']} {each['version']}": each["vulns"] for each in asked if each["vulns"]}
    sys.stdout.write(f"{lock}: {len(asked)} packages audited, {len(vulnerable)} vulnerable\n")
    for package, vulnerabilities in vulnerable.items():
        fixes = [f"{each['id']} (fixed in {', '.join(each['fix_versions']) or 'none'})" for each in vulnerabilities]
        sys.stdout.write(f"  {package}: {'; '.join(fixes)}\n")
    return 1 if vulnerable else 0


def _asked(text: str) -> list[dict[str, Any]]:
    """The packages that the service knew."""
    try:
        found = json.loads(text)["dependencies"]
    except (ValueError, KeyError):
        return []
    return [each for each in found if "skip_reason" not in each]


def _findings(program: Path) -> int:
    """Of high severity; ruff's S rules, which are bandit's, hold the others to a reason each."""
    command = [str(program), "-q", "-r", "-lll", *(str(ROOT / folder) for folder in CODE)]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
