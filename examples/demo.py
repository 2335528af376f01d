"""The whole way in about two minutes, without a network: train, export, verify, what next.

make demo
"""

from __future__ import annotations

import time
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

import mobilette
from mobilette.cli.output import human_bytes
from mobilette.data.sources import find_images
from mobilette.training.process import keep_freed_memory, set_threads

RUN, EXPORTS = Path("runs/demo"), Path("exports/demo")
NEXT = (
    f".venv/bin/mobilette predict {EXPORTS}/onnx {EXPORTS}/images",
    f".venv/bin/mobilette evaluate {EXPORTS}/onnx digits",
    f".venv/bin/mobilette cost {RUN}",
)


def main() -> None:
    """Train on scikit-learn's digits, export to ONNX, verify, print what came out."""
    keep_freed_memory()
    set_threads(None)
    begun = time.perf_counter()
    with mobilette.TrainingProgress() as progress:
        run = mobilette.train(
            "digits",
            model="mobilenet_v1",
            width_mult=0.25,
            resolution=32,
            time=110,
            batch_size=32,
            out=RUN,
            force=True,
            callbacks=[progress],
            reporter=progress.reporter,
        )
    artifact = mobilette.export(run, to="onnx", out=EXPORTS, force=True)
    verdict = mobilette.verify(artifact.path, "digits")
    save_some_digits(EXPORTS / "images")
    counted = mobilette.cost(run.arch)
    size = (artifact.path / artifact.contract.model).stat().st_size
    best = run.best() or {}

    table = Table(title="From images to a verified ONNX file", show_header=False)
    table.add_row("images", "digits: 1,797 of scikit-learn, a fifth held out")
    table.add_row("network", f"{run.arch.name} x0.25 at 32x32, {counted.params:,} parameters")
    table.add_row("mult-adds", f"{counted.madds / 1e6:.2f}M an image")
    table.add_row("trained", f"{best['top1']:.2%} top-1 on the held-out fifth")
    table.add_row("exported", f"{artifact.path / artifact.contract.model}, {human_bytes(size)}")
    table.add_row("largest difference", f"{verdict.max_abs_diff:.1e} in any logit")
    table.add_row("same top-1", f"{verdict.top1_agreement:.2%} of {verdict.images} images")
    table.add_row("seconds", f"{time.perf_counter() - begun:.0f}")
    table.add_row("verify", "passed" if verdict.passed else "FAILED")
    console = Console(highlight=False)
    console.print(table)
    console.print("\nTry next:", *NEXT, sep="\n  ", markup=False)
    raise SystemExit(0 if verdict.passed else 1)


def save_some_digits(folder: Path) -> None:
    """Write one image of each digit, 8x8 pixels, as scikit-learn has them."""
    folder.mkdir(parents=True, exist_ok=True)
    images = find_images("digits").splits["all"]
    first = {image.label: image for image in reversed(images)}
    for label, image in sorted(first.items()):
        opened: Image.Image = image.open()
        opened.save(folder / f"{label}.png")


if __name__ == "__main__":
    main()
