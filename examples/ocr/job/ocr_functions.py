"""The CPU tasks of the OCR example: page -> (detector) -> lines -> (recognizer) -> text.

    page(item)              the decoded page as the detector's row
    lines(page, detect)     where the detector sees text: one recognizer row per line, in reading order
    text(recognize)         best-path decoding of each line

Text regions follow from the detector's probability map by the published post-processing of DB ("Real-time Scene Text
Detection with Differentiable Binarization", 2020): binarize, take each contour's smallest rectangle, drop it if the
mean probability inside is low, and grow it by area * ratio / perimeter, since the network is trained on shrunk regions.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyclipper
from numpy.typing import NDArray

from batchwright_worker.runner.cpu.builtin.scores import best_path
from batchwright_worker.runner.cpu.functions import produces

cv2.setNumThreads(1)  # the pool has a process per core already

Image = NDArray[np.uint8]
Box = NDArray[np.float32]
"""Corners (x, y) from the top left one clockwise, 4 x 2."""

SIDE_MULTIPLE = 32
MAX_SIDE = 2000
MIN_SIDE = 736
MAX_PIXELS = 64_000_000
THRESHOLD = 0.3
BOX_THRESHOLD = 0.5
GROW_RATIO = 1.6
MIN_BOX_SIDE = 3
MAX_BOXES = 1000
LINE_HEIGHT = 48
WIDTH_BUCKET = 32
MIN_WIDTH = 160
MAX_WIDTH = 2400
PADDING = 128
"""Middle grey: zero once the network has brought pixels to [-1, 1]."""
SAME_LINE_PIXELS = 10
MIN_SCORE = 0.5
RECOGNIZER = "ch_PP-OCRv4_rec_infer.onnx"


@produces(x=("UINT8", (3, -1, -1)))
def page(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The page as the detector's row: channels (blue, green, red) x height x width, sides multiples of 32."""
    data = inputs["item"]["data"]
    _check_size(data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("not an image that OpenCV can read: the file is corrupt or of another type")
    height, width = _network_size(*image.shape[:2])
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height))
    return {"x": np.ascontiguousarray(image.transpose(2, 0, 1))}


def _check_size(data: bytes) -> None:
    """Look at the header alone: a decompression bomb must not be decoded."""
    from io import BytesIO

    from PIL import Image as Pictures

    try:
        with Pictures.open(BytesIO(data)) as picture:
            width, height = picture.size
    except (OSError, SyntaxError, Pictures.DecompressionBombError) as error:
        raise ValueError(f"the image is corrupt or far too large: {error}") from error
    if width * height > MAX_PIXELS:
        raise ValueError(f"the page has {width} x {height} pixels, more than {MAX_PIXELS}: shrink it")


def _network_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(height, width))
    scale = max(scale, min(MIN_SIDE / min(height, width), MAX_SIDE / max(height, width)))
    return _multiple(height * scale), _multiple(width * scale)


def _multiple(side: float) -> int:
    return max(SIDE_MULTIPLE, round(side / SIDE_MULTIPLE) * SIDE_MULTIPLE)


@produces(x=("UINT8", (3, LINE_HEIGHT, -1)))
def lines(inputs: Mapping[str, Any]) -> list[dict[str, Image]]:
    """One recognizer row per line of text, in reading order: cut out upright, 48 pixels high, padded to its bucket."""
    probability = next(iter(inputs["detect"].values()))[0]
    image = np.ascontiguousarray(inputs["page"]["x"].transpose(1, 2, 0))
    boxes = in_reading_order(text_boxes(probability))
    return [{"x": line_row(cut_upright(image, box))} for box in boxes]


