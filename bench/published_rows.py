"""Import every published file of ../shared/weights and measure it, as that folder's README does.

Each row of the README's table is a row here: the file becomes a run as `mobilette weights import`
writes it, in a temporary folder, and the run is measured as `mobilette evaluate` does. A row is
reached if top-1 and top-5 are within 0.3 points of what the README states for the float file, or
within 1.0 points of its dequantised value for files of integers. The status is 1 if a row is not.

    python bench/published_rows.py [--only PATTERN] [--shared ../shared]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from mobilette import InputError, evaluate, import_weights, load
from mobilette.model.model import Model

FLOAT_POINTS, DEQUANTISED_POINTS = 0.3, 1.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """A file, how it is imported, and what an independent implementation reached with it.

    Attributes:
        file: in ``weights/``.
        preprocess: a preset; ``None`` where the file says how images are prepared.
        images: in ``data/``.
        splits: the parts of the set that are measured together; ``None`` is the set's own choice.
        classes: a file in ``data/``; ``None`` numbers them.
        top1: per cent; of the dequantised network if ``dequantised``.
        top5: per cent, where it is stated.
        dequantised: whether the file has integers, of which floats are made.
    """

    file: str
    model: str
    images: str
    top1: float
    top5: float | None = None
    width_mult: float = 1.0
    resolution: int | None = None
    preprocess: str | None = None
    splits: tuple[str | None, ...] = (None,)
    classes: str | None = None
    dequantised: bool = False

    @property
    def points(self) -> float:
        """By how much top-1 and top-5 may differ."""
        return DEQUANTISED_POINTS if self.dequantised else FLOAT_POINTS

    @property
    def stated(self) -> str:
        """What the README states, as it is printed."""
        return _accuracy(self, self.top1, self.top5) + " dequantised" * self.dequantised


imagenet = partial(Row, images="imagenette-small", classes="imagenet_class_index.json")
integers = partial(imagenet, dequantised=True)
cifar = partial(Row, images="cifar10-test200")
cifar_training = partial(Row, images="cifar10-4k", splits=("train", "val"), preprocess="torch")
people = partial(Row, model="mobilenet_v1", width_mult=0.25, images="vww400")
flowers = partial(Row, model="mobilenet_v2", width_mult=0.35, images="flowers200")

RESNET20, RESNET56 = (f"resnet{depth}_cifar10_akamaster.th" for depth in (20, 56))
VWW = "mobilenet_v1_0.25_96_vww_mlperf_tiny"
RESNET8 = "resnet8_cifar10_mlperf_tiny"
FLOWERS = "mobilenet_v2_0.35_128_flowers"
ROWS = (
    imagenet(
        file="mobilenet_v1_0.25_224_imagenet_keras.h5",
        model="mobilenet_v1",
        width_mult=0.25,
        preprocess="tf",
        top1=52.0,
        top5=78.4,
    ),
    imagenet(
        file="mobilenet_v1_0.75_224_imagenet_tfjs",
        model="mobilenet_v1",
        width_mult=0.75,
        preprocess="tf",
        top1=64.8,
        top5=88.0,
    ),
    imagenet(
        file="squeezenet1_0_imagenet_torchvision_keys.pth",
        model="squeezenet1_0",
        resolution=227,
        preprocess="caffe",
        top1=57.0,
        top5=81.8,
    ),
    cifar(file=RESNET20, model="resnet20", preprocess="torch", top1=90.0),
    cifar_training(file=RESNET20, model="resnet20", top1=99.8),
    cifar(file=RESNET56, model="resnet56", preprocess="torch", top1=91.0),
    cifar_training(file=RESNET56, model="resnet56", top1=100.0),
    people(file=f"{VWW}.h5", preprocess="unit", top1=85.25),
    people(file=f"{VWW}_float.tflite", preprocess="unit", top1=85.25),
    people(file=f"{VWW}_int8.tflite", dequantised=True, top1=84.75),
    cifar(file=f"{RESNET8}.h5", model="resnet8", preprocess="raw", top1=85.5),
    cifar(file=f"{RESNET8}_float.tflite", model="resnet8", preprocess="raw", top1=85.5),
    cifar(file=f"{RESNET8}_int8.tflite", model="resnet8", dequantised=True, top1=86.5),
    flowers(file=f"{FLOWERS}_keras.h5", preprocess="tf", top1=84.5),
    flowers(file=f"{FLOWERS}_int8.tflite", dequantised=True, top1=85.0),
    integers(
        file="mobilenet_v2_1.0_224_imagenet_int8.tflite", model="mobilenet_v2", top1=67.4, top5=89.2
    ),
    integers(
        file="mobilenet_v3_small_1.0_224_imagenet_int8weights.tflite",
        model="mobilenet_v3_small",
        top1=66.6,
        top5=88.2,
    ),
    integers(
        file="mobilenet_v3_large_minimalistic_224_imagenet_uint8.tflite",
        model="mobilenet_v3_large_minimalistic",
        top1=68.0,
        top5=88.6,
    ),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reached:
    """What an imported file reached.

    Attributes:
        run: the directory that the model was saved to.
        top1: per cent.
        top5: per cent.
    """

    model: Model
    run: Path
    top1: float
    top5: float
    images: int

    def differences(self, row: Row) -> list[float]:
        """Return by how many points top-1, and top-5 if it is stated, are above the stated ones."""
        top5 = [] if row.top5 is None else [self.top5 - row.top5]
        return [round(value, 2) for value in (self.top1 - row.top1, *top5)]

    def is_close(self, row: Row) -> bool:
        """Whether that is no more than ``row`` allows."""
        return all(abs(value) <= row.points for value in self.differences(row))


def reach(row: Row, shared: Path, out: Path) -> Reached:
    """Import the file of ``row`` to the run directory ``out`` and measure it.

    Raises:
        InputError: it cannot be imported, or the images cannot be used.
    """
    data = shared / "data"
    model = import_weights(
        shared / "weights" / row.file,
        model=row.model,
        width_mult=row.width_mult,
        resolution=row.resolution,
        preprocess=row.preprocess,
        resize="squash",
        classes=data / row.classes if row.classes else None,
    )
    run = model.save(out)
    predictor = load(run)
    parts = [evaluate(predictor, data / row.images, split=split, workers=1) for split in row.splits]
    images = sum(part.images for part in parts)
    return Reached(
        model=model,
        run=run,
        top1=100 * sum(part.top1 * part.images for part in parts) / images,
        top5=100 * sum((part.top5 or 0.0) * part.images for part in parts) / images,
        images=images,
    )


COLUMNS = (
    *("file", "network", "images", "reached", "stated", "difference", "verdict"),
    *("tensors", "unused"),
)


def cells(row: Row, reached: Reached) -> tuple[str, ...]:
    """Return the cells of the printed line, in the order of `COLUMNS`."""
    arch, origin = reached.model.arch, reached.model.origin
    return (
        f"`{row.file}`",
        f"`{arch.name}` {row.width_mult:g}, {arch.resolution}x{arch.resolution}",
        f"`{row.images}`, {reached.images:,}",
        _accuracy(row, reached.top1, reached.top5),
        row.stated,
        " / ".join(f"{value + 0:+.2f}" for value in reached.differences(row)),
        "reached" if reached.is_close(row) else "NOT REACHED",
        str(origin.tensors),
        str(len(origin.unused)),
    )


def _accuracy(row: Row, top1: float, top5: float | None) -> str:
    return f"{top1:.2f}" if row.top5 is None else f"{top1:.2f} / {top5:.2f}"


def markdown(lines: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for line in lines:
        yield f"| {' | '.join(line)} |"


def main(
    only: Annotated[
        str, typer.Option(help="Part of a file's or network's name, or a pattern with *.")
    ] = "*",
    shared: Annotated[Path, typer.Option(help="The folder of weights/ and data/.")] = Path(
        "../shared"
    ),
) -> None:
    """Print the table; the status is 1 if a row is not reached."""
    pattern = only if "*" in only else f"*{only}*"
    rows = [row for row in ROWS if any(fnmatchcase(n, pattern) for n in (row.file, row.model))]
    if not rows:
        raise typer.BadParameter(f"no row matches {only!r}")
    missed: list[str] = []

    def measured() -> Iterator[tuple[str, ...]]:
        for row in rows:
            with TemporaryDirectory() as folder:
                try:
                    reached = reach(row, shared, Path(folder) / "run")
                except InputError as error:
                    missed.append(f"{row.file}: {error}")
                    continue
            if not reached.is_close(row):
                missed.append(f"{row.file}: not reached")
            yield cells(row, reached)

    for line in markdown(measured()):
        print(line, flush=True)
    for text in missed:
        print(text)
    raise typer.Exit(1 if missed else 0)


if __name__ == "__main__":
    typer.run(main)
