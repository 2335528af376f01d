"""Makes docs/int8.md: which rung of `mobilette quantize` kept a network's accuracy, by engine.

    python -m docs.make_int8                                   the page, from docs/int8.csv
    python -m docs.make_int8 --measure RUN=DATA... [--targets onnx,litert] [--max-drop 0.5]

With ``--measure`` each run is quantised for each target and judged on DATA; each cell becomes a
line of docs/int8.csv at once, so that an interrupted measurement goes on where it stopped. Cells of
the same weights and drop are kept unless ``--again``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from docs.cells import digest, read_cells, write_cells
from mobilette.errors import InputError, one_of
from mobilette.exporters.export import TARGETS
from mobilette.progress import Reporter
from mobilette.run.directory import open_run
from mobilette.workflows.quantize import Quantised, quantize

DOCS = Path(__file__).resolve().parent
PAGE, TABLE = DOCS / "int8.md", DOCS / "int8.csv"
ENGINES = "onnx,openvino,litert,executorch"

Key = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A line of the table; all values are text, as the file has them.

    ``rung`` is the one that kept the accuracy, or the best; ``reason`` says why there is none.
    """

    data: str
    network: str
    target: str
    weights: str
    max_drop: str
    images: str = ""
    top1: str = ""
    plain: str = ""
    rung: str = ""
    int8: str = ""
    kept: str = ""
    float_layers: str = ""
    int8_bytes: str = ""
    reason: str = ""

    @property
    def key(self) -> Key:
        """What a cell is looked up by."""
        return self.data, self.network, self.target


def page(cells: Sequence[Cell]) -> str:
    """Return the page as Markdown."""
    reasons: dict[str, int] = {}
    sets = dict.fromkeys(cell.data for cell in cells)
    sections = "\n\n".join(_section([c for c in cells if c.data == data], reasons) for data in sets)
    notes = "\n".join(f"{number}. {reason}" for reason, number in reasons.items())
    return f"""# int8 that keeps its accuracy

Made by `python -m docs.make_int8` from `docs/int8.csv`; do not edit it by hand.

Each cell is `mobilette quantize RUN DATA --to ENGINE --max-drop POINTS`: top-1 of the artifact that
was written, executed by that engine on all the images, the points that it lost of the network's
own, and the rung that was needed: 1 is post-training quantisation, 2 equalisation and bias
correction, 3 layers in float, 4 quantisation-aware training. In brackets what plain post-training
quantisation lost, where that was not enough. Layers that stayed in float are in the table's file.

A cell is measured by `python -m docs.make_int8 --measure RUN=DATA --targets ENGINE --max-drop
POINTS`. `cifar10` is the JPEG copy of CIFAR-10, unpacked. Its networks were trained on an AMD EPYC
by `mobilette train cifar10 --model NAME --width-mult WIDTH --resolution 32 --from scratch --recipe
cifar --set cutmix=0 --threads 1 --time 8m`, two at a time (V2 9m, V3-Small 10m and `--lr 0.1`,
SqueezeNet 11m, `--set optimizer=adamw --lr 0.001`); `resnet20` is akamaster's published one, which
has never seen JPEG files.
`imagenette-small` are images of ten of ImageNet's 1,000 classes, its networks published ones
(`mobilette weights import`), V2 and V3-Small from weights that were int8 already.

{sections}
{chr(10) + notes + chr(10) if notes else ""}"""


