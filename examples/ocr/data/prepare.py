"""Prepare the OCR example: the two networks of PyPI's rapidocr-onnxruntime, and pages of known text.

    python prepare.py --models DIR --pages DIR [--count 60] [--seed 1]

Writes MODELS/detector.onnx and MODELS/recognizer.onnx: the package's networks with the arithmetic around them moved
inside, so that bytes travel instead of floats: pixels enter as uint8 and are scaled to [-1, 1] there, the recognizer
gives the best class of every step and its probability instead of all 6,625. Then PAGES/page-0007.png .. and
PAGES/../truth.jsonl ({"id", "lines"} per page).
The same seed gives the same bytes; what is there already and whole is left alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import textwrap
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

PAGE_WIDTH, PAGE_HEIGHT = 960, 1280
LINES = 18
MARGIN = 60
LINE_HEIGHT = 48
DETECTOR = "ch_PP-OCRv4_det_infer.onnx"
RECOGNIZER = "ch_PP-OCRv4_rec_infer.onnx"
WORDS = """
account across after again air almost along always among animal answer apple area around autumn balance bank basket
because bell below bench beside between bird blanket board boat bottle bread bridge bright brother building butter
candle captain carbon carpet castle cattle center chair chance change cheese circle citizen clean clear clock cloud
coast coffee color common copper corner cotton country cousin cover crown current danger daughter degree desert dinner
distance doctor dollar double dozen early earth edge eight electric engine evening example explain family farmer
figure finger finish flower follow forest forward frame friend garden gather gentle glass golden grain green ground
group handle harbor heavy history hollow honest horse hotel hundred island jacket journey kettle kitchen ladder
language large laughter leather lemon letter level library listen little machine market matter meadow measure metal
middle minute mirror modern moment money morning mountain music narrow nation nature needle neighbor north notice
number object ocean office orange orchard order palace paper parent pattern pencil people perfect picture plain planet
plenty pocket present price problem public purple quarter question quiet rabbit railway rather reason record river
rocket rough round sailor salmon school season second shadow shelter shoulder signal silver simple sister smooth south
spoon spring square station steam stone storm stranger street stripe summer supper surface table teacher temple thread
through ticket timber together tower travel triangle tunnel twenty uncle under useful valley village vision wagon water
weather whisper whole window winter wonder yellow young
""".split()  # noqa: SIM905 - a list of words reads better


def main() -> None:
    """Write what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder for the networks")
    parser.add_argument("--pages", type=Path, required=True, help="folder for the pages")
    parser.add_argument("--count", type=int, default=60, help="number of pages")
    parser.add_argument("--seed", type=int, default=1, help="seed of the text")
    args = parser.parse_args()
    prepare_models(args.models)
    prepare_pages(args.pages, count=args.count, seed=args.seed)
    print(f"{args.models}: two networks; {args.pages}: {args.count} pages of {LINES} lines")


def prepare_models(folder: Path) -> None:
    """Write the networks."""
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    source = package_models()
    detector = with_pixels(onnx.load(str(source / DETECTOR)), height=None)
    recognizer = with_best_class(with_pixels(onnx.load(str(source / RECOGNIZER)), height=LINE_HEIGHT))
    for name, model in (("detector", detector), ("recognizer", recognizer)):
        onnx.checker.check_model(model)
        write(folder / f"{name}.onnx", model.SerializeToString(deterministic=True))


