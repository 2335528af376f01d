"""What docs/a_billion_images.md reckons with: rates and bytes an image, measured here.

    python bench/a_billion_images.py [--folder ../shared/data/imagenet-sample] [--rounds 5]

Decoding and reading are those of training (`mobilette.data`), in one thread, files in the page
cache, 224 pixels. A second is one of processor time, so that other programs do not count; given are
the median of the rounds and their range. Memory is what Python's tracemalloc counts.

- `exact`: the images as they are, from the file to 224x224.
- `large, exact` and `large, reduced`: mosaics of 16 of them each (about 1,150 pixels high), so that
  they have as much detail a pixel as photographs, without and with libjpeg's reduced scale.
- `phone, ...`: likewise mosaics of 100 (about 2,880 pixels high).
- `main process`: what the process that trains spends on an image that a worker decodes.
- `index`: what it takes to find and to open a set in tar shards, an image; and the memory that
  is held once it is open, at the most while it is opened, and once all were decoded.
- `order`: the memory and the time to draw the order of an epoch.
"""

from __future__ import annotations

import gc
import io
import os
import platform
import sys
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import PIL
import torch
import typer
from PIL import Image

from mobilette.data.dataset import Dataset, load_dataset
from mobilette.data.images import LabelledImage
from mobilette.data.loader import make_loader
from mobilette.data.preprocess import preset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.data.workers import Decoder, Job
from mobilette.training.sampling import epoch_order

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "imagenet-sample"
RESOLUTION, BATCH, SHARDS = 224, 128, 20
TILE = (384, 288)
DECODER = Decoder(preprocess=preset("torch"), resolution=RESOLUTION, of_pixels=False)


def images_a_second(
    files: Sequence[Path], *, reduced: bool, rounds: int, seconds: float = 3.0
) -> list[float]:
    """Return the rate of each round of decoding ``files`` to rows; a round takes ``seconds``."""
    jobs = [
        Job(row=0, image=LabelledImage(name=file.name, label=0, content=file), reduced=reduced)
        for file in files
    ]
    out = np.empty(DECODER.row_shape, np.uint8)
    for job in jobs[:20]:
        assert isinstance(DECODER.decode(job, out), bytes)
    rates = []
    for _ in range(rounds):
        begun, count = time.process_time(), 0
        while time.process_time() - begun < seconds:
            DECODER.decode(jobs[count % len(jobs)], out)
            count += 1
        rates.append(count / (time.process_time() - begun))
    return rates


