"""`python -m e2e.release [FOLDER]`: the files of a release, with their checksums. `make release` writes them to dist/.

- `batchwright-VERSION-py3-none-any.whl` and the source archive,
- `batchwright-VERSION.tgz`, the Helm chart,
- `kubectl-batchwright`, the plugin as one file; as krew fetches it, `kubectl-batchwright-VERSION.tar.gz`,
- `install.yaml`, what `kubectl apply --server-side` needs, and `crds.yaml`, what an upgrade brings first of it,
- `monitoring.yaml`, for the Prometheus operator and Grafana,
- `KIND_VERSION.json`, schemas for editors,
- `NAME.cdx.json`: what is in each image and in the plugin's file (CycloneDX),
- `SHA256SUMS`.

Where the project is nobody knows before it is published: `--project` writes its address into wheel and chart, and
makes `krew.yaml`, which has to say where the plugin is fetched.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

import click

from e2e.cluster import kubectl_path
from e2e.cluster.build.components import program
from e2e.release import plugin, sbom, schemas
from e2e.release.chart import CHART, ROOT, version

NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "*.egg-info")
RENDERED = {"install.yaml": "manifests/base", "crds.yaml": "crds", "monitoring.yaml": "manifests/monitoring"}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=ROOT / "dist")
@click.option(
    "--registry",
    default="",
    help="Written before the names of images in install.yaml, for example registry.example/team.",
)
@click.option(
    "--project",
    default="",
    help="Where the project is, for example https://git.example/team/batchwright; files of a release are below "
    "/releases/download there.",
)
def main(folder: Path, registry: str, project: str) -> None:
    """Write the files of a release to FOLDER (default: dist/)."""
    folder.mkdir(parents=True, exist_ok=True)
    uv = Path(sys.executable).with_name("uv")
    with _addressed(project) as tree:
        _run(str(uv), "build", "--quiet", "--out-dir", str(folder.resolve()), str(tree))
        chart = tree / CHART.relative_to(ROOT)
        _run(str(program("helm")), "package", str(chart), "--destination", str(folder))
    for name, source in RENDERED.items():
        (folder / name).write_text(_with_registry(_run(str(kubectl_path()), "kustomize", str(ROOT / source)), registry))
    schemas.write(folder)
    _plugin(folder, project)
    for image in sbom.OF_IMAGES:
        sbom.write(sbom.locked(image), folder / f"batchwright-{image}.cdx.json")
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and path.name not in ("SHA256SUMS", ".gitignore")
    )
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (folder / "SHA256SUMS").write_text(sums)
    click.echo(sums, nl=False)


@contextmanager
def _addressed(project: str) -> Iterator[Path]:
    """The sources; with an address, a copy that has it in its metadata."""
    if not project:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "batchwright"
        made = {"build", "dist"}
        shutil.copytree(
            ROOT, copy, ignore=lambda at, names: {*NOT_COPIED(at, names), *(made if Path(at) == ROOT else ())}
        )
        urls = {"Homepage": project, "Changelog": f"{project}/blob/v{version()}/CHANGELOG.md"}
        with (copy / "pyproject.toml").open("a") as file:
            file.write("\n[project.urls]\n" + "".join(f'{name} = "{url}"\n' for name, url in urls.items()))
        with (copy / CHART.relative_to(ROOT) / "Chart.yaml").open("a") as file:
            file.write(f"home: {project}\n")
        yield copy


def _plugin(folder: Path, project: str) -> None:
    """The plugin's file, what krew fetches, and its manifest."""
    made, packed = folder / plugin.NAME, folder / f"{plugin.NAME}-{version()}.tar.gz"
    plugin.build(made)
    plugin.archive(made, packed)
    sbom.write(plugin.requirements(), folder / f"{plugin.NAME}.cdx.json")
    if project:
        manifest = Template((ROOT / "e2e" / "release" / "krew.yaml").read_text())
        (folder / "krew.yaml").write_text(
            manifest.substitute(
                version=version(),
                homepage=project,
                uri=f"{project}/releases/download/v{version()}/{packed.name}",
                sha256=hashlib.sha256(packed.read_bytes()).hexdigest(),
            )
        )


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
