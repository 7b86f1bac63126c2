"""python -m e2e.site [--out FOLDER]"""

from __future__ import annotations

from pathlib import Path

import click

from e2e.site.build import ROOT, build


@click.command(help="Build the documentation as a site of plain files, every link in it checked.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "build" / "site", help="default: build/site")
def main(out: Path) -> None:
    """Builds and says where the site is."""
    out.parent.mkdir(parents=True, exist_ok=True)
    build(out)
    click.echo(f"open {out / 'index.html'}")


if __name__ == "__main__":
    main()
