"""What `mobilette audit` finds of planted faults, and how long it takes.

    python bench/audit.py [labels] [duplicates] [hash] [seconds] [--shared ../shared]

``labels``: 5% of the labels of each set become another class, uniformly. ``duplicates``: every
image has a copy that is cropped, compressed, brighter, darker or mirrored; pairs named among the
untouched images are written to build/audit/ for looking at. ``hash``: decoding with and without
thumbnails, in turns. ``seconds``: a whole audit of 10,000 images at 32x32 and of 1,700 at 160.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageEnhance, ImageOps

from mobilette.data.decoding import decode
from mobilette.data.duplicates import near_duplicates, thumbnail
from mobilette.data.images import LabelledImage
from mobilette.data.sources import find_images
from mobilette.workflows.audit import Audit, audit

ROOT = Path(__file__).resolve().parents[1]
SETS = ("cifar10-4k", "flowers200", "imagenette-small")
WEIGHTS = "weights/mobilenet_v1_0.75_224_imagenet_tfjs"
PARTS = ("labels", "duplicates", "hash", "seconds")
WRONG = 0.05

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def _crop(image: Image.Image, left: float, top: float) -> Image.Image:
    width, height = round(image.width * 0.9), round(image.height * 0.9)
    x, y = round((image.width - width) * left), round((image.height - height) * top)
    return image.crop((x, y, x + width, y + height))


def _jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file).convert("RGB")


PLANTED: dict[str, Change] = {
    "crop 90%, centre": lambda image, rng: _crop(image, 0.5, 0.5),
    "crop 90%, anywhere": lambda image, rng: _crop(image, *rng.random(2)),
    "JPEG quality 60": lambda image, rng: _jpeg(image),
    "brightness +15%": lambda image, rng: ImageEnhance.Brightness(image).enhance(1.15),
    "brightness -15%": lambda image, rng: ImageEnhance.Brightness(image).enhance(0.85),
    "mirror": lambda image, rng: ImageOps.mirror(image),
    "crop, mirror and JPEG": lambda image, rng: _jpeg(
        ImageOps.mirror(_crop(image, *rng.random(2)))
    ),
}


def _images(folder: Path) -> list[LabelledImage]:
    return [image for some in find_images(folder).splits.values() for image in some]


def duplicates(folder: Path) -> Iterator[str]:
    """Yield a row per kind of planted copies, and one of the untouched images."""
    rng = np.random.default_rng(0)
    images = [image.open().convert("RGB") for image in _images(folder)]
    untouched = np.stack([thumbnail(image) for image in images])
    begin = time.perf_counter()
    named = near_duplicates(untouched)
    seconds = time.perf_counter() - begin
    touched = {index for pair in named for index in (pair.first, pair.second)}
    _show(folder.name, images, [(pair.first, pair.second) for pair in named])
    yield (
        f"{folder.name}: untouched: {len(named)} pairs, {len(touched)} of {len(images)} images "
        f"({len(touched) / len(images):.2%}), {seconds:.1f} s; see build/audit/{folder.name}.png"
    )
    for kind, change in PLANTED.items():
        copies = np.stack([thumbnail(change(image, rng)) for image in images])
        pairs = near_duplicates(np.concatenate([untouched, copies]))
        found = sum(pair.second == pair.first + len(images) for pair in pairs)
        yield f"{folder.name}: {kind}: {found / len(images):.2%} of {len(images)} found"


def _show(name: str, images: list[Image.Image], pairs: list[tuple[int, int]]) -> None:
    """Write pairs side by side into one image."""
    side, columns = 96, 12
    sheet = Image.new("RGB", (columns * 2 * (side + 4), (len(pairs) // columns + 1) * (side + 8)))
    for place, pair in enumerate(pairs):
        for number, index in enumerate(pair):
            x = (place % columns * 2 + number) * (side + 4) - 4 * number
            sheet.paste(images[index].resize((side, side)), (x, place // columns * (side + 8)))
    (ROOT / "build/audit").mkdir(parents=True, exist_ok=True)
    sheet.save(ROOT / "build/audit" / f"{name}.png")


def labels(folder: Path, weights: Path, seed: int) -> str:
    """Return how many of the planted wrong labels are found."""
    rng = np.random.default_rng(seed)
    found = find_images(folder)
    images = [image for some in found.splits.values() for image in some]
    count = len(found.classes)
    wrong = set(rng.permutation(len(images))[: round(WRONG * len(images))].tolist())
    with tempfile.TemporaryDirectory() as scratch:
        for index, image in enumerate(images):
            assert isinstance(image.label, int)
            label = (
                (image.label + int(rng.integers(1, count))) % count
                if index in wrong
                else image.label
            )
            place = Path(scratch, found.classes[label], f"{index:06}-{Path(image.name).name}")
            place.parent.mkdir(exist_ok=True)
            assert isinstance(image.content, Path)
            place.symlink_to(image.content.resolve())
        result = _audit(Path(scratch), weights)
    assert result.labels is not None
    named = [
        int(Path(each.path).name.partition("-")[0])
        for each in result.findings
        if each.what == "wrong label"
    ]
    right = len(wrong & set(named))
    return (
        f"{folder.name}, seed {seed}: {len(wrong)} wrong labels, {len(named)} named: precision "
        f"{right / max(len(named), 1):.3f}, recall {right / len(wrong):.3f}; "
        f"accuracy {result.labels.accuracy:.3f}, {result.seconds:.0f} s"
    )


def _audit(folder: Path, weights: Path) -> Audit:
    return audit(folder, start=weights, model="mobilenet_v1", width_mult=0.75, preprocess="tf")


def hash_pass(folder: Path, rounds: int = 7) -> str:
    """Return the speed of decoding with thumbnails, relative to that without."""
    images = [image.read() for image in _images(folder)[:1000]]

    def seconds(work: Callable[[Image.Image], object]) -> float:
        begin = time.perf_counter()
        for data in images:
            work(decode(data))
        return time.perf_counter() - begin

    pairs = [(seconds(lambda image: image), seconds(thumbnail)) for _ in range(rounds)]
    alone, both = (statistics.median(each) for each in zip(*pairs, strict=True))
    return (
        f"{folder.name}: {len(images) / alone:,.0f} images/s decoded, "
        f"{len(images) / both:,.0f} with thumbnails ({alone / both:.1%})"
    )


def seconds(shared: Path) -> Iterator[str]:
    """Yield how long whole audits take."""
    weights = shared / WEIGHTS
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(shared / "data/cifar10-jpeg.zip") as archive:
            names = [name for name in archive.namelist() if "/val/" in name and name.endswith("g")]
            for name in names:
                archive.extract(name, scratch)
        (val,) = Path(scratch).rglob("val")
        for folder in (val, shared / "data/imagenette-small"):
            found = _audit(folder, weights)
            count = sum(sum(counts.values()) for counts in found.counts.values())
            load = os.getloadavg()[0]
            yield f"{folder.name}: {count:,} images, {found.seconds:.0f} s, load {load:.1f}"


def main(
    parts: Annotated[list[str] | None, typer.Argument()] = None,
    shared: Path = ROOT.parent / "shared",
    seeds: int = 2,
) -> None:
    """Measure the ``parts``, by default all."""
    for part in parts or PARTS:
        for name in SETS if part != "seconds" else SETS[:1]:
            folder = shared / "data" / name
            if part == "duplicates":
                lines = list(duplicates(folder))
            elif part == "hash":
                lines = [hash_pass(folder)]
            elif part == "labels":
                lines = [labels(folder, shared / WEIGHTS, seed) for seed in range(seeds)]
            else:
                lines = list(seconds(shared))
            print("\n".join(lines), flush=True)


if __name__ == "__main__":
    typer.run(main)
