"""`batchwright-worker serve`: a ModelDeployment on this machine, without a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from batchwright_worker.api.documents import Document, ManifestError, load_manifests
from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.uris import file_uri
from batchwright_worker.local.deployment import ExternalServerAddress, LocalDeployment, local_deployment
from batchwright_worker.local.processes import LocalFailed, LocalPorts, LocalServing, served
from batchwright_worker.local.weights import cache_bytes_option, cache_option, local_cache


def volume(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """click callback: CLAIM=FOLDER or IMAGE=FOLDER, each folder must exist."""
    mapped = {}
    for value in values:
        claim, _, folder = value.partition("=")
        if not claim or not folder or not Path(folder).is_dir():
            raise click.BadParameter(f"{value!r}: write CLAIM=FOLDER with a folder that exists")
        mapped[claim] = Path(folder).resolve()
    return mapped


def own_server(url: str | None, grpc: str) -> ExternalServerAddress | None:
    """The user's own server, if there is one. Raises ManifestError for an address that is none."""
    if url is None:
        if grpc:
            raise ManifestError("--runtime-grpc goes with --runtime-url, which says where the server's HTTP side is")
        return None
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
        raise ManifestError(f"--runtime-url {url!r}: write http://HOST:PORT, for example http://127.0.0.1:9000")
    return ExternalServerAddress(url=url, grpc=grpc)


@dataclass(frozen=True, slots=True, kw_only=True)
class What:
    """Which models are to be served: exactly one of the three; `chosen` goes with `repository`, `model_name` with
    `models`."""

    paths: Sequence[Path] = ()
    repository: Path | None = None
    models: Path | None = None
    chosen: Sequence[str] = ()
    model_name: str | None = None

    def documents(self, accelerator: str | None) -> list[Document]:
        """The manifests in the files, or those of what lies in a folder, whose notes are told. Raises ManifestError."""
        if [bool(self.paths), self.repository is not None, self.models is not None].count(True) != 1:
            raise ManifestError(
                "write one of -f FILE, a manifest, --model-repository FOLDER, a Triton model repository, and --models "
                "FOLDER, for what lies in it"
            )
        if self.chosen and self.repository is None:
            raise ManifestError("--load-model goes with --model-repository; leave it out, or the model out of the file")
        if self.model_name is not None and self.models is None:
            raise ManifestError("--model-name goes with --models; manifests and repositories name their models")
        if self.repository is not None:
            return self._of_repository(self.repository.absolute(), accelerator)
        return load_manifests(self.paths) if self.models is None else self._of_folder(self.models, accelerator)

    def _of_repository(self, root: Path, accelerator: str | None) -> list[Document]:
        from batchwright_worker.artifacts.triton.repository import read_repository

        found = read_repository(root, lambda path: file_uri(root / path), accelerator, self.chosen)
        _say(found.notes)
        return [found.document]

    def _of_folder(self, folder: Path, accelerator: str | None) -> list[Document]:
        from batchwright_worker.local.model_folder import found_models

        found = found_models(folder, self.model_name or "model", accelerator)
        _say(found.notes)
        return found.documents


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(note)


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker serve -f deployment.yaml\n"
    "  batchwright-worker serve -f deployment.yaml --volume models=./weights --dashboard\n"
    "  batchwright-worker serve --model-repository models --server-name triton\n\n"
    "Exit status: 0 after Ctrl-C or SIGTERM; 1 with what to change where it cannot serve; 2 for a wrong command line.",
)
@click.option(
    "-f", "--filename", "paths", multiple=True, type=click.Path(path_type=Path),
    help="Manifests: the ModelDeployment, ConfigMaps of its scripts; may be given several times.",
)  # fmt: skip
@click.option(
    "--model-repository",
    "repository",
    type=click.Path(path_type=Path),
    default=None,
    help="Instead of -f: a Triton model repository, every model of it.",
)
@click.option(
    "--models",
    type=click.Path(path_type=Path),
    default=None,
    help="Instead of -f: what lies in this folder, a manifest, a Triton model repository, or a model (ONNX, ..).",
)
@click.option(
    "--model-name", "--model_name", "model_name", default=None, help="Of a model in --models without a name of its own."
)
@click.option(
    "--load-model", "chosen", multiple=True, help="Of a repository only this model; may be given several times."
)
@click.option("--name", default=None, help="Which ModelDeployment, if the files hold several.")
@click.option(
    "--accelerator", default=None, help="Which kind of artifact; default: cpu, else emulated, else the first."
)
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    callback=volume,
    help="CLAIM=FOLDER or IMAGE=FOLDER: where its files are here.",
)
@click.option("--runtime-url", default=None, help="http://HOST:PORT of your own server (protocol open-inference).")
@click.option("--runtime-grpc", default="", help="HOST:PORT of its gRPC side; batches then travel over gRPC.")
@click.option("--http", type=int, default=8000, show_default=True, help="Port; 0: any free one.")
@click.option("--grpc", type=int, default=8001, show_default=True, help="Port; 0: any free one.")
@click.option("--control", type=int, default=0, help="Port of state, drain, load and unload; default: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--dispatch-log",
    type=click.Path(path_type=Path),
    default=None,
    help="Write the scheduler's events and decisions to this file; see batchwright-worker replay.",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), default=None, help="PEM: serve HTTP and gRPC by TLS.")
