"""models:/ from a registry: a stand-in that answers as MLflow does, and MLflow's own server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from batchwright_worker.artifacts.entry import entry_of
from batchwright_worker.fetch.artifact import WantedArtifact, fetch_artifact
from batchwright_worker.fetch.cache.identity import prefix_of
from batchwright_worker.fetch.errors import FetchError, FetchRefused
from batchwright_worker.fetch.flavors import folder_of
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.registry import RegistryAddress, registry_address
from batchwright_worker.fetch.sources import store_of
from e2e.cluster.machine.ports import free_port
from e2e.peers import peer_python
from tests.fetch.stores import LOOPBACK, Files

ONNX = {
    "MLmodel": yaml.safe_dump({"flavors": {"onnx": {"data": "model.onnx"}, "python_function": {}}}).encode(),
    "model.onnx": b"onnx" * 100,
    "extra files/vocab.txt": b"words",
}
TORCH = {
    "MLmodel": yaml.safe_dump({"flavors": {"pytorch": {"model_data": "data"}, "python_function": {}}}).encode(),
    "data/model.pt2": b"torch" * 100,
    "conda.yaml": b"",
}


@dataclass
class Registry:
    """As MLflow 3 answers; `locations` by (name, version), `aliases` by (name, alias)."""

    files: Files = field(default_factory=Files)
    locations: dict[tuple[str, str], str] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    authorizations: set[str | None] = field(default_factory=set)
    address: str = ""

    def add(self, name: str, version: str, bodies: dict[str, bytes]) -> None:
        """A version whose files are behind the registry."""
        self.locations[name, version] = f"mlflow-artifacts:/0/models/{name}-{version}/artifacts"
        self.files.content |= {f"0/models/{name}-{version}/artifacts/{path}": body for path, body in bodies.items()}

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/2.0/mlflow/registered-models/alias", self._alias)
        app.router.add_get("/api/2.0/mlflow/model-versions/get-download-uri", self._location)
        app.router.add_get("/api/2.0/mlflow-artifacts/artifacts", self._list)
        app.add_subapp("/api/2.0/mlflow-artifacts/artifacts/", self.files.app())
        app.add_subapp("/s3/", self.files.app())
        return app

    async def _alias(self, request: web.Request) -> web.Response:
        self.authorizations.add(request.headers.get("Authorization"))
        version = self.aliases.get((request.query["name"], request.query["alias"]))
        if version is None:
            return web.json_response({"error_code": "INVALID_PARAMETER_VALUE"}, status=400)
        return web.json_response({"model_version": {"name": request.query["name"], "version": version}})

    async def _location(self, request: web.Request) -> web.Response:
        self.authorizations.add(request.headers.get("Authorization"))
        location = self.locations.get((request.query["name"], request.query["version"]))
        if location is None:
            return web.json_response({"error_code": "RESOURCE_DOES_NOT_EXIST"}, status=404)
        return web.json_response({"artifact_uri": location})

    async def _list(self, request: web.Request) -> web.Response:
        below = request.query["path"] + "/"
        rest = sorted({name.removeprefix(below) for name in self.files.content if name.startswith(below)})
        entries = {name.split("/")[0]: "/" in name for name in rest}
        return web.json_response({"files": [{"path": path, "is_dir": is_dir} for path, is_dir in entries.items()]})

    def secret(self) -> dict[str, str]:
        bucket = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": f"{self.address}/s3"}
        return {"MLFLOW_TRACKING_URI": self.address, **bucket}


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    made = Registry()
    async with TestServer(made.app()) as server:
        made.address = str(server.make_url("")).rstrip("/")
        yield made


async def fetched(uri: str, format_: str, place: Path, secret: dict[str, str]) -> dict[str, bytes]:
    wanted = WantedArtifact(uri=uri, format=format_, target=place / "d" / "m", max_bytes=10**9)
    await fetch_artifact(wanted, store_of(uri, LOOPBACK, secret, format_), lambda _: None, base_wait_s=0.0)
    return {
        path.relative_to(wanted.target).as_posix(): path.read_bytes()
        for path in sorted(wanted.target.rglob("*"))
        if path.is_file()
    }


async def test_a_version_and_an_alias_of_it_are_the_same_files(registry: Registry, tmp_path: Path) -> None:
    registry.add("ranker", "3", ONNX)
    registry.aliases["ranker", "champion"] = "3"
    by_version = await fetched("models:/ranker/3", "onnx", tmp_path / "version", registry.secret())
    by_alias = await fetched("models:/ranker@champion", "onnx", tmp_path / "alias", registry.secret())
    assert by_version == by_alias == ONNX
    assert entry_of("onnx", tmp_path / "alias" / "d" / "m").name == "model.onnx"


@pytest.mark.parametrize("format_", ["torch-export", "torchscript"])
async def test_of_a_torch_model_its_data_is_fetched(registry: Registry, tmp_path: Path, format_: str) -> None:
    registry.add("net", "1", TORCH)
    assert await fetched("models:/net/1", format_, tmp_path, registry.secret()) == {
        "model.pt2": TORCH["data/model.pt2"]
    }


async def test_files_may_be_in_a_bucket(registry: Registry, tmp_path: Path) -> None:
    registry.locations["ranker", "1"] = "s3://bucket/runs/7/artifacts/model"
    registry.files.content |= {f"runs/7/artifacts/model/{path}": body for path, body in ONNX.items()}
    assert await fetched("models:/ranker/1", "onnx", tmp_path, registry.secret()) == ONNX


async def test_the_registry_is_asked_with_the_secrets_credentials(registry: Registry, tmp_path: Path) -> None:
    registry.add("ranker", "3", ONNX)
    await fetched("models:/ranker/3", "onnx", tmp_path / "a", registry.secret() | {"MLFLOW_TRACKING_TOKEN": "t"})
    login = {"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}
    await fetched("models:/ranker/3", "onnx", tmp_path / "b", registry.secret() | login)
    assert registry.authorizations == {"Bearer t", "Basic " + base64.b64encode(b"u:p").decode()}


async def test_a_model_in_the_cache_is_known_by_its_files(registry: Registry) -> None:
    registry.add("ranker", "3", ONNX)
    wanted = WantedArtifact(uri="models:/ranker/3", format="onnx", target=Path("m"), max_bytes=10**9)

    async def prefix() -> str:
        return await prefix_of(wanted, store_of(wanted.uri, LOOPBACK, registry.secret(), "onnx"), "")

    first = await prefix()
    assert await prefix() == first
    registry.files.content["0/models/ranker-3/artifacts/model.onnx"] = b"another"
    assert await prefix() != first


@pytest.mark.parametrize(
    ("uri", "format_", "words"),
    [
        ("models:/ranker/9", "onnx", "no such model, version, alias"),
        ("models:/ranker@none", "onnx", "no such model, version, alias"),
        ("models:/ranker/latest", "onnx", "'latest' is no version, which is a number"),
        ("models:/ranker/Production", "onnx", "stages and latest are not read; give the version an alias"),
        ("models:/ranker/3", "triton-repository", "format triton-repository takes none of MLflow"),
        ("models:/ranker/3", "torch-export", "its flavor is onnx, and format torch-export takes pytorch"),
        ("models:/ranker/3", "safetensors", "format safetensors takes none of MLflow"),
        ("models:/trees/1", "onnx", "its flavor is sklearn, and format onnx takes onnx"),
        ("models:/disk/1", "onnx", "--artifacts-destination"),
        ("models:/elsewhere/1", "onnx", "behind another server"),
        ("models:/bare/1", "onnx", "has no file MLmodel"),
        ("models:/broken/1", "onnx", "names no flavors"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(
    registry: Registry, tmp_path: Path, uri: str, format_: str, words: str
) -> None:
    registry.add("ranker", "3", ONNX)
    registry.add("trees", "1", {"MLmodel": b"flavors: {sklearn: {}, python_function: {}}"})
    registry.add("bare", "1", {"model.onnx": b"x"})
    registry.add("broken", "1", {"MLmodel": b"["})
    registry.locations["disk", "1"] = "/var/mlruns/1"
    registry.locations["elsewhere", "1"] = "mlflow-artifacts://other:5000/1"
    with pytest.raises(FetchRefused, match=words):
        await fetched(uri, format_, tmp_path, registry.secret())


async def test_a_bucket_that_the_administrator_does_not_allow_is_refused(registry: Registry) -> None:
    registry.locations["ranker", "1"] = "s3://secret-bucket/model"
    policy = FetchPolicy(allowed_hosts=("127.0.0.1",), allow_private_addresses=True, allow_http=True)
    with pytest.raises(FetchRefused, match="secret-bucket is not allowed"):
        await store_of("models:/ranker/1", policy, registry.secret(), "onnx").files("models:/ranker/1")


async def test_without_an_address_of_the_registry_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(FetchRefused, match="MLFLOW_TRACKING_URI"):
        await store_of("models:/ranker/1", LOOPBACK, {}, "onnx").files("models:/ranker/1")


def test_a_script_gets_any_model_whole() -> None:
    assert folder_of({"sklearn": {}}, "python", "models:/trees/1") == ""


def test_addresses_of_registered_models() -> None:
    assert registry_address("models:/a/1") == RegistryAddress("a", "1", "")
    assert registry_address("models:/a%2Fb%40c@best") == RegistryAddress("a/b@c", "", "best")
    for uri in ("models:/a", "models:/a@b/1", "models:/@b", "models:/a/1/2"):
        with pytest.raises(FetchRefused, match="write models:/NAME/VERSION"):
            registry_address(uri)


SEED = Path(__file__).parent / "mlflow_models.py"


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """MLflow's server on SQLite with a model of each flavor; its address, and what the client said of them."""
    folder, python, port = tmp_path_factory.mktemp("mlflow"), str(peer_python("mlflow")), free_port()
    address = f"http://127.0.0.1:{port}"
    options = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    command = [python, "-m", "mlflow", "server", *options, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as server:
        try:
            asyncio.run(_answers(f"{address}/health"))
            done = subprocess.run(
                [python, str(SEED), address, str(folder)], capture_output=True, text=True, check=False, timeout=240
            )
            assert done.returncode == 0, done.stderr
            yield address, json.loads(done.stdout.splitlines()[-1])
        finally:
            server.terminate()


async def _answers(url: str) -> None:
    async with ClientSession() as session, asyncio.timeout(240):
        while True:
            with contextlib.suppress(OSError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.5)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_models_that_mlflow_has_registered_are_served_as_they_are(
    mlflow: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    import onnxruntime as ort

    address, told = mlflow
    secret = {"MLFLOW_TRACKING_URI": address}
    for uri in ("models:/ranker/1", "models:/ranker@champion"):
        files = await fetched(uri, "onnx", tmp_path / uri[-4:], secret)
        session = ort.InferenceSession(files["model.onnx"])
        assert [each.name for each in session.get_inputs()] == ["x"]
        assert sorted(files) == told["ranker"]
    assert await fetched("models:/net/1", "torch-export", tmp_path / "net", secret) == {"model.pt2": b"exported"}
    with pytest.raises(FetchError, match="its flavor is sklearn"):
        await fetched("models:/trees/1", "onnx", tmp_path / "trees", secret)
