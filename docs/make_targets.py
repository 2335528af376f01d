"""Makes docs/targets.md: does a family's artifact answer as its network did, by target.

    python -m docs.make_targets                      the page, from docs/targets.csv
    python -m docs.make_targets --measure RUN=DATA... [--targets onnx,litert] [--again]

With ``--measure`` each run is exported to every target and precision and verified on DATA; each
cell becomes a line of docs/targets.csv. Cells that are there for the same weights are kept unless
``--again``. ``--train DATA`` trains a quick network of each family that no run is given for.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from docs.cells import digest, read_cells, write_cells
from mobilette.errors import InputError, one_of
from mobilette.exporters.calibration import calibration_images
from mobilette.exporters.export import TARGETS, check_precision, export_calibrated
from mobilette.exporters.target import Calibration
from mobilette.run.directory import is_run, open_run
from mobilette.verification.verify import verify
from mobilette.workflows.train import train

DOCS = Path(__file__).resolve().parent
PAGE, TABLE = DOCS / "targets.md", DOCS / "targets.csv"
# Quick networks to train where no run is given: name and width.
FAMILIES = {
    "mobilenet_v1": 0.5,
    "mobilenet_v2": 0.5,
    "mobilenet_v3_small": 1.0,
    "shufflenet_v1_g3": 0.5,
    "shufflenet_v2": 0.5,
    "squeezenet1_1": 0.5,
    "resnet20": 1.0,
    "resnet18": 0.25,
    "vgg11_bn": 0.25,
}
EPOCHS, SIDE = 10, 32


Key = tuple[str, str, str, str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A line of the table: a network, a target and a precision, and what `verify` said.

    All values are text, as the file has them; ``reason`` says why a cell was refused or failed.
    """

    network: str
    weights: str
    data: str
    target: str
    precision: str
    verdict: str
    max_abs_diff: str = ""
    agreement: str = ""
    accuracy_source: str = ""
    accuracy_artifact: str = ""
    images: str = ""
    reason: str = ""

    @property
    def key(self) -> Key:
        """What a cell is looked up by."""
        return self.data, self.network, self.target, self.precision


def page(cells: Sequence[Cell]) -> str:
    """Return the page as Markdown."""
    reasons: dict[str, int] = {}
    sets = list(dict.fromkeys(cell.data for cell in cells))
    sections = "\n\n".join(
        _section(data, [cell for cell in cells if cell.data == data], reasons) for data in sets
    )
    notes = "\n".join(f"{number}. {_plain(reason)}" for reason, number in reasons.items())
    return f"""# Which target answers as the network did

Made by `python -m docs.make_targets` from `docs/targets.csv`; do not edit it by hand.

Each cell is an artifact that was exported and then verified on real images (`mobilette verify`):
the verdict, the largest difference of any logit from the checkpoint's, the part of the images
with the same answer. int8 is plain post-training quantisation; its cells were measured when the
same answer was asked for on 95% of all images, now it is on those that the checkpoint has right:
some that failed by agreement alone would pass. A number in brackets is the reason below, why a cell
failed or is refused.

{sections}

## Reasons

{notes or "No cell failed or is refused."}
"""


def _section(data: str, cells: Sequence[Cell], reasons: dict[str, int]) -> str:
    """Return the table of the networks that were verified on one set of images."""
    networks = list(dict.fromkeys(cell.network for cell in cells))
    kinds = list(dict.fromkeys((cell.target, cell.precision) for cell in cells))
    by_key = {cell.key: cell for cell in cells}
    lines = [
        [" ".join(kind), *(_text(by_key.get((data, each, *kind)), reasons) for each in networks)]
        for kind in kinds
    ]
    accuracies = ["the checkpoint's top-1", *(_accuracy(cells, each) for each in networks)]
    head = [["", *networks], ["---"] * (len(networks) + 1), accuracies]
    table = "\n".join(f"| {' | '.join(line)} |" for line in (*head, *lines))
    images = next((cell.images for cell in cells if cell.images), "no")
    return f"## {data}, {images} images\n\n{table}"


def _text(cell: Cell | None, reasons: dict[str, int]) -> str:
    if cell is None:
        return "not measured"
    note = f" [{reasons.setdefault(cell.reason, len(reasons) + 1)}]" if cell.reason else ""
    numbers = ""
    if cell.max_abs_diff:
        numbers = f", {float(cell.max_abs_diff):.1g}, {float(cell.agreement):.1%}"
    return f"{cell.verdict}{numbers}{note}"


