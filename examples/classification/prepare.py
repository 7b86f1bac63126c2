"""Prepare the classification example: a network of PyPI's rapidocr-onnxruntime, and pictures of lines of text.

    python examples/classification/prepare.py FOLDER [--count 60] [--seed 1]

Writes FOLDER/direction.onnx, which tells lines of text that stand upright from those upside down, and pictures
FOLDER/lines/upright-0001.png, upside-down-0002.png, ... The same seed gives the same pictures.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WORDS = "amber bridge candle damson ember falcon garnet harbour island juniper kernel lantern meadow nectar".split()  # noqa: SIM905


def main() -> None:
    """Write all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    lines = args.folder / "lines"
    lines.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(network(), args.folder / "direction.onnx")
    generator = random.Random(args.seed)  # noqa: S311 - no secret
    for number in range(args.count):
        picture = line(" ".join(generator.sample(WORDS, 2)))
        turned = number % 2 == 1
        name = f"{'upside-down' if turned else 'upright'}-{number:04d}.png"
        (picture.rotate(180) if turned else picture).save(lines / name)
    print(f"{args.folder}: direction.onnx, {args.count} pictures in {lines}")


def network() -> Path:
    """Where the installed package keeps it (it is not imported: that would load all of its networks)."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("rapidocr-onnxruntime is not installed: pip install 'batchwright[worker,ocr]'")
    [path] = Path(spec.origin).parent.rglob("*cls_infer.onnx")
    return path


def line(text: str) -> Image.Image:
    """Black on white, as high as the network wants it."""
    font = ImageFont.load_default(size=30)
    width = int(font.getlength(text)) + 20
    picture = Image.new("RGB", (width, 48), "white")
    ImageDraw.Draw(picture).text((10, 4), text, fill="black", font=font)
    return picture


if __name__ == "__main__":
    main()
