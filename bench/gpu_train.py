"""CIFAR-10 on a GPU in a given time: phases of bench/gpu.py.

    python bench/gpu_train.py prepare ../shared/data/cifar10-jpeg.zip FOLDER
    python bench/gpu_train.py train FOLDER --model mobilenet_v2 --mode captured --seconds 60

The last line is what was found, as JSON. ``seconds`` count from where the images and the network
are in memory: what comes before is named apart, as is the accuracy with mirror images.
"""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer

from mobilette.data.cache import images_cache
from mobilette.data.dataset import Dataset, load_dataset
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.model.model import Model
from mobilette.progress import Reporter
from mobilette.run.inference import logits_in_batches
from mobilette.training.environment import choose_device
from mobilette.training.events import Sitting
from mobilette.training.plan import NetworkChoice
from mobilette.training.recipe import parse_setting
from mobilette.workflows.train import run_train

if TYPE_CHECKING:
    from bench.gpu_phase import RESOLUTION, START, Mode, ModelName, keys_of, say
    from bench.images import unpack
else:
    from gpu_phase import RESOLUTION, START, Mode, ModelName, keys_of, say
    from images import unpack

GOOD = 0.94
app = typer.Typer(add_completion=False)


@app.command()
def prepare(data: str, folder: Path, images: int | None = None) -> None:
    """Unpack the images and decode them into the cache."""
    if data == "none":
        say(data=data)
        return
    begun = time.perf_counter()
    if data != "cifar10":
        val = None if images is None else 100
        data = str(unpack(Path(data).resolve(), folder, train=images, val=val))
    unpacked = time.perf_counter()
    dataset = read(data)
    counts = {name: len(split.labels) for name, split in dataset.splits.items()}
    decoded = time.perf_counter() - unpacked
    say(data=data, images=counts, unpack_s=round(unpacked - begun, 1), decode_s=round(decoded, 1))


def read(data: str) -> Dataset:
    """Return the images, from the cache if they were decoded before."""
    return load_dataset(
        find_images(data),
        resolution=RESOLUTION,
        preprocess=preset("torch"),
        loader="resident",
        reading=Reading(cache=images_cache()),
    )


@app.command()
def train(
    data: str,
    model: ModelName,
    mode: Mode = "eager",
    seconds: float = 0.0,
    epochs: int | None = None,
    recipe: str = "cifar_gpu",
    width_mult: float = 1.0,
    device: str = "auto",
    seed: int = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
) -> None:
    """Train for ``seconds`` from the first step on, then measure with and without mirror images."""
    where = choose_device(device)
    keys = keys_of(mode, where)
    if where.type == "cpu":  # which has no graphs
        keys["graphs"] = False
    keys |= {"epochs": epochs} if epochs is not None else {"time_limit": seconds}
    keys |= dict(map(parse_setting, settings or [])) | {"seed": seed}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        run = run_train(
            data,
            NetworkChoice(model=model, width_mult=width_mult, resolution=RESOLUTION),
            start="scratch",
            recipe=recipe,
            overrides=keys,
            out=Path(scratch) / "run",
            device=device,
            reading=Reading(),
            sitting=Sitting(
                reporter=Reporter(remark=lambda line: print(line, file=sys.stderr)),
                setup_is_free=True,
            ),
        )
        whole = time.perf_counter() - begun
        rows = run.history()
        best = max(rows, key=lambda row: row["top1"])
        plain, mirrored = with_mirror(run.path, data, where)
    reached = [row["seconds"] for row in rows if row["top1"] >= GOOD]
    say(
        top1=best["top1"],
        top1_again=round(plain, 4),
        top1_with_mirror=round(mirrored, 4),
        seconds=rows[-1]["seconds"],
        seconds_to_94=min(reached, default=None),
        epochs=rows[-1]["epoch"],
        images_per_second=rows[-1]["images_per_second"],
        start_s=round(START, 1),
        images_and_network_s=round(whole - rows[-1]["seconds"], 1),
        recipe=recipe,
    )


def with_mirror(run: Path, data: str, where: torch.device) -> tuple[float, float]:
    """Return top-1 on ``val``, and that of the mean logits of each image and its mirror image."""
    trained, split = Model.load(run), read(data).splits["val"]
    network = trained.network
    network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    answer = partial(logits_in_batches, network, Normalise(trained.preprocess).to(where))
    pixels = split.pixels[:]
    straight = answer(pixels)
    both = straight + answer(np.ascontiguousarray(pixels[..., ::-1]))
    first, second = (float((one.argmax(1) == split.labels).mean()) for one in (straight, both))
    return first, second


if __name__ == "__main__":
    try:
        app()
    except InputError as error:
        sys.exit(str(error))
