"""System shared memory as Triton's clients use it, over both protocols; and everything that a client may get wrong."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.protocol.shared_memory import MOST_REGIONS, Place, Regions, place_of
from tests.protocol.serving import WEIGHTS, Served, known_models, manifest, serving

X = np.arange(48, dtype=np.float32).reshape(3, 16) / 7
WORDS = np.array([[b"one"], [b""], [b"\xff\x00three"]], dtype=np.object_)


_TWICE = """
<ir_version: 8, opset_import: ["" : 17]>
twice (float[n, 16] x) => (float[n, 4] y, float[n, 4] z)
{
  sizes = Constant<value_ints = [4, 4, 8]>()
  y, z, rest = Split<axis = 1>(x, sizes)
}
"""


def twice(folder: Path) -> dict[str, Any]:
    """A model of two outputs, y and z, [n, 4] each of x [n, 16]."""
    path = folder / "twice.onnx"
    onnx.save(onnx.parser.parse_model(_TWICE), path)
    return {"name": "twice", "artifacts": [{"format": "onnx", "uri": path.as_uri()}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("regions")
    models = [*known_models(folder, ("BYTES",)), twice(folder)]
    with serving(folder, manifest("regions", models), "--shared-memory") as served:
        yield served


@pytest.fixture(params=[triton_http, triton_grpc], ids=["http", "grpc"])
def api(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(api: Any, served: Served) -> Iterator[Any]:
    port = served.http if api is triton_http else served.grpc
    with api.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client
        client.unregister_system_shared_memory()


@contextlib.contextmanager
def region(client: Any, name: str, size: int) -> Iterator[Any]:
    """A shared memory object of the client's, registered."""
    key = f"/batchwright-test-{secrets.token_hex(4)}"
    handle = shm.create_shared_memory_region(name, key, size)
    try:
        client.register_system_shared_memory(name, key, size)
        yield handle
    finally:
        shm.destroy_shared_memory_region(handle)


def test_inputs_and_outputs_lie_in_regions(api: Any, client: Any) -> None:
    with region(client, "in", X.nbytes) as given, region(client, "out", 256) as got:
        shm.set_shared_memory_region(given, [X])
        x = api.InferInput("x", list(X.shape), "FP32")
        x.set_shared_memory("in", X.nbytes)
        y = api.InferRequestedOutput("y")
        y.set_shared_memory("out", 128, offset=64)
        result = client.infer("linear", [x], outputs=[y])
        np.testing.assert_allclose(
            shm.get_contents_as_numpy(got, np.float32, [3, 4], offset=64), X @ WEIGHTS, rtol=1e-5, atol=1e-5
        )
        answer = result.get_output("y")
        if api is triton_http:
            assert answer == {"name": "y", "datatype": "FP32", "shape": [3, 4]}
        else:
            assert (list(answer.shape), result.get_response().raw_output_contents) == ([3, 4], [b""])


def test_one_side_may_lie_in_a_region_and_the_other_in_the_body(api: Any, client: Any) -> None:
    with region(client, "part", 4096) as part:
        shm.set_shared_memory_region(part, [X])
        x = api.InferInput("x", list(X.shape), "FP32")
        x.set_shared_memory("part", X.nbytes)
        np.testing.assert_allclose(client.infer("linear", [x]).as_numpy("y"), X @ WEIGHTS, rtol=1e-5, atol=1e-5)
        for times in (1, 2):  # a binary request of one template twice: places are no part of that
            x = api.InferInput("x", list(X.shape), "FP32")
            x.set_data_from_numpy(X * times)
            y = api.InferRequestedOutput("y")
            y.set_shared_memory("part", 48, offset=1024)
            client.infer("linear", [x], outputs=[y])
            found = shm.get_contents_as_numpy(part, np.float32, [3, 4], offset=1024)
            np.testing.assert_allclose(found, times * (X @ WEIGHTS), rtol=1e-5, atol=1e-5)


def test_strings_lie_in_regions(api: Any, client: Any) -> None:
    encoded = serialize_byte_tensor(WORDS)
    with region(client, "words", 4096) as words:
        shm.set_shared_memory_region(words, [encoded])
        text = api.InferInput("x", list(WORDS.shape), "BYTES")
        text.set_shared_memory("words", len(encoded.item()))
        out = api.InferRequestedOutput("y")
        out.set_shared_memory("words", 1024, offset=2048)
        client.infer("echo-bytes", [text], outputs=[out])
        found = shm.get_contents_as_numpy(words, np.object_, list(WORDS.shape), offset=2048)
        np.testing.assert_array_equal(found, WORDS)