@click.option("--tls-key", type=click.Path(path_type=Path), default=None, help="PEM: the certificate's key.")
@click.option("--tls-client-ca", type=click.Path(path_type=Path), default=None, help="PEM: only clients signed by it.")
@click.option(
    "--shared-memory",
    is_flag=True,
    help="Read and write tensors in shared memory that callers of this machine register (/dev/shm).",
)
@cache_option
@cache_bytes_option
@click.option(
    "--server-name",
    default="batchwright",
    show_default=True,
    help="The name in the server's metadata; some of Triton's clients look for triton.",
)
@click.option("--dashboard", is_flag=True, help="A page on this machine that shows it live; its address is printed.")
@click.option(
    "--http-front-end",
    type=click.Choice(["own", "uvicorn"]),
    default="own",
    show_default=True,
    help="What serves HTTP.",
)
@click.option("--sidecar-option", "extra", multiple=True, hidden=True, help="Passed on to the sidecar.")
def command(
    paths: tuple[Path, ...],
    name: str | None,
    accelerator: str | None,
    volumes: dict[str, Path],
    extra: tuple[str, ...],
    dispatch_log: Path | None,
    **options: Any,
) -> None:
    """Serve a ModelDeployment with the sidecar and runtimes of a pod. Ready when /v2/health/ready answers 200."""
    dashboard = options.pop("dashboard")
    cache = local_cache(options.pop("cache_folder"), options.pop("cache_bytes"))
    try:
        server = own_server(options.pop("runtime_url"), options.pop("runtime_grpc"))
        wanted = {name: options.pop(name) for name in ("repository", "models", "chosen", "model_name")}
        documents = What(paths=paths, **wanted).documents(accelerator)
        deployment = local_deployment(documents, name, accelerator, volumes, server, cache)
        tls = {name: options.pop(name.replace("-", "_")) for name in ("tls-cert", "tls-key", "tls-client-ca")}
        if deployment.document["spec"].get("tls") and not tls["tls-cert"]:
            click.echo("spec.tls: no Secret is read here, so this is plain; --tls-cert and --tls-key serve by TLS")
        files = {"dispatch-log": dispatch_log, "cache": cache.root, **tls}
        extra += ("--shared-memory",) if options.pop("shared_memory") else ()
        extra += tuple(f"--{each}={options.pop(each.replace('-', '_'))}" for each in ("http-front-end", "server-name"))
        extra += tuple(f"--{name}={path.absolute()}" for name, path in files.items() if path is not None)
        scheme = "https" if tls["tls-cert"] else "http"
        asyncio.run(_serve(deployment, LocalPorts(**options), extra, scheme, dashboard=dashboard))
    except (ManifestError, LocalFailed) as error:
        raise click.ClickException(str(error)) from error


async def _serve(
    deployment: LocalDeployment, ports: LocalPorts, extra: tuple[str, ...], scheme: str, *, dashboard: bool
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    options = [part for option in extra for part in option.split("=", 1)]
    async with served(deployment, ports, sidecar_options=options) as here:
        click.echo(
            f"{deployment.name} on {deployment.kind}: {scheme}://{here.host}:{here.http}, "
            f"gRPC {here.host}:{here.grpc}, control {here.host}:{here.control} (token {here.token})"
        )
        announcing = asyncio.create_task(_announce(here))
        here.ended.add_done_callback(lambda _: stop.set())
        async with _shown(deployment, here) if dashboard else contextlib.nullcontext():
            await stop.wait()
        announcing.cancel()
        if here.ended.done():
            raise LocalFailed(here.ended.result())
        click.echo("stopping")


@contextlib.asynccontextmanager
async def _shown(deployment: LocalDeployment, here: LocalServing) -> AsyncIterator[None]:
    """On a page, while the body runs."""
    from batchwright_worker.local.board import Board

    board = Board(deployment.name)
    board.follow(deployment, here)
    async with board.open():
        yield


async def _announce(here: LocalServing) -> None:
    """Print when it is ready, and why it is not yet."""
    import aiohttp
    import msgspec

    revision, news = -1, News()
    async with aiohttp.ClientSession(headers=here.authorization) as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with session.get(here.state_url, params={"after": revision, "waitSeconds": 30}) as response:
                    state = msgspec.json.decode(await response.read(), type=SidecarState)
                revision = state.revision
                for text in news.of(state):
                    click.echo(f"not ready: {text}")
                if state.ready:
                    click.echo(f"ready (pid {os.getpid()})")
                    return
                if revision < 0:
                    await asyncio.sleep(0.1)


@dataclass(slots=True)
class News:
    """What a state says that was not said before: every failure of a model once, and what else is waited for."""

    _said: dict[str, str] = field(default_factory=dict)

    def of(self, state: SidecarState) -> list[str]:
        """Sentences, oldest model first."""
        failed = {model.name: model.message for model in state.models if model.state == "Failed"}
        loading = sum(model.state == "Loading" for model in state.models)
        if failed:
            return [f"{name}: {text}" for name, text in failed.items() if self._is_new(name, text)]
        if state.models and loading == len(state.models):
            text = "loading the models" if loading > 1 else "loading the model"
        else:
            text = "" if loading else state.message
        return [text] if text and self._is_new("", text) else []

    def _is_new(self, about: str, text: str) -> bool:
        known, self._said[about] = self._said.get(about), text
        return known != text