def mosaics(files: Sequence[Path], folder: Path, *, side: int, count: int) -> list[Path]:
    """Write ``count`` JPEGs of ``side`` by ``side`` images; detail and bytes a pixel stay."""
    made = []
    for number in range(count):
        canvas = Image.new("RGB", (side * TILE[0], side * TILE[1]))
        for place in range(side * side):
            with Image.open(files[(number * side * side + place) % len(files)]) as image:
                tile = image.convert("RGB").resize(TILE)
            canvas.paste(tile, (place % side * TILE[0], place // side * TILE[1]))
        made.append(folder / f"{side}-{number}.jpg")
        canvas.save(made[-1], quality=90)
    return made


def write_shards(folder: Path, contents: Sequence[bytes], *, images: int) -> Path:
    """Write a set of ``images`` in tar shards as WebDataset names them, and a little val."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS + 1):
        name = f"train-{shard:06}.tar" if shard < SHARDS else "val-000000.tar"
        numbers = range(shard, images, SHARDS) if shard < SHARDS else range(16)
        with tarfile.open(folder / name, "w") as tar:
            for number in numbers:
                label = str(number % 10).encode()
                for suffix, content in (("jpg", contents[number % len(contents)]), ("cls", label)):
                    entry = tarfile.TarInfo(f"{number:09}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return folder


def open_streamed(folder: Path, *, workers: int = 0) -> Dataset:
    """Return the set in ``folder`` as a run that streams it without a cache opens it."""
    return load_dataset(
        find_images(folder),
        resolution=RESOLUTION,
        preprocess=preset("torch"),
        loader="streamed",
        reading=Reading(workers=workers),
    )


def index_bytes(folder: Path) -> tuple[float, float]:
    """Return the bytes an image that the open set in ``folder`` holds, and at most needed."""
    with _traced() as since:
        dataset = open_streamed(folder)
        held, most = since()
        count = sum(len(split.names) for split in dataset.splits.values())
        dataset.close()
    return held / count, most / count


def order_bytes(images: int) -> float:
    """Return the most bytes an image that drawing the order of an epoch needs, by its arrays.

    torch's allocations are not Python's: the peak of the process is asked, in one of its own.
    """
    labels = np.zeros(images, np.int64)
    shards = np.arange(images, dtype=np.int64) // 10_000
    before = _peak()
    epoch_order(labels, sampling="shuffled", shards=shards, generator=torch.Generator())
    return (_peak() - before) / images


def main_process_seconds(dataset: Dataset, *, rounds: int) -> list[float]:
    """Return the processor seconds an image of this process, while one worker decodes."""
    split = dataset.splits["train"]
    loader = make_loader(split, device=torch.device("cpu"))
    spent = []
    for number in range(rounds):
        order = torch.randperm(len(split.names), generator=torch.Generator().manual_seed(number))
        batches = list(torch.tensor_split(order[: 20 * BATCH], 20))
        begun, count = 0.0, -1
        for batch in loader.batches(batches):
            if count < 0:  # the first waits for the process to start
                begun, count = time.process_time(), 0
                continue
            count += len(batch.rows)
        spent.append((time.process_time() - begun) / count)
    return spent


def main(
    folder: Annotated[Path, typer.Option(help="JPEG images of about 288 pixels.")] = SAMPLE,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    images: Annotated[int, typer.Option(help="In the shards.", min=2000)] = 20_000,
) -> None:
    """Measure."""
    torch.set_num_threads(1)
    files = sorted(folder.glob("*.jpg"))
    contents = [file.read_bytes() for file in files]
    print(f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(f"Pillow {PIL.__version__}, torch {torch.__version__}, {rounds} rounds")
    print(f"{len(files)} images of {np.mean([len(each) for each in contents]):,.0f} bytes")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        _show("exact", images_a_second(files, reduced=False, rounds=rounds), "images/s")
        for name, side, count in (("large", 4, 8), ("phone", 10, 4)):
            large = mosaics(files, root, side=side, count=count)
            size = np.mean([file.stat().st_size for file in large])
            print(f"{name}: {side * TILE[0]}x{side * TILE[1]}, {size:,.0f} bytes")
            for how, reduced in (("exact", False), ("reduced", True)):
                rates = images_a_second(large, reduced=reduced, rounds=rounds)
                _show(f"{name}, {how}", rates, "images/s")
        shards = write_shards(root / "shards", contents, images=images)
        _index(shards, images, rounds)
    print(f"order: {order_bytes(20_000_000):,.0f} bytes an image at most", end=", ")
    print(f"{_seconds(_draw) / 20_000_000 * 1e9:,.0f} ns an image")


def _index(shards: Path, images: int, rounds: int) -> None:
    found = [_seconds(lambda: find_images(shards)) / images for _ in range(rounds)]
    _show("index: to find", [1e6 * each for each in found], "us an image")
    both = [_seconds(lambda: open_streamed(shards)) / images for _ in range(rounds)]
    _show("index: to find and open", [1e6 * each for each in both], "us an image")
    held, most = index_bytes(shards)
    print(f"index: {held:,.0f} bytes an image, {most:,.0f} at most")
    dataset = open_streamed(shards, workers=1)
    _show(
        "main process",
        [1e6 * each for each in main_process_seconds(dataset, rounds=rounds)],
        "us an image",
    )
    dataset.close()
    print(f"index: {digest_bytes(shards):,.0f} bytes more an image that was decoded")


def digest_bytes(folder: Path, *, decoded: int = 2000) -> float:
    """Return the bytes that stay of each of ``decoded`` images (its SHA-256)."""
    dataset = open_streamed(folder)
    store, out = dataset.store, np.empty((16, *DECODER.row_shape), np.uint8)
    assert store is not None
    with _traced() as since:
        for first in range(0, decoded, 16):
            store.fill(range(first, first + 16), out)
        held = since()[0]
    dataset.close()
    return held / len(store.digests)


def _draw() -> None:
    shards = np.arange(20_000_000, dtype=np.int64) // 10_000
    epoch_order(shards, sampling="shuffled", shards=shards, generator=torch.Generator())


@contextmanager
def _traced() -> Iterator[Callable[[], tuple[int, int]]]:
    """Yield what returns the bytes that are held, and were at most, since the block began."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    def since() -> tuple[int, int]:
        gc.collect()
        held, most = tracemalloc.get_traced_memory()
        return held - before, most - before

    try:
        yield since
    finally:
        tracemalloc.stop()


def _peak() -> int:
    """Return the most memory that this process ever had, in bytes."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _show(name: str, values: Sequence[float], unit: str) -> None:
    print(f"{name}: {median(values):,.1f} {unit} ({min(values):,.1f} to {max(values):,.1f})")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.partition(": ")[2] for x in lines if x.startswith("model name")), "processor")


if __name__ == "__main__":
    typer.run(main)
