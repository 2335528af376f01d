"""How often `explain` believes heat maps that are right, and ones that are not: docs/explain.md.

    python bench/explain.py [--images 200]

Published MobileNet V1 (0.25, 224 pixels, ImageNet) on held-out images of
../shared/data/imagenette-small, Grad-CAM, one thread. Each image is checked with three maps: its
own; the same mirrored and moved to where its warmest fifth overlaps itself the least, of 16 random
places; and another image's. Objects are mostly in the middle, so the last is not always wrong. A
row is a rule for believing a map: at how many of the other places hiding may matter as much, and
how many times as much as there on average it has to matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from mobilette.data.sources import list_images
from mobilette.engines.images import read_image
from mobilette.engines.load import load
from mobilette.formats.importing import import_weights
from mobilette.verification.heat_map import enlarged, grad_cams
from mobilette.verification.occlusion import BETTER, ELSEWHERE, Check, check_map, warmest

SHARED = Path(__file__).resolve().parents[2] / "shared"
WEIGHTS = SHARED / "weights" / "mobilenet_v1_0.25_224_imagenet_keras.h5"
IMAGES = SHARED / "data" / "imagenette-small" / "val"
KINDS = ("its own", "moved away", "another image's")
DRAWN = 16


def main(images: Annotated[int, typer.Option(help="How many.")] = 200) -> None:
    """Print the table."""
    found: dict[str, list[Check]] = {kind: [] for kind in KINDS}
    for checks in checked(images):
        for kind, check in zip(KINDS, checks, strict=True):
            found[kind].append(check)
    print(f"{images} images, {ELSEWHERE} other places")
    print(f"| as much at most at | at least | {' | '.join(KINDS)} |")
    for places, times in product((0, 1, 2), (1.0, 1.5, 2.0)):
        believed = [
            sum(rule(check, places, times) for check in found[kind]) / images for kind in KINDS
        ]
        now = " (now)" if (places, times) == (BETTER, 1.0) else ""
        shares = " | ".join(f"{share:.0%}" for share in believed)
        print(f"| {places} | {times:g} times{now} | {shares} |")


def rule(check: Check, places: int, times: float) -> bool:
    """Whether a map is believed by these limits."""
    enough = check.ratio is None or check.ratio >= times
    return check.drop > 0 and check.as_much <= places and enough


def checked(count: int) -> Iterator[tuple[Check, ...]]:
    """Yield the checks of each image's maps: of its own, of that moved, and of another's."""
    model = import_weights(
        WEIGHTS, model="mobilenet_v1", width_mult=0.25, resolution=224, preprocess="tf"
    )
    predictor, random = load(model, threads=1), np.random.default_rng(0)
    files = list_images([IMAGES])
    random.shuffle(files)
    pixels = np.stack(
        [model.preprocess.geometry(read_image(file), 224) for file in islice(files, count)]
    )
    guesses = predictor.logits(pixels).argmax(axis=1)
    heats = [enlarged(one, (224, 224)) for one in grad_cams(model, pixels, guesses)]
    for number, heat in enumerate(heats):
        maps = (heat, moved(heat, random), heats[number - 1])
        index = int(guesses[number])
        yield tuple(check_map(predictor, pixels[number], one, index, seed=number) for one in maps)


def moved(heat: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return a map mirrored and moved, around the edges, to where it overlaps itself the least."""
    drawn = []
    for _ in range(DRAWN):
        steps = [int(random.integers(side)) for side in heat.shape]
        turned = heat[:: random.choice((1, -1)), :: random.choice((1, -1))]
        drawn.append(np.roll(turned, steps, (0, 1)))
    return min(drawn, key=lambda one: int((warmest(one) & warmest(heat)).sum()))


if __name__ == "__main__":
    typer.run(main)
