"""Paths with any signs in them, from a manifest to the file: one pair of functions, found by every way there is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchwright_worker.api.documents import ManifestError
from batchwright_worker.api.model import Artifact
from batchwright_worker.api.names import DATA_DIR, WEIGHTS_DIR, data_path, weights_path
from batchwright_worker.api.rules.model import path_rules
from batchwright_worker.api.uris import (
    OciAddress,
    base_name,
    file_uri,
    is_folder_uri,
    oci_address,
    path_of,
    pvc_uri,
    without_secrets,
)
from batchwright_worker.fetch.addresses import beside, within
from batchwright_worker.local.deployment import local_deployment
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.storage.locations import locate

ODD = "a b+c%20d%é#?&;[1]*~'\"\\日本.onnx"
signs = st.one_of(
    st.sampled_from("a .+%#?&;=[]*~'\"\\:@2E0é日"), st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
)
names = st.one_of(
    st.text(signs, min_size=1, max_size=20).filter(lambda name: name not in (".", "..")),
    st.binary(min_size=1, max_size=8).map(os.fsdecode),
).filter(lambda name: name not in (".", "..") and "/" not in name and "\0" not in name)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


def stays_within(uri: str) -> bool:
    """As manifests are judged."""
    return all(rule.holds(uri) for rule in path_rules(Artifact))


@given(paths)
@example(ODD)
@example("%2e%2e/%2F")
def test_an_address_of_a_path_means_that_path(path: str) -> None:
    assert path_of(file_uri(f"/{path}")) == f"/{path}"
    assert path_of(pvc_uri("claim", path)) == path
    assert stays_within(file_uri(f"/{path}"))
    assert stays_within(pvc_uri("claim", path))
    assert file_uri(f"/{path}").isascii()


@given(paths)
@example(ODD)
def test_containers_see_the_path_that_the_address_means(path: str) -> None:
    assert weights_path(file_uri(f"/{path}")) == f"/{path}"
    assert weights_path(pvc_uri("claim", path)) == f"{WEIGHTS_DIR}/pvc/claim/{path}"
    assert data_path(pvc_uri("claim", path)) == f"{DATA_DIR}/pvc/claim/{path}"
    assert locate(file_uri(f"/{path}")).path == os.path.normpath(f"/{path}")
    assert locate(pvc_uri("claim", path)).path == os.path.normpath(f"{DATA_DIR}/pvc/claim/{path}")


@given(st.text(signs, max_size=30))
def test_a_fetched_file_lies_in_its_own_folder_whatever_its_address_is(rest: str) -> None:
    for scheme in ("https", "s3", "gs", "az", "hf"):
        place = Path(weights_path(f"{scheme}://host/{rest}"))
        assert place.parent.parent == Path(f"{WEIGHTS_DIR}/fetched")
        assert len(os.fsencode(place.name)) <= 250


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("https://h/a%20b.onnx?sig=a%2Fb/c", "a b.onnx"),
        ("https://h/a%2Fb.onnx", "artifact"),
        ("s3://b/a%20b#c?d.onnx", "a%20b#c?d.onnx"),
        ("s3://b/folder/", "folder"),
        ("https://h/..", "artifact"),
        (f"https://h/{'x' * 300}.onnx", "artifact.onnx"),
    ],
)
def test_the_name_of_a_fetched_file(uri: str, name: str) -> None:
    assert base_name(uri) == name


@pytest.mark.parametrize(
    "uri", ["pvc://c/%2e%2e/x", "pvc://c/a/..%2Fx", "pvc://c/a/..%2fx", "pvc://c/%2E./x", "pvc://c/a%00b"]
)
def test_no_step_out_of_the_volume_hides_in_percent_signs(uri: str) -> None:
    assert not stays_within(uri)
    for address in (uri, uri.replace("pvc://c", "file://")):
        with pytest.raises(ValueError, match="as they are"):
            weights_path(address)
    with pytest.raises(StepFailed, match="as they are"):
        locate(uri)


def test_a_url_may_have_encoded_slashes_and_a_query() -> None:
    url = "https://git.example/api/group%2Fname/raw/m.onnx?ref=a"
    assert stays_within(url)
    assert beside(url, "w 1.bin") == "https://git.example/api/group%2Fname/raw/w%201.bin?ref=a"
    assert is_folder_uri("https://h/a/?sig=x")
    assert not is_folder_uri("https://h/a?x=/")


def test_a_key_of_a_store_is_taken_letter_by_letter() -> None:
    assert beside("s3://b/a#1/m?.onnx", "w%201.bin") == "s3://b/a#1/w%201.bin"
    assert within("s3://b/a?/", "x#y") == "s3://b/a?/x#y"
    assert not is_folder_uri("s3://b/a/?x")


def manifest(uri: str) -> list[dict[str, Any]]:
    model = {"name": "m", "artifacts": [{"format": "onnx", "uri": uri}]}
    return [
        {
            "apiVersion": "batchwright.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "d"},
            "spec": {"models": [model]},
        }
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(name=names.filter(lambda name: len(os.fsencode(name)) < 100))
@example(name=ODD)
def test_serve_finds_files_of_any_name_on_disk_and_on_claims(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / name).touch()
    for uri in (file_uri(folder / name), pvc_uri("claim", f"{name}/{name}")):
        found = local_deployment(manifest(uri), None, None, {"claim": tmp_path}).document
        assert weights_path(found["spec"]["models"][0]["artifacts"][0]["uri"]) == str(folder / name)


PINNED = f"host/team/net@sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("rest", "reference", "path"),
    [
        (PINNED, PINNED, ""),
        (f"{PINNED}/", PINNED, ""),
        (f"{PINNED}/models/a b@c:1.onnx", PINNED, "models/a b@c:1.onnx"),
        ("host:5000/net:1.2-x/model.onnx", "host:5000/net:1.2-x", "model.onnx"),
        (f"host/net:1@sha256:{'b' * 64}/m/", f"host/net:1@sha256:{'b' * 64}", "m/"),
        ("host/team/net", "host/team/net", ""),
        ("host/team/net/model.onnx", "host/team/net/model.onnx", ""),
    ],
)
def test_an_address_of_an_image_is_a_reference_and_a_path_in_it(rest: str, reference: str, path: str) -> None:
    uri = f"oci://{rest}"
    assert oci_address(uri) == OciAddress(reference, path)
    assert is_folder_uri(uri) is (path in ("", "m/"))
    assert weights_path(uri).startswith(f"{WEIGHTS_DIR}/oci/")
    assert weights_path(uri).endswith(f"/{path}")


def test_files_of_one_image_lie_beside_each_other_and_apart_from_others() -> None:
    folders = [Path(weights_path(f"oci://{image}/m.onnx")).parent for image in (PINNED, PINNED, "host/net:1")]
    assert folders[0] == folders[1] != folders[2]


def test_serve_finds_the_files_of_an_image_where_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.onnx").touch()
    uri = f"oci://{PINNED}/models/m.onnx"
    found = local_deployment(manifest(uri), None, None, {PINNED: tmp_path}).document
    assert weights_path(found["spec"]["models"][0]["artifacts"][0]["uri"]) == str(tmp_path / "models" / "m.onnx")
    with pytest.raises(ManifestError, match=f"--volume {PINNED}=FOLDER"):
        local_deployment(manifest(uri), None, None, {})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@h.example/a/m.onnx: status 404: no", "https://..@h.example/a/m.onnx: status 404: no"),
        ("https://u:p@w@h:8443/m", "https://..@h:8443/m"),
        ("s3://key:secret@bucket/m.onnx", "s3://..@bucket/m.onnx"),
        ("at https://h/m.onnx?sv=1&sig=a%2Bb==: status 403", "at https://h/m.onnx?..: status 403"),
        ("(HTTPS://h/m?sig=s), then https://g?t=T", "(HTTPS://h/m?..), then https://g?.."),
        ("for url (https://h/m?se=2026-01-01T00:00:00Z&sig=s)", "for url (https://h/m?..)"),
        ("hf://org/model@main/a?b: not there", "hf://org/model@main/a?b: not there"),
        ("oci://h/r@sha256:0/m and pvc://claim/a@b?c", "oci://h/r@sha256:0/m and pvc://claim/a@b?c"),
        ("is it at https://h/m? no", "is it at https://h/m?.. no"),
    ],
)
def test_secrets_in_addresses_are_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
