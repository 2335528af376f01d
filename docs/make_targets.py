"""Makes docs/targets.md: does a family's artifact answer as its network did, by target.

    python docs/make_targets.py                      the page, from docs/targets.csv
    python docs/make_targets.py --measure RUN=DATA... [--targets onnx,litert] [--again]

With ``--measure`` each run is exported to every target and precision and verified on DATA; each
cell becomes a line of docs/targets.csv. Cells that are there for the same weights are kept unless
``--again``. ``--train DATA`` trains a quick network of each family that no run is given for.
"""

from __future__ import annotations

import csv
import hashlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import typer

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
    def key(self) -> tuple[str, str, str]:
        """What a cell is looked up by."""
        return self.network, self.target, self.precision


def read(path: Path = TABLE) -> list[Cell]:
    """Return the cells of the file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [Cell(**row) for row in csv.DictReader(file)]


def write(cells: Iterable[Cell], path: Path = TABLE) -> None:
    """Write the cells to the file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Cell)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(cell) for cell in cells)


def page(cells: Sequence[Cell]) -> str:
    """Return the page as Markdown."""
    networks = list(dict.fromkeys(cell.network for cell in cells))
    columns = list(dict.fromkeys((cell.target, cell.precision) for cell in cells))
    by_key = {cell.key: cell for cell in cells}
    reasons: dict[str, int] = {}
    lines = [
        "| network | " + " | ".join(f"{target} {precision}" for target, precision in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for network in networks:
        found = [by_key.get((network, *column)) for column in columns]
        lines.append(f"| {network} | {' | '.join(_text(cell, reasons) for cell in found)} |")
    sources = [
        f"- {network}: {_accuracy(cells, network)}"
        for network in networks
    ]
    notes = [f"{number}. {_plain(reason)}" for reason, number in reasons.items()]
    return "\n".join(
        [
            "# Which target answers as the network did",
            "",
            "Made by `python docs/make_targets.py` from `docs/targets.csv`; do not edit it by hand.",
            "",
            "Each cell is an artifact, exported and then verified on real pictures (`mobilette "
            "verify`):",
            "the verdict, the largest difference of any logit from the checkpoint's, and the part of",
            "the pictures with the same answer. int8 is plain post-training quantisation. A number in",
            "brackets is the reason below, why a cell failed or is refused.",
            "",
            *lines,
            "",
            "Networks, their pictures and the checkpoint's accuracy:",
            "",
            *sources,
            *(["", *notes] if notes else []),
            "",
        ]
    )


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
            return f"{float(cell.accuracy_source):.1%} of {cell.images} pictures of {cell.data}"
    return "not verified on pictures"


def _plain(text: str) -> str:
    """Return a reason without what would be Markdown or a second line."""
    return " ".join(text.replace("|", "/").replace("<", "(").replace(">", ")").split())


def measure(
    run: Path, data: Path, *, known: dict[tuple[str, str, str], Cell], targets: Sequence[str]
) -> Iterator[Cell]:
    """Yield the cell of a run for every one of ``targets`` and its precisions.

    Cells in ``known`` that are of the same weights are taken from there.
    """
    from mobilette.errors import InputError
    from mobilette.exporters.calibration import calibration_pictures
    from mobilette.exporters.export import TARGETS
    from mobilette.run.directory import open_run

    opened = open_run(run)
    digest = hashlib.sha256(opened.weights_path.read_bytes()).hexdigest()[:12]
    calibration = None
    for name in targets:
        for precision in TARGETS[name].precisions:
            cell = Cell(
                network=run.name,
                weights=digest,
                data=data.name,
                target=name,
                precision=precision,
                verdict="refused",
            )
            old = known.get(cell.key)
            if old is not None and old.weights == digest:
                yield old
                continue
            print(f"{run.name}: {name} {precision}", file=sys.stderr)
            try:
                if precision == "int8" and calibration is None:
                    calibration = calibration_pictures(opened, data)
                yield _verified(cell, run, data, calibration)
            except InputError as error:
                yield replace(cell, reason=_without_folders(str(error), run, data))


def _verified(cell: Cell, run: Path, data: Path, calibration: Calibration | None) -> Cell:
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(
            run,
            to=cell.target,
            precision=one_precision(cell.target, cell.precision),
            calibration=calibration,
            out=folder,
        )
        if not artifact.contract.verifiable:
            return replace(cell, verdict="exported", reason="nothing here executes it")
        return _judged(cell, artifact.path, run, data)
