"""A network built to break in int8, broken and rescued: docs/rescue.md.

The network's channels are spread over three orders of magnitude without a change of its function
(`broken.spread_channels`), as those of the published MobileNetV2 are by themselves. It is then
quantised with one scale for all weights of a layer (per-tensor), plainly and after each part of the
second rung: equalisation, absorption of high biases, bias correction. int8 is simulated
(`mobilette.compression.simulation`), with ranges of the smallest and largest value on calibration
images: which scales an engine has is then no matter.

    python bench/rescue.py RUN --data DATA --calibration DATA [--out docs/rescue.md]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.compression.bias_correction import correct_biases
from mobilette.compression.equalisation import absorb_high_biases, equalise
from mobilette.compression.folding import fold
from mobilette.compression.observation import answers
from mobilette.compression.rescaling import Rescaling, widen
from mobilette.compression.simulation import Simulated, WeightScales, simulated
from mobilette.data.dataset import load_split
from mobilette.data.normalise import Normalise
from mobilette.errors import InputError
from mobilette.exporters.calibration import calibration_images
from mobilette.model.model import Model
from mobilette.run.directory import Run, open_run
from mobilette.verification.evaluate import labelled_images

if TYPE_CHECKING:
    from bench.broken import spread_channels
else:
    from broken import spread_channels

OUT = Path(__file__).parents[1] / "docs" / "rescue.md"
# Top-1 of MobileNetV2 on ImageNet's validation set. 71.72, 69.91 and 70.92 as reproductions of the
# paper quote it; 0.12 and 71.2 as it is often quoted.
PAPER = {
    "float": "71.72",
    "plain": "0.12",
    "equalised": "69.91",
    "absorbed": "70.92",
    "corrected": "71.2",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Normalised images, float (N, C, H, W): to calibrate with, to be right on; and labels."""

    calibration: Tensor
    inputs: Tensor
    labels: Tensor


def read_images(run: Run, data: str, calibration: str) -> Images:
    """Return the images of the sets ``data`` (held out) and ``calibration`` (trained on)."""
    labelled = labelled_images(data, run.classes).images
    split, _ = load_split(labelled, resolution=run.arch.resolution, preprocess=run.preprocess)
    pixels = calibration_images(run, calibration).pixels
    normalise = Normalise(run.preprocess)
    with torch.no_grad():
        return Images(
            calibration=normalise(torch.from_numpy(pixels)),
            inputs=normalise(torch.from_numpy(split.pixels[:])),
            labels=torch.from_numpy(split.labels),
        )


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: top-1 and agreement with the float network are fractions."""

    what: str
    top1: float
    agreement: float
    paper: str = ""


def lines(run: Run, images: Images) -> Iterator[Line]:
    """Yield the table's lines, from the float network to the rescued one."""
    original = fold(run.model)
    rescaling = Rescaling(original)
    network = rescaling.model(widen(rescaling.arch))
    wanted = answers(network, images.inputs)

    def line(what: str, model: Model | Simulated, paper: str = "") -> Line:
        logits = answers(model, images.inputs)
        right, same = (
            float((logits.argmax(dim=1) == other).double().mean())
            for other in (images.labels, wanted.argmax(dim=1))
        )
        return Line(what=what, top1=right, agreement=same, paper=paper)

    def int8(model: Model, weights: WeightScales = "per_tensor") -> Simulated:
        return simulated(model, images.calibration, weights=weights)

    yield line("float, as trained", original)
    if network.arch != original.arch:
        yield line("float, ReLU in the place of ReLU6", network, PAPER["float"])
    yield line("the same, int8 per tensor", int8(network))
    broken = spread_channels(network)
    yield line("spread over three orders, float", broken)
    yield line("spread, int8 per channel", int8(broken, "per_channel"))
    yield line("**spread, int8 per tensor**", int8(broken), PAPER["plain"])
    rescued = equalise(broken, images.calibration)
    yield line("+ equalised", int8(rescued), PAPER["equalised"])
    rescued = absorb_high_biases(rescued, images.calibration)
    yield line("+ high biases absorbed", int8(rescued), PAPER["absorbed"])
    corrected = correct_biases(rescued, images.calibration, ranges="minmax", weights="per_tensor")
    yield line("**+ biases corrected**", int8(corrected), PAPER["corrected"])
    yield line("the rescued network, float", rescued)


def page(run: Run, found: list[Line], images: Images, data: str, calibration: str) -> str:
    """Return the text of docs/rescue.md."""
    arch: Arch = run.arch
    table = "\n".join(
        f"| {line.what} | {100 * line.top1:.2f} | {100 * line.agreement:.1f} | {line.paper} |"
        for line in found
    )
    return f"""# A network broken in int8, and rescued

With int8 weights and one scale per layer, the published MobileNetV2 is no better than chance: the
ranges of its channels differ by orders of magnitude, so a scale that fits the largest rounds the
small ones to zero (Nagel et al. 2019, [arXiv 1906.04721](https://arxiv.org/abs/1906.04721)). We
provoke this failure in any network: the output of every channel is multiplied by a random factor
from 10^-1.5 to 10^1.5, and the weights that read it are divided by the same factor. In float the
network computes the same function as before. The second rung of `mobilette quantize`, which does
not know the factors, then restores the accuracy.

{arch.name}, {arch.resolution}x{arch.resolution}, {arch.num_classes} classes;
{len(images.labels)} images of {Path(data).name}, {len(images.calibration)} others to
calibrate with. int8 is simulated: symmetric weights, and uint8 activations between the smallest and
the largest value. Scaling requires ReLU in place of ReLU6, which changes the function: answers are
compared with those of the network with ReLU, the best that the rescue can restore. The first two
rows show the cost of the change.

| {arch.name} | top-1, % | same answer as float, % | the paper's MobileNetV2, ImageNet, % |
| --- | ---: | ---: | ---: |
{table}

In the paper's column, 71.72 (float), 0.12 (per-tensor int8) and 71.2 (all three steps) are often
quoted; a reproduction (KwangHoonAn/Quantizations) attributes 69.91 and 70.92 to the paper. They
were measured with the published weights on 50,000 images, so compare the effect of each step rather
than the accuracies.

Written by `python bench/rescue.py {run.path.name} --data {Path(data).name} --calibration
{Path(calibration).name}` with torch
{torch.__version__.partition("+")[0]}.
"""


def main(
    run: Annotated[Path, typer.Argument(help="A run, of a network with or without ReLU6.")],
    data: Annotated[str, typer.Option(help="Images that the run was not trained on.")],
    calibration: Annotated[str, typer.Option(help="Others, to calibrate with.")],
    out: Annotated[Path, typer.Option(help="Where the page is written.")] = OUT,
) -> None:
    """Measure, print and write the page."""
    opened = open_run(run)
    images = read_images(opened, data, calibration)
    found, begun = [], time.perf_counter()
    for line in lines(opened, images):
        found.append(line)
        seconds = time.perf_counter() - begun
        print(
            f"{line.what:40} {line.top1:7.2%} {line.agreement:7.1%} {line.paper:>6} {seconds:5.0f}s"
        )
    out.write_text(page(opened, found, images, data, calibration), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))
