"""A server of the Hugging Face Hub's API on the loopback: revisions, trees in pages, files, large ones by redirect.

python -m e2e.model_hub up --port 9200 --model ORG/NAME=FOLDER
python -m e2e.model_hub down --port 9200
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

import click
from aiohttp import web

from e2e import background

LARGE_BYTES = 1000
PAGE = 2


@dataclass
class Hub:
    """Repository -> commit -> name -> content; `branches` name commits. With a `token` nobody else is answered."""

    repositories: dict[str, dict[str, dict[str, bytes]]]
    branches: dict[str, str] = field(default_factory=dict)
    token: str = ""
    asked: list[str] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/models/{org}/{model}/revision/{revision}", self._revision)
        app.router.add_get("/api/models/{org}/{model}/tree/{revision}{path:.*}", self._tree)
        app.router.add_route("*", "/{org}/{model}/resolve/{revision}/{path:.*}", self._resolve)
        app.router.add_route("*", "/storage/{digest}", self._stored)
        return app

    def _files(self, request: web.Request) -> tuple[str, dict[str, bytes]]:
        self.asked.append(request.path)
        found = request.match_info
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            raise web.HTTPUnauthorized(text="Invalid username or password.")
        commit = self.branches.get(found["revision"], found["revision"])
        files = self.repositories.get(f"{found['org']}/{found['model']}", {}).get(commit)
        if files is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound"})
        return commit, files

    async def _revision(self, request: web.Request) -> web.Response:
        commit, files = self._files(request)
        name = f"{request.match_info['org']}/{request.match_info['model']}"
        siblings = [{"rfilename": each} for each in files]
        return web.json_response({"id": name, "modelId": name, "sha": commit, "siblings": siblings})

    async def _tree(self, request: web.Request) -> web.Response:
        _, files = self._files(request)
        folder = request.match_info["path"].strip("/")
        below = f"{folder}/" if folder else ""
        names = sorted(name for name in files if name.startswith(below))
        folders = sorted({name.rpartition("/")[0] for name in names if "/" in name.removeprefix(below)})
        entries = [{"type": "directory", "oid": "0", "size": 0, "path": each} for each in folders]
        entries += [_entry(name, files[name]) for name in names]
        start = int(request.query.get("cursor", 0))
        response = web.json_response(entries[start : start + PAGE])
        if start + PAGE < len(entries):
            following = request.url.update_query(cursor=start + PAGE)
            response.headers["Link"] = f'<{following}>; rel="next"'
        return response

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        commit, files = self._files(request)
        name = request.match_info["path"]
        if name not in files:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        body = files[name]
        digest = hashlib.sha256(body).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}
        if len(body) <= LARGE_BYTES:
            return web.Response(body=body, headers=headers)
        headers |= {
            "X-Linked-Size": str(len(body)),
            "X-Linked-ETag": f'"{digest}"',
            "Location": f"http://localhost:{request.url.port}/storage/{digest}",
        }
        return web.Response(status=302, headers=headers)

    async def _stored(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        bodies = (body for each in self.repositories.values() for files in each.values() for body in files.values())
        body = next(body for body in bodies if hashlib.sha256(body).hexdigest() == digest)
        body = body[::-1] if digest in self.damaged else body
        start = request.http_range.start or 0
        part = body[start:]
        headers = {"ETag": f'"{digest}"', "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        response = web.StreamResponse(status=206 if "Range" in request.headers else 200, headers=headers)
        response.content_length = len(part)
        await response.prepare(request)
        if self.cuts.get(digest):
            self.cuts[digest] -= 1
            await response.write(part[: len(part) // 2])
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write(part)
        return response


def _entry(name: str, body: bytes) -> dict[str, object]:
    digest = hashlib.sha256(body).hexdigest()
    entry: dict[str, object] = {"type": "file", "oid": _git_oid(body), "size": len(body), "path": name}
    if len(body) > LARGE_BYTES:
        entry["lfs"] = {"oid": digest, "size": len(body), "pointerSize": 130}
    return entry


def _git_oid(body: bytes) -> str:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()


@click.group()
def main() -> None:
    """A model hub on this machine, for an hour at most."""


_port = click.option("--port", type=int, default=9200, show_default=True, help="Port on the loopback.")
_models = click.option("--model", "models", multiple=True, help="ORG/NAME=FOLDER: its revision main.")


@main.command("up")
@_port
@_models
def _up(port: int, models: tuple[str, ...]) -> None:
    """Start it."""
    options = [part for model in models for part in ("--model", model)]
    try:
        background.up([sys.executable, "-m", "e2e.model_hub", "serve", "--port", str(port), *options], port)
    except background.NotStarted as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"http://localhost:{port}: {', '.join(models)}")


@main.command("down")
@_port
def _down(port: int) -> None:
    """End it."""
    background.down(port)


@main.command("serve")
@_port
@_models
def _serve(port: int, models: tuple[str, ...]) -> None:
    """In this terminal."""
    repositories = {}
    for model in models:
        name, _, folder = model.partition("=")
        root = Path(folder)
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        repositories[name] = {"c" * 40: files}
    web.run_app(Hub(repositories, {"main": "c" * 40}).app(), host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main()