def package_models() -> Path:
    """Where the installed package keeps its networks (it is not imported: that would load all of them)."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("rapidocr-onnxruntime is not installed: pip install 'batchwright[worker,ocr]'")
    return Path(spec.origin).parent / "models"


def with_pixels(model: Any, *, height: int | None) -> Any:
    """The network with input `x` as uint8 (batch x 3 x height x width) in place of floats (x / 255 - 0.5) / 0.5."""
    from onnx import TensorProto, helper

    graph = model.graph
    wanted = graph.input[0].name
    for node in graph.node:
        node.input[:] = [f"{wanted}_scaled" if name == wanted else name for name in node.input]
    scale = [
        helper.make_node("Cast", [wanted], [f"{wanted}_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{wanted}_float", "pixel_scale"], [f"{wanted}_spread"]),
        helper.make_node("Sub", [f"{wanted}_spread", "pixel_offset"], [f"{wanted}_scaled"]),
    ]
    nodes = [*scale, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        [
            helper.make_tensor("pixel_scale", TensorProto.FLOAT, [], [2.0 / 255.0]),
            helper.make_tensor("pixel_offset", TensorProto.FLOAT, [], [1.0]),
        ]
    )
    del graph.input[:]
    graph.input.append(
        helper.make_tensor_value_info(wanted, TensorProto.UINT8, ["batch", 3, height or "height", "width"])
    )
    return model


def with_best_class(model: Any) -> Any:
    """The network with outputs `classes` (int64, steps) and `scores` (float32, steps) instead of steps x classes:
    the first step of greedy decoding. 6,625 probabilities for each of some 100 steps make 2 MB a line, 40 MB a page."""
    from onnx import TensorProto, helper

    graph = model.graph
    probabilities = graph.output[0].name
    graph.node.extend(
        [
            helper.make_node("ArgMax", [probabilities], ["classes"], axis=2, keepdims=0),
            helper.make_node("ReduceMax", [probabilities], ["scores"], axes=[2], keepdims=0),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("classes", TensorProto.INT64, ["batch", "steps"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "steps"]),
        ]
    )
    return model


def prepare_pages(folder: Path, *, count: int, seed: int) -> None:
    """Render the pages and write their text. The folder appears whole: a job that waits for it sees all pages."""
    whole, folder = folder, folder.with_name(f".{folder.name}.{seed}")
    if whole.exists():
        folder = whole
    folder.mkdir(parents=True, exist_ok=True)
    truth = []
    for number in range(count):
        name = f"page-{number:04d}.png"
        lines = page_text(seed * 1_000_003 + number)
        truth.append(json.dumps({"id": name, "lines": lines}))
        if not (folder / name).exists():
            render(lines, folder / name, seed=number)
    write(folder.parent / "truth.jsonl", ("\n".join(truth) + "\n").encode())
    if folder != whole:
        folder.replace(whole)


def page_text(seed: int) -> list[str]:
    """The lines of one page: sentences of common words with some numbers, wrapped at a width drawn for each line."""
    generator = random.Random(seed)  # noqa: S311 - text, not a secret
    words: list[str] = []
    while sum(len(word) + 1 for word in words) < LINES * 60:
        sentence = [generator.choice(WORDS) for _ in range(generator.randint(5, 11))]
        if generator.random() < 0.3:
            sentence.insert(generator.randrange(1, len(sentence)), str(generator.randint(2, 9999)))
        sentence[0] = sentence[0].capitalize()
        words += [*sentence[:-1], sentence[-1] + generator.choice("...,?!;")]
    text = " ".join(words)
    lines: list[str] = []
    while len(lines) < LINES:
        line = textwrap.wrap(text, generator.choice((24, 32, 40, 48, 48)))[0]
        lines.append(line)
        text = text[len(line) :].lstrip()
    return lines


def render(lines: list[str], path: Path, *, seed: int) -> None:
    """One page: dark text of one size on light paper, with a little noise of the paper."""
    generator = random.Random(seed)  # noqa: S311 - text, not a secret
    paper = generator.randint(235, 255)
    image = Image.new("RGB", (PAGE_WIDTH, PAGE_HEIGHT), (paper, paper, generator.randint(225, paper)))
    draw = ImageDraw.Draw(image)
    size = generator.randint(29, 33)
    font = ImageFont.load_default(size)
    step = (PAGE_HEIGHT - 2 * MARGIN) / LINES
    ink = generator.randint(0, 60)
    for number, line in enumerate(lines):
        left = MARGIN + generator.randint(0, 12)
        draw.text((left, MARGIN + number * step), line, fill=(ink, ink, ink), font=font)
    temporary = path.with_suffix(".tmp")
    image.save(temporary, format="PNG", compress_level=3)
    temporary.replace(path)


def write(path: Path, data: bytes) -> None:
    """Whole or not at all; an equal file is left as it is (its time of modification is part of a plan)."""
    if path.exists() and path.read_bytes() == data:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


if __name__ == "__main__":
    main()
