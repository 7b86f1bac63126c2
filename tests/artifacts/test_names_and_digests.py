"""Which names a file of an artifact may have, and the digest that several files have together."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchwright_worker.artifacts.command import command
from batchwright_worker.artifacts.digest import digest_of, lines, parsed_lines, sums_of
from batchwright_worker.artifacts.names import MOST_FILES, ArtifactError, checked_name, checked_names

FILES = {"model.onnx": b"m", "tokenizer/vocab.txt": b"words", "a b.txt": b"", "Z": b"z", "ä": b"umlaut"}


def folder(root: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, body in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
    return root


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "a//b",
        "a/",
        ".",
        "a\\b",
        "a\nb",
        "a\0",
        "x" * 1025,
        "\ud800",
    ],
)
def test_names_that_leave_the_folder_or_hide_are_refused(name: str) -> None:
    with pytest.raises(ArtifactError, match="the index names"):
        checked_name(name, "the index")


@pytest.mark.parametrize("name", ["a", "a/b.c", ".gitattributes", "a..b", "a b", "ä", "./a"])
def test_usual_names_are_taken(name: str) -> None:
    assert checked_name(name, "the index") == name.removeprefix("./")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "a/b"], "'a' as a file and as the folder of 'a/b'"),
        (["a", "./a"], "'a' twice"),
        ([f"{number}" for number in range(MOST_FILES + 1)], f"{MOST_FILES + 1} files, at most {MOST_FILES}"),
    ],
    ids=["file and folder", "twice", "too many"],
)
def test_sets_of_names_that_no_folder_can_have(names: list[str], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        checked_names(names, "the index")


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    path = folder(tmp_path) / "model.onnx"
    assert digest_of(path, "python") == hashlib.sha256(b"m").hexdigest()


def test_the_digest_of_a_folder_is_what_the_shell_says(tmp_path: Path) -> None:
    folder(tmp_path)
    shell = r"find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum"
    said = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert digest_of(tmp_path, "onnx") == said.split()[0]


@pytest.mark.parametrize("change", [{"model.onnx": b"M"}, {"more": b""}], ids=["another byte", "another file"])
def test_any_change_is_another_digest(change: dict[str, bytes], tmp_path: Path) -> None:
    before = digest_of(folder(tmp_path), "onnx")
    assert digest_of(folder(tmp_path, change), "onnx") != before


def test_the_index_is_no_part_of_the_folder(tmp_path: Path) -> None:
    before = digest_of(folder(tmp_path), "onnx")
    listed = CliRunner().invoke(command, ["--list", str(tmp_path)])
    (tmp_path / "SHA256SUMS").write_text(listed.output)
    assert digest_of(tmp_path, "onnx") == before == CliRunner().invoke(command, [str(tmp_path)]).output.strip()
    assert parsed_lines(listed.output) == sums_of(tmp_path, "onnx")
    assert hashlib.sha256(listed.output.encode()).hexdigest() == before
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path, check=False).returncode == 0


def test_a_link_to_a_file_is_what_it_leads_to_and_one_to_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"m")
    folder(tmp_path / "model", {"x": b"m"})
    plain = digest_of(tmp_path / "model", "onnx")
    (tmp_path / "model" / "x").unlink()
    (tmp_path / "model" / "x").symlink_to(tmp_path / "blob")
    assert digest_of(tmp_path / "model", "onnx") == plain
    (tmp_path / "model" / "loop").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="link to a folder"):
        digest_of(tmp_path / "model", "onnx")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="no regular file"):
        digest_of(tmp_path, "onnx")


@pytest.mark.parametrize("text", ["no digest", f"{'0' * 64}  ../x", f"{'0' * 64}  a\n{'1' * 64}  a", f"{'0' * 63}G  a"])
def test_an_index_that_is_none(text: str) -> None:
    with pytest.raises(ArtifactError, match="SHA256SUMS"):
        parsed_lines(text)


def test_an_index_as_find_and_sha256sum_write_it() -> None:
    zeros = "0" * 64
    assert parsed_lines(f"{zeros}  ./b\n{zeros} *a\n{zeros}  SHA256SUMS\n") == {"a": zeros, "b": zeros}
    assert parsed_lines(f"{zeros}  a\u2028b\r\n{zeros}  c") == {"a\u2028b": zeros, "c": zeros}
    assert parsed_lines("") == {}
    assert lines({"b": zeros, "a": zeros}) == f"{zeros}  a\n{zeros}  b\n"
