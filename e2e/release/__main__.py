"""`python -m e2e.release [FOLDER]`: the files of a release, with their checksums. `make release` writes them to dist/.

- `batchwright-VERSION-py3-none-any.whl` and the source archive,
- `batchwright-VERSION.tgz`, the Helm chart,
- `install.yaml`, what `kubectl apply --server-side` needs, and `crds.yaml`, what an upgrade brings first of it,
- `monitoring.yaml`, for the Prometheus operator and Grafana,
- `SHA256SUMS`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import click

from e2e.cluster import kubectl_path
from e2e.cluster.build.components import program
from e2e.release.chart import CHART, ROOT

RENDERED = {"install.yaml": "manifests/base", "crds.yaml": "crds", "monitoring.yaml": "manifests/monitoring"}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=ROOT / "dist")
@click.option(
    "--registry",
    default="",
    help="Written before the names of images in install.yaml, for example registry.example/team.",
)
def main(folder: Path, registry: str) -> None:
    """Write the files of a release to FOLDER (default: dist/)."""
    folder.mkdir(parents=True, exist_ok=True)
    uv = Path(sys.executable).with_name("uv")
    _run(str(uv), "build", "--quiet", "--out-dir", str(folder))
    _run(str(program("helm")), "package", str(CHART), "--destination", str(folder))
    for name, source in RENDERED.items():
        (folder / name).write_text(_with_registry(_run(str(kubectl_path()), "kustomize", str(ROOT / source)), registry))
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and path.name not in ("SHA256SUMS", ".gitignore")
    )
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (folder / "SHA256SUMS").write_text(sums)
    click.echo(sums, nl=False)


def _with_registry(text: str, registry: str) -> str:
    """The images below the registry; without one their names are those of the Dockerfiles' heads."""
    return text.replace("image: batchwright-", f"image: {registry.rstrip('/')}/batchwright-") if registry else text


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command[:2])} failed")
    return done.stdout


if __name__ == "__main__":
    main()
