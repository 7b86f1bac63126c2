"""The paths of the inference port: those of docs/openapi.yaml, and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchwright_worker.language.routes import PATHS as TEXTS
from batchwright_worker.protocol.http.paths import PATHS, PathTable, PathTemplate, Target

DESCRIBED = yaml.safe_load((Path(__file__).parents[2] / "docs" / "openapi.yaml").read_text())["paths"]
ALL = [(table, path) for table in (PATHS, TEXTS) for path in table.paths]
FILLED = {"model": "m", "version": "1", "region": "r"}


def test_the_description_has_every_path_and_no_other() -> None:
    described = {
        (method.upper(), path) for path, item in DESCRIBED.items() for method in item if method != "parameters"
    }
    ours = {(method, path.template) for _, path in ALL for method in path.method.split(" or ")}
    assert ours == described


def test_the_description_names_every_parameter_of_a_path() -> None:
    for path, item in DESCRIBED.items():
        named = {each["$ref"].rpartition("/")[2] for each in item.get("parameters", ())}
        assert named == set(re.findall(r"{(\w+)}", path)), path


@pytest.mark.parametrize(("table", "path"), ALL, ids=[f"{path.method} {path.template}" for _, path in ALL])
def test_a_path_is_found(table: PathTable[Any], path: PathTemplate[Any]) -> None:
    here = table.found([FILLED.get(part.strip("{}"), part) if part.startswith("{") else part for part in path.parts])
    assert here is not None
    assert here[0] is path
    assert all(getattr(here[1], name) == FILLED[name] for name in re.findall(r"{(\w+)}", path.template))


@pytest.mark.parametrize(
    "path", ["", "v3", "v2/models", "v2/models/m/nothing", "v2/models/m/versions/1/nothing", "v2/models/m/infer/more"]
)
def test_elsewhere_is_nothing(path: str) -> None:
    assert PATHS.found(path.split("/")) is None


def test_a_name_is_a_whole_part() -> None:
    """Also one that looks like a path's own word, and one with a slash in it."""
    assert PATHS.found(["v2", "models", "a/b", "versions", "versions"]) == (
        next(each for each in PATHS.paths if each.template == "/v2/models/{model}/versions/{version}"),
        Target(model="a/b", version="versions"),
    )