def _accuracy(cells: Sequence[Cell], network: str) -> str:
    for cell in cells:
        if cell.network == network and cell.accuracy_source:
            return f"{float(cell.accuracy_source):.1%}"
    return "not measured"


def _plain(text: str) -> str:
    """Return a reason without what would be Markdown or a second line."""
    return " ".join(text.replace("|", "/").replace("<", "(").replace(">", ")").split())


def measure(
    run: Path, data: Path, *, known: dict[Key, Cell], targets: Sequence[str]
) -> Iterator[Cell]:
    """Yield the cell of a run for every one of ``targets`` and its precisions.

    Cells in ``known`` that are of the same weights are taken from there.
    """
    opened = open_run(run)
    weights = digest(opened.path)
    calibration = None
    for name in targets:
        for precision in TARGETS[name].precisions:
            cell = Cell(
                network=run.name,
                weights=weights,
                data=data.name,
                target=name,
                precision=precision,
                verdict="refused",
            )
            old = known.get(cell.key)
            if old is not None and old.weights == weights:
                yield old
                continue
            print(f"{run.name}: {name} {precision}", file=sys.stderr)
            try:
                if precision == "int8" and calibration is None:
                    calibration = calibration_images(opened, data)
                yield _verified(cell, run, data, calibration)
            except InputError as error:
                yield replace(cell, reason=_without_folders(str(error), run, data))


def _verified(cell: Cell, run: Path, data: Path, calibration: Calibration | None) -> Cell:
    with tempfile.TemporaryDirectory() as folder:
        artifact = export_calibrated(
            open_run(run),
            to=cell.target,
            precision=check_precision(cell.target, cell.precision),
            calibration=calibration,
            out=folder,
        )
        if not artifact.contract.verifiable:
            return replace(cell, verdict="exported", reason="nothing here executes it")
        verdict = verify(artifact.path, data, checkpoint=run)
    source, ours = verdict.accuracy_source, verdict.accuracy_artifact
    return replace(
        cell,
        verdict="passed" if verdict.passed else "FAILED",
        max_abs_diff=f"{verdict.max_abs_diff:.6g}",
        agreement=f"{verdict.top1_agreement:.6g}",
        accuracy_source="" if source is None else f"{source:.6g}",
        accuracy_artifact="" if ours is None else f"{ours:.6g}",
        images=str(verdict.images),
        reason="; ".join(verdict.failures),
    )


def _without_folders(text: str, *folders: Path) -> str:
    """Return a reason without the folders of this machine."""
    for folder in (*folders, Path(tempfile.gettempdir())):
        text = text.replace(str(folder), folder.name)
    return text


def train_families(data: Path, given: Iterable[str], folder: Path) -> Iterator[Path]:
    """Train a quick network of each family that is not among ``given``; yield the runs."""
    for model, width in FAMILIES.items():
        name = model if width == 1 else f"{model} x{width:g}"
        run = folder / name
        if name in given:
            continue
        if not is_run(run):
            print(f"training {name}", file=sys.stderr)
            train(
                data,
                model=model,
                width_mult=width,
                resolution=SIDE,
                overrides={"epochs": EPOCHS},
                out=run,
            )
        yield run


def main(
    measured: Annotated[
        list[str] | None, typer.Option("--measure", help="A run and its images, RUN=DATA.")
    ] = None,
    train_on: Annotated[
        Path | None, typer.Option("--train", help="Train quick networks on these images.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where those that are trained are kept.")] = Path(
        "runs/targets"
    ),
    targets: Annotated[str | None, typer.Option(help="Separated by commas [all].")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure known cells, too.")] = False,
) -> None:
    """Measure what is asked for, and write the page from the table."""
    pairs = []
    for text in measured or []:
        left, separator, right = text.rpartition("=")
        if not separator:
            raise InputError(f"--measure {text!r}: write RUN=DATA")
        pairs.append((Path(left), Path(right)))
    if train_on is not None:
        given = [run.name for run, _ in pairs]
        pairs += [(run, train_on) for run in train_families(train_on, given, runs)]
    cells = {cell.key: cell for cell in read_cells(TABLE, Cell)}
    chosen = targets.split(",") if targets is not None else list(TARGETS)
    for name in chosen:
        one_of(name, TARGETS, "target")
    for run, data in pairs:
        known = {} if again else dict(cells)
        for cell in measure(run, data, known=known, targets=chosen):
            cells[cell.key] = cell
            write_cells(TABLE, Cell, cells.values())
    PAGE.write_text(page(read_cells(TABLE, Cell)), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))