def text_boxes(probability: NDArray[np.float32]) -> list[Box]:
    """Regions of text in a probability map (height x width), in the map's own coordinates."""
    mask = cv2.dilate((probability > THRESHOLD).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    found = (_grown_box(contour, probability) for contour in contours[:MAX_BOXES])
    return [box for box in found if box is not None]


def _grown_box(contour: NDArray[np.int32], probability: NDArray[np.float32]) -> Box | None:
    box, side = _smallest_box(contour)
    if side < MIN_BOX_SIDE or _mean_inside(box, probability) < BOX_THRESHOLD:
        return None
    grown, side = _smallest_box(_grown(box))
    if side < MIN_BOX_SIDE + 2:
        return None
    height, width = probability.shape
    limit = np.array([width - 1, height - 1], np.float32)
    clipped = np.clip(np.round(grown), 0, limit).astype(np.float32)
    sides = np.linalg.norm(clipped[0] - clipped[1]), np.linalg.norm(clipped[0] - clipped[3])
    return clipped if min(sides) > MIN_BOX_SIDE else None


def _smallest_box(points: NDArray[Any]) -> tuple[Box, float]:
    """Corners of the smallest rectangle around the points, clockwise from the top left, and its shorter side."""
    rectangle = cv2.minAreaRect(points)
    corners = cv2.boxPoints(rectangle)
    left, right = np.split(corners[np.argsort(corners[:, 0], kind="stable")], 2)
    top_left, bottom_left = left[np.argsort(left[:, 1], kind="stable")]
    top_right, bottom_right = right[np.argsort(right[:, 1], kind="stable")]
    box = np.stack([top_left, top_right, bottom_right, bottom_left]).astype(np.float32)
    return box, float(min(rectangle[1]))


def _mean_inside(box: Box, probability: NDArray[np.float32]) -> float:
    height, width = probability.shape
    left, top = np.clip(np.floor(box.min(axis=0)).astype(int), 0, (width - 1, height - 1))
    right, bottom = np.clip(np.ceil(box.max(axis=0)).astype(int), 0, (width - 1, height - 1))
    inside = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    corners = (box - np.array([left, top], np.float32)).astype(np.int32)
    cv2.fillPoly(inside, [corners], 1)
    return float(cv2.mean(probability[top : bottom + 1, left : right + 1], inside)[0])


def _grown(box: Box) -> NDArray[np.float32]:
    area = cv2.contourArea(box)
    distance = area * GROW_RATIO / cv2.arcLength(box, closed=True)
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(box.tolist(), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    paths = offset.Execute(distance)
    return np.array(max(paths, key=len), np.float32).reshape(-1, 1, 2)


def in_reading_order(boxes: Sequence[Box]) -> list[Box]:
    """From top to bottom; boxes whose tops differ by less than SAME_LINE_PIXELS are one line, from left to right."""
    ordered: list[Box] = []
    line: list[Box] = []
    for box in sorted(boxes, key=lambda box: (float(box[0][1]), float(box[0][0]))):
        if line and box[0][1] - line[-1][0][1] >= SAME_LINE_PIXELS:
            ordered += sorted(line, key=lambda box: float(box[0][0]))
            line = []
        line.append(box)
    return ordered + sorted(line, key=lambda box: float(box[0][0]))


def cut_upright(image: Image, box: Box) -> Image:
    """The box's pixels as an upright rectangle; a region much higher than wide is text turned by a quarter."""
    width = int(max(np.linalg.norm(box[0] - box[1]), np.linalg.norm(box[2] - box[3])))
    height = int(max(np.linalg.norm(box[0] - box[3]), np.linalg.norm(box[1] - box[2])))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    transform = cv2.getPerspectiveTransform(box, target)
    cut = cv2.warpPerspective(image, transform, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(np.rot90(cut)) if height >= 1.5 * width else cut


def line_row(line: Image) -> Image:
    """The recognizer's row: 3 x 48 x width, the width padded with grey to a multiple of WIDTH_BUCKET.

    A row's own width decides its bucket, never its mates', so that its result does not depend on them.
    """
    height, width = line.shape[:2]
    scaled = min(MAX_WIDTH, max(1, math.ceil(LINE_HEIGHT * width / height)))
    bucket = max(MIN_WIDTH, math.ceil(scaled / WIDTH_BUCKET) * WIDTH_BUCKET)
    row = np.full((3, LINE_HEIGHT, bucket), PADDING, np.uint8)
    row[:, :, :scaled] = cv2.resize(line, (scaled, LINE_HEIGHT)).transpose(2, 0, 1)
    return row


def text(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Lines of the page and their scores; lines below MIN_SCORE are left out."""
    found = [best_path(row["classes"], row["scores"], alphabet()) for row in inputs["recognize"]]
    kept = [line for line in found if line["score"] >= MIN_SCORE]
    return {"lines": [line["text"] for line in kept], "scores": [round(line["score"], 4) for line in kept]}


@functools.lru_cache(maxsize=1)
def alphabet() -> tuple[str, ...]:
    """The recognizer's characters in the order of its classes, from the metadata of the network in the package; class 0
    is the blank, the last one the space."""
    import onnx

    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        raise ValueError("the runner image lacks rapidocr-onnxruntime, whose network holds the alphabet")
    model = onnx.load(str(Path(spec.origin).parent / "models" / RECOGNIZER))
    characters = next(entry.value for entry in model.metadata_props if entry.key == "character")
    return (*characters.splitlines(), " ")