def test_regions_are_listed_and_gone(api: Any, client: Any) -> None:
    with region(client, "a", 64), region(client, "b", 128):
        status = client.get_system_shared_memory_status()
        sizes = (
            {one["name"]: one["byte_size"] for one in status}
            if api is triton_http
            else {name: one.byte_size for name, one in status.regions.items()}
        )
        assert sizes == {"a": 64, "b": 128}
        with pytest.raises(InferenceServerException, match="registered already"):
            client.register_system_shared_memory("a", "/other", 64)
        client.unregister_system_shared_memory("a")
        client.unregister_system_shared_memory("a")
        with pytest.raises(InferenceServerException, match="'a' is not registered"):
            client.get_system_shared_memory_status("a")
        client.get_system_shared_memory_status("b")
    assert "system_shared_memory" in str(client.get_server_metadata())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no such region": ({"region_name": "none", "byte_size": 192}, "'none' is not registered"),
    "beyond its end": ({"region_name": "r", "byte_size": 192, "offset": 8}, "192 bytes from 8 on are not in"),
    "less than the tensor": ({"region_name": "r", "byte_size": 188}, "wrong number of bytes"),
    "an offset below 0": ({"region_name": "r", "byte_size": 192, "offset": -8}, "from 0 on, given -8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_in_the_region_is_refused(api: Any, client: Any, name: str) -> None:
    place, words = WRONG[name]
    with region(client, "r", X.nbytes):
        x = api.InferInput("x", list(X.shape), "FP32")
        x.set_shared_memory(**place)
        with pytest.raises(InferenceServerException, match=words):
            client.infer("linear", [x])


def test_an_output_that_does_not_fit_is_refused(api: Any, client: Any) -> None:
    with region(client, "r", 64):
        x = api.InferInput("x", list(X.shape), "FP32")
        x.set_data_from_numpy(X)
        y = api.InferRequestedOutput("y")
        y.set_shared_memory("r", 40)
        with pytest.raises(InferenceServerException, match="wanted at least 48 bytes, given 40"):
            client.infer("linear", [x], outputs=[y])


@pytest.mark.parametrize(("other", "offset", "over"), [("a", 24, True), ("b", 24, True), ("a", 48, False)])
def test_outputs_do_not_lie_over_each_other(api: Any, client: Any, other: str, offset: int, over: bool) -> None:
    """Neither in one region nor in two of one object; places may be larger than what is written to them."""
    with region(client, "a", 4096):
        [key] = [
            one["key"] if api is triton_http else one.key
            for one in (
                client.get_system_shared_memory_status()
                if api is triton_http
                else client.get_system_shared_memory_status().regions.values()
            )
        ]
        client.register_system_shared_memory("b", key, 4096)
        x = api.InferInput("x", list(X.shape), "FP32")
        x.set_data_from_numpy(X)
        y, z = api.InferRequestedOutput("y"), api.InferRequestedOutput("z")
        y.set_shared_memory("a", 64)
        z.set_shared_memory(other, 64, offset=offset)
        if over:
            with pytest.raises(InferenceServerException, match="'y' and 'z' would lie over each other"):
                client.infer("twice", [x], outputs=[y, z])
        else:
            client.infer("twice", [x], outputs=[y, z])


def test_a_file_that_is_cut_short_ends_the_request_alone(api: Any, client: Any) -> None:
    with region(client, "cut", X.nbytes):
        [key] = [
            one["key"] if api is triton_http else one.key
            for one in (
                client.get_system_shared_memory_status()
                if api is triton_http
                else client.get_system_shared_memory_status().regions.values()
            )
        ]
        os.truncate(f"/dev/shm{key}", 10)
        x = api.InferInput("x", list(X.shape), "FP32")
        x.set_shared_memory("cut", X.nbytes)
        with pytest.raises(InferenceServerException, match="has been cut short"):
            client.infer("linear", [x])
    assert client.is_server_live()


def test_device_memory_is_refused(client: Any) -> None:
    client.unregister_cuda_shared_memory()
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not served"):
        client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 64)


# --- the registry alone


def open_below(folder: Path) -> list[str]:
    """What this process has open there. Only there: files of other tests are closed whenever their memory is freed."""
    found = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
    return [path for path in found if path.startswith(str(folder))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plain").write_bytes(bytes(range(100)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    "key", ["", "/", "..", "/../etc/passwd", "a/b", "folder", "link", "pipe", "none", "nul\0", "x" * 300]
)
def test_only_plain_files_of_the_folder_are_opened(folder: Path, key: str) -> None:
    with pytest.raises(BadInput, match="key is wrong"):
        Regions(1000, folder).register("r", key, 0, 10)
    assert open_below(folder) == []


@pytest.mark.parametrize(("offset", "size"), [(0, 101), (91, 10), (-1, 10), (0, 0), (1 << 63, 1)])
def test_a_region_lies_within_its_object(folder: Path, offset: int, size: int) -> None:
    with pytest.raises(BadInput, match="byte_size"):
        Regions(1000, folder).register("r", "/plain", offset, size)


def test_reads_and_writes_stay_within_the_region(folder: Path) -> None:
    regions = Regions(50, folder)
    regions.register("r", "/plain", 10, 20)
    assert bytes(regions.read(Place(region="r", offset=5, size=15))) == bytes(range(15, 30))
    regions.write(Place(region="r", offset=18, size=2), b"!!", "y")
    assert (folder / "plain").read_bytes() == bytes(range(28)) + b"!!" + bytes(range(30, 100))
    with pytest.raises(BadInput, match="are not in"):
        regions.write(Place(region="r", offset=19, size=2), b"!!", "y")
    with pytest.raises(BadInput, match="60 bytes: wanted at most 50"):
        regions.check([Place(region="r", offset=0, size=20)] * 3, [])


def test_there_is_an_end_to_regions(folder: Path) -> None:
    regions = Regions(50, folder)
    for number in range(MOST_REGIONS):
        regions.register(str(number), "/plain", 0, 1)
    with pytest.raises(BadInput, match="unregister some"):
        regions.register("more", "/plain", 0, 1)
    assert len(open_below(folder)) == MOST_REGIONS
    regions.unregister()
    assert open_below(folder) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"shared_memory_region": 3, "shared_memory_byte_size": 8},
        {"shared_memory_region": "r"},
        {"shared_memory_region": "r", "shared_memory_byte_size": True},
        {"shared_memory_region": "r", "shared_memory_byte_size": 1 << 62},
        {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": "0"},
    ],
)
def test_a_place_is_a_name_and_two_numbers(parameters: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="shared_memory"):
        place_of(parameters, "input 'x'")
