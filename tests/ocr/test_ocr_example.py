"""The OCR example: its functions, its networks, its data, and the whole pipeline in local mode."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "ocr"
PAGES = 4


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


functions = load(EXAMPLE / "job" / "ocr_functions.py")
evaluate = load(EXAMPLE / "evaluate" / "evaluate.py")
prepare = load(EXAMPLE / "data" / "prepare.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks and a few pages, as the example's Job makes them."""
    folder = tmp_path_factory.mktemp("ocr")
    command = [sys.executable, str(EXAMPLE / "data" / "prepare.py"), "--models", str(folder / "models")]
    subprocess.run([*command, "--pages", str(folder / "data" / "pages"), "--count", str(PAGES)], check=True)
    return folder


@pytest.fixture(scope="module")
def truth(data: Path) -> dict[str, list[str]]:
    return {record["id"]: record["lines"] for record in evaluate.records(data / "data" / "truth.jsonl")}


def session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_the_same_seed_gives_the_same_pages(data: Path, tmp_path: Path) -> None:
    prepare.prepare_pages(tmp_path / "pages", count=2, seed=1)
    for name in ("page-0000.png", "page-0001.png"):
        assert (tmp_path / "pages" / name).read_bytes() == (data / "data" / "pages" / name).read_bytes()
    assert prepare.page_text(5) != prepare.page_text(6)


def test_the_networks_give_what_those_of_the_package_give(data: Path) -> None:
    """Only the arithmetic around them moved inside: pixels in, best classes out."""
    pixels = np.random.default_rng(7).integers(0, 256, (2, 3, 48, 160), np.uint8)
    scaled = (pixels.astype(np.float32) / 255 - 0.5) / 0.5
    package = prepare.package_models()
    probabilities = session(package / prepare.RECOGNIZER).run(None, {"x": scaled})[0]
    classes, scores = session(data / "models" / "recognizer.onnx").run(["classes", "scores"], {"x": pixels})
    assert np.array_equal(classes, probabilities.argmax(axis=2))
    assert np.allclose(scores, probabilities.max(axis=2), atol=1e-4)
    page = np.random.default_rng(8).integers(0, 256, (1, 3, 96, 160), np.uint8)
    wanted = session(package / prepare.DETECTOR).run(None, {"x": (page.astype(np.float32) / 255 - 0.5) / 0.5})[0]
    assert np.allclose(session(data / "models" / "detector.onnx").run(None, {"x": page})[0], wanted, atol=1e-4)


def test_the_alphabet_is_that_of_the_networks_metadata() -> None:
    metadata = session(prepare.package_models() / prepare.RECOGNIZER).get_modelmeta().custom_metadata_map
    assert functions.alphabet() == (*metadata["character"].splitlines(), " ")
    assert len(functions.alphabet()) == 6624


def test_text_boxes_are_the_grown_rectangles_of_likely_regions() -> None:
    probability = np.zeros((200, 300), np.float32)
    probability[50:70, 40:140] = 0.9
    probability[120:140, 40:140] = 0.4
    probability[10, 10] = 0.9
    (box,) = functions.text_boxes(probability)
    area, perimeter = 99 * 19, 2 * (99 + 19)
    grown = area * functions.GROW_RATIO / perimeter
    assert np.allclose(box[0], (40 - grown, 50 - grown), atol=2.5)
    assert np.allclose(box[2], (139 + grown, 69 + grown), atol=2.5)


def test_boxes_are_read_line_by_line() -> None:
    def box(left: float, top: float) -> Any:
        return np.array([[left, top], [left + 9, top], [left + 9, top + 9], [left, top + 9]], np.float32)

    ordered = functions.in_reading_order([box(200, 103), box(5, 300), box(10, 100), box(100, 98)])
    assert [tuple(b[0]) for b in ordered] == [(10, 100), (100, 98), (200, 103), (5, 300)]


def test_a_row_is_padded_to_its_own_bucket() -> None:
    line = np.full((24, 100, 3), 200, np.uint8)
    row = functions.line_row(line)
    assert row.shape == (3, 48, 224)
    assert (row[:, :, :200] == 200).all()
    assert (row[:, :, 200:] == functions.PADDING).all()
    assert functions.line_row(line[:, :20]).shape == (3, 48, functions.MIN_WIDTH)


def test_a_turned_box_is_cut_out_upright() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[10:80, 40:50] = 255
    box = np.array([[40, 10], [49, 10], [49, 79], [40, 79]], np.float32)
    cut = functions.cut_upright(image, box)
    assert cut.shape[1] > 3 * cut.shape[0]


@pytest.mark.parametrize(
    ("size", "wanted"), [((1280, 960), (1280, 960)), ((500, 300), (1216, 736)), ((9000, 3000), (1984, 672))]
)
def test_pages_are_brought_to_a_size_that_the_network_takes(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert functions._network_size(*size) == wanted


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("äb", "ab", 1)],
)
def test_edit_distance(first: str, second: str, distance: int) -> None:
    assert evaluate.edit_distance(first, second) == distance


def rapidocr_pages(folder: Path) -> dict[str, list[str]]:
    """RapidOCR's own pipeline, page by page."""
    from rapidocr_onnxruntime import RapidOCR

    engine = RapidOCR()
    return {path.name: [line[1] for line in engine(str(path))[0] or []] for path in sorted(folder.glob("*.png"))}


@pytest.mark.slow
def test_local_mode_reads_at_least_as_well_as_rapidocr(data: Path, truth: dict[str, list[str]]) -> None:
    files = ["-f", str(EXAMPLE / "job" / "job.yaml"), "-f", str(EXAMPLE / "serve" / "deployment.yaml")]
    volumes = ["--volume", f"ocr-models={data / 'models'}", "--volume", f"ocr-data={data / 'data'}"]
    command = [sys.executable, "-m", "batchwright_worker", "run", *files, *volumes, "--quiet"]
    first = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"{PAGES} of {PAGES} items succeeded, 0 failed" in first.stdout
    ours = evaluate.evaluation(evaluate.read_results(data / "data" / "results"), truth)
    theirs = evaluate.evaluation(rapidocr_pages(data / "data" / "pages"), truth)
    assert ours["characterAccuracy"] >= theirs["characterAccuracy"] - 0.005
    assert ours["characterAccuracy"] > 0.97
    second = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "is complete already" in second.stdout


def test_an_output_that_is_not_whole_is_not_evaluated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not complete"):
        evaluate.read_results(tmp_path)
    (tmp_path / "part-00000.jsonl").write_text("{}\n")
    part = {"name": "part-00000.jsonl", "digest": "0"}
    (tmp_path / "_manifest.json").write_text(json.dumps({"parts": [part]}))
    with pytest.raises(ValueError, match="is not the part"):
        evaluate.read_results(tmp_path)


def test_the_manifests_pass_the_checks_of_the_api() -> None:
    from batchwright_worker.api.documents import validate

    for path in (EXAMPLE / "job" / "job.yaml", EXAMPLE / "serve" / "deployment.yaml"):
        assert validate(yaml.safe_load(path.read_text())) == []
