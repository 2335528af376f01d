"""Draw the figure of README.md: a training, answers and verdicts.

`python -m docs.make_overview [FOLDER]` trains on scikit-learn's digits into FOLDER (three minutes
on two cores), exports to the engines that are installed and writes docs/figures/overview.png.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import mobilette
from docs.blocks.style import BLUE, GREEN, GREY, INK, VERMILION, write
from mobilette.artifact.contract import Precision
from mobilette.artifact.directory import Artifact
from mobilette.data.sources import find_images
from mobilette.run.directory import Run, open_run
from mobilette.verification.verdict import Verdict

FIGURE = Path(__file__).parent / "figures" / "overview.png"
TARGETS: tuple[tuple[str, Precision], ...] = (
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("openvino", "bf16"),
    ("litert", "int8"),
    ("executorch", "fp32"),
    ("ncnn", "fp16"),
)
Results = list[tuple[Artifact, Verdict]]


def overview(run: Run, results: Results) -> Figure:
    """Return the figure of a trained run and its verified artifacts."""
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.1, 1, 1.5])
    draw_training(left, run)
    draw_answers(middle, run, results[0][0])
    draw_verdicts(right, results)
    return figure


def draw_training(axes: Axes, run: Run) -> None:
    """Plot held-out accuracy by epoch."""
    history = [row for row in run.history() if float(row["epoch"]) > 0]
    epochs = [float(row["epoch"]) for row in history]
    top1 = [100 * float(row["top1"]) for row in history]
    axes.plot(epochs, top1, color=BLUE, marker="o", markersize=4)
    axes.annotate(
        f"{top1[-1]:.1f}%", (epochs[-1], top1[-1]), (0, -14), textcoords="offset points", ha="right"
    )
    axes.set(title="1. train", xlabel="epoch", ylabel="held-out accuracy, %", ylim=(0, 103))


def draw_answers(axes: Axes, run: Run, artifact: Artifact) -> None:
    """Show held-out digits with the answers of the exported model below them."""
    dataset = json.loads((run.path / "dataset.json").read_text(encoding="utf-8"))
    held_out = set(dataset["val_names"])
    images = [image for image in find_images("digits").splits["all"] if image.name in held_out]
    chosen = [next(image for image in images if image.label == label) for label in range(9)]
    predictor = mobilette.load(artifact.path)
    tiles = []
    for position, image in enumerate(chosen):
        row, column = divmod(position, 3)
        opened = image.open()
        answer = predictor.predict([opened])[0]
        tiles.append(np.asarray(opened.convert("L")))
        colour = INK if answer.label == str(image.label) else VERMILION
        text = f"{answer.label}: {answer.probability:.0%}"
        axes.text(12 * column + 3.5, 13 * row + 10.3, text, color=colour, ha="center", fontsize=8)
    sheet = np.full((38, 32), 255, np.uint8)
    for position, tile in enumerate(tiles):
        row, column = divmod(position, 3)
        sheet[13 * row : 13 * row + 8, 12 * column : 12 * column + 8] = 255 - tile
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    axes.set_title("2. export and predict")


def draw_verdicts(axes: Axes, results: Results) -> None:
    """List the artifacts with size, agreement and verdict."""
    axes.set_axis_off()
    axes.set(title="3. verify each file in its engine", xlim=(0, 1), ylim=(0, 1))
    columns = (0.0, 0.5, 0.78, 1.0)
    lines = [("artifact", "size", "same answers", "")]
    for artifact, verdict in results:
        files = (artifact.contract.model, *artifact.contract.parts)
        size = sum((artifact.path / file).stat().st_size for file in files) / 1e6
        agreement = f"{verdict.top1_agreement:.2%}"
        passed = "passed" if verdict.passed else "FAILED"
        name = f"{artifact.contract.target} {artifact.contract.precision}"
        lines.append((name, f"{size:.2f} MB", agreement, passed))
    for number, line in enumerate(lines):
        height = 0.9 - 0.8 * number / (len(lines) - 1)
        for column, (x, text) in enumerate(zip(columns, line, strict=True)):
            colour = GREY if number == 0 else INK
            if text in ("passed", "FAILED"):
                colour = GREEN if text == "passed" else VERMILION
            axes.text(x, height, text, color=colour, ha="right" if column else "left")


def main(folder: Path) -> None:
    """Train unless ``folder`` already contains the run; then export, verify and draw."""
    if (folder / "run").exists():
        run = open_run(folder / "run")
    else:
        run = mobilette.train(
            "digits",
            model="mobilenet_v1",
            width_mult=0.25,
            resolution=32,
            epochs=12,
            out=folder / "run",
        )
    results = []
    for target, precision in TARGETS:
        artifact = mobilette.export(
            run, to=target, precision=precision, out=folder / "exports", force=True
        )
        results.append((artifact, mobilette.verify(artifact.path, "digits")))
    write(partial(overview, run, results), FIGURE)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/overview"))