def _section(cells: Sequence[Cell], reasons: dict[str, int]) -> str:
    networks = list(dict.fromkeys(cell.network for cell in cells))
    targets = list(dict.fromkeys(cell.target for cell in cells))
    by_key = {cell.key: cell for cell in cells}
    data = cells[0].data
    images = next((cell.images for cell in cells if cell.images), "0")
    lines = []
    for network in networks:
        mine = [by_key.get((data, network, target)) for target in targets]
        first = next(cell for cell in mine if cell is not None)
        top1 = f"{float(first.top1):.2%}" if first.top1 else "-"
        shown = (top1, first.max_drop, *(_text(cell, reasons) for cell in mine))
        lines.append(f"| {network} | {' | '.join(shown)} |")
    head = f"| network | fp32 top-1 | may lose | {' | '.join(targets)} |"
    rule = "|---" + "|--:" * (len(targets) + 2) + "|"
    return "\n".join([f"## {data}, {int(images):,} images", "", head, rule, *lines])


def _text(cell: Cell | None, reasons: dict[str, int]) -> str:
    if cell is None:
        return "not measured"
    if not cell.int8:
        return f"refused [{reasons.setdefault(cell.reason, len(reasons) + 1)}]"
    top1 = float(cell.top1)
    plain = ""
    if cell.plain and not cell.rung.startswith("1: post-training, plain"):
        plain = f" (plain {_points(float(cell.plain) - top1)})"
    kept = "" if cell.kept == "yes" else " **not kept**"
    lost = _points(float(cell.int8) - top1)
    return f"{float(cell.int8):.2%}, {lost}, rung {cell.rung[:1]}{plain}{kept}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def measure(run: Path, data: Path, target: str, *, max_drop: float) -> Cell:
    """Return the cell of a run and a target, or why there is none."""
    opened = open_run(run)
    cell = Cell(
        data=data.name,
        network=run.name,
        target=target,
        weights=digest(run),
        max_drop=f"{max_drop:g}",
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = quantize(
                opened,
                data,
                to=target,
                max_drop=max_drop,
                out=folder,
                reporter=Reporter(
                    remark=lambda line: print(f"{run.name}, {target}: {line}", file=sys.stderr)
                ),
            )
        except InputError as error:
            return Cell(**asdict(cell) | {"reason": str(error).replace(str(run), run.name)})
    return _measured(cell, found)


def _measured(cell: Cell, found: Quantised) -> Cell:
    chosen, verdict = found.rungs[found.chosen], found.verdict
    size = found.artifact.contract.measured
    values = {
        "images": str(verdict.images),
        "top1": f"{verdict.accuracy_source or 0:.6g}",
        "plain": f"{found.rungs[0].top1 or 0:.6g}",
        "rung": chosen.name,
        "int8": f"{verdict.accuracy_artifact or 0:.6g}",
        "kept": "yes" if found.kept else "no",
        "float_layers": " ".join(chosen.float_layers),
        "int8_bytes": str(size.size_bytes if size else 0),
        "reason": chosen.reason,
    }
    return Cell(**asdict(cell) | values)


def main(
    measured: Annotated[
        list[str] | None, typer.Option("--measure", help="A run and its images, RUN=DATA.")
    ] = None,
    targets: Annotated[str, typer.Option(help="Separated by commas.")] = ENGINES,
    max_drop: Annotated[float, typer.Option(help="Points that may be lost.")] = 0.5,
    again: Annotated[bool, typer.Option("--again", help="Measure known cells, too.")] = False,
) -> None:
    """Measure what is asked for, and write the page from the table."""
    chosen = [one_of(name, TARGETS, "target") for name in targets.split(",")]
    cells = {cell.key: cell for cell in read_cells(TABLE, Cell)}
    for text in measured or []:
        left, separator, right = text.rpartition("=")
        if not separator:
            raise InputError(f"--measure {text!r}: write RUN=DATA")
        run, data = Path(left), Path(right)
        for target in chosen:
            known = cells.get((data.name, run.name, target))
            same = (digest(run), f"{max_drop:g}")
            if known and (known.weights, known.max_drop) == same and not again:
                continue
            cell = measure(run, data, target, max_drop=max_drop)
            cells[cell.key] = cell
            write_cells(TABLE, Cell, cells.values())
    PAGE.write_text(page(read_cells(TABLE, Cell)), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))
