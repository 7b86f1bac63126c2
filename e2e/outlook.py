"""What `make demo` and `make test` are about to build, what is there already, and how long the rest took elsewhere.

python -m e2e.outlook test
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.build import components
from e2e.cluster.machine.progress import say
from e2e.debian import is_unpacked
from e2e.demo import targets
from e2e.page import SOURCE, is_installed
from e2e.peers import is_made

ELSEWHERE = "two cores (AMD EPYC), caches empty, 2026-11-30"
"""Where the seconds below, those of the programs and those of the images were measured."""

_DEMO_S = 210
_TEST_S = 18 * 60
PEERS = ("datasets", "fuzz", "kserve", "mlflow", "mlserver", "openai", "perfanalyzer", "schemathesis", "site")
_PEERS_S = 60
PACKAGES = ("libb64-0d", "prometheus", "prometheus-node-exporter")
_PACKAGES_S = 5
BROWSER = Path(__file__).resolve().parent / "browser"
_BROWSER_S = 15
_IMAGES_S = {"operator": 100, "worker": 70, "ocr": 35}  # the first one makes the base image too


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that is built once and kept in the cache; `seconds` is how long that took elsewhere."""

    name: str
    seconds: int
    there: bool


def of_demo() -> list[Part]:
    """What the demo needs on the embedded cluster."""
    return [*_programs("kubernetes", "containerd", "coredns"), *_images()]


def of_test() -> list[Part]:
    """What the whole suite needs."""
    peers = Part(name="others' clients and servers", seconds=_PEERS_S, there=all(map(is_made, PEERS)))
    packages = Part(name=f"Debian's {', '.join(PACKAGES)}", seconds=_PACKAGES_S, there=all(map(is_unpacked, PACKAGES)))
    browser = Part(name="Chromium, by npm", seconds=_BROWSER_S, there=is_installed(BROWSER) and is_installed(SOURCE))
    return [*_programs(*components.CATALOGUE), peers, packages, browser, *_images()]


def _programs(*names: str) -> list[Part]:
    found = [components.CATALOGUE[name] for name in names]
    return [Part(name=one.name, seconds=one.seconds, there=one.built) for one in found]


def _images() -> list[Part]:
    known = {name: targets.archived(name) for name in targets.IMAGES}
    return [Part(name=f"image {name}", seconds=_IMAGES_S[name], there=there) for name, there in known.items()]


def told(command: str, parts: Iterable[Part], then: str, then_s: int) -> list[str]:
    """The lines to show before `command` begins; `then` is what follows once everything is there."""
    parts = list(parts)
    missing = [part for part in parts if not part.there]
    cached = ", ".join(part.name for part in parts if part.there)
    total = sum(part.seconds for part in missing) + then_s
    lines = [f"== {command}: about {duration(total)}, by what it took on {ELSEWHERE}"]
    lines += [f"   cached: {cached}"] if cached else []
    lines += [f"   to build: {part.name}, about {duration(part.seconds)}" for part in missing]
    return [*lines, f"   then: {then}, about {duration(then_s)}"]


def duration(seconds: float) -> str:
    """45 -> 45 s; 90 -> 1.5 min; 600 -> 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f}".removesuffix(".0") + " min"


def say_demo() -> None:
    """What `make demo` says at its start."""
    for line in told("make demo", of_demo(), "a cluster of two nodes and the main job on it", _DEMO_S):
        say(line)


def say_test() -> None:
    """What `make test` says at its start."""
    for line in told("make test", of_test(), "the suite", _TEST_S):
        say(line)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    {"demo": say_demo, "test": say_test}[arguments[0]]()


if __name__ == "__main__":
    main(sys.argv[1:])
