r"""NetAdapt against cutting all widths alike, at equal latency and equal training after it.

    python bench/netadapt.py v1 --weights ../shared/weights/mobilenet_v1_0.75_224_imagenet_tfjs \
        --data ../shared/data/imagenette-small
    python bench/netadapt.py resnet20 --weights ../shared/weights/resnet20_cifar10_akamaster.th \
        --data ../shared/data/cifar10-jpeg.zip --images 4000 --val-images 2000

A trained network is cut to `--parts` of its latency in ONNX Runtime on one thread (fp32, one image)
in three ways: by NetAdapt (`mobilette.search.netadapt`), with all widths alike (every group of tied
channels by the same factor), and as `prune --keep` cuts (greedily, the least important channels per
mult-add). The second part goes on from NetAdapt's first. All three choose channels by the same
Taylor scores, and all are as fast as the one with all widths alike that is nearest to the part, by
a latency table that is corrected by what the uncut network takes; milliseconds are also measured,
in turns, at the end. Then each is trained for `--epochs` by `sliced`, with the uncut network as
teacher. Accuracy is top-1 on `val`, which NetAdapt has not seen: it chooses by training images kept
apart.

`v1` is first trained on the images for `--base-epochs`; ResNet-20 knows them. `--json` keeps the
rows, `--out` gets the table. The last line, `ratio: X`, is the median error with all widths alike
by NetAdapt's: above 1 where NetAdapt is better.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from mobilette.arch.arch import Arch
from mobilette.arch.knobs import Knobs
from mobilette.compression.channel_scores import Scores
from mobilette.compression.pruning import counts_of, cut_to, prune_channels
from mobilette.counting.budget import parse_budget
from mobilette.counting.cost import cost
from mobilette.counting.latency import LatencyTable, read_latency_table, write_latency_table
from mobilette.data.dataset import load_dataset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.engines.timing import Request
from mobilette.errors import InputError
from mobilette.exporters.export import export_calibrated
from mobilette.formats.importing import import_weights
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model
from mobilette.progress import Reporter
from mobilette.run.directory import Run, open_run
from mobilette.search.limits_of_budget import Limits
from mobilette.search.netadapt import adapt
from mobilette.search.practice import Practice
from mobilette.training.recipe import load_recipe
from mobilette.verification.bench import machine, time_once
from mobilette.verification.evaluate import evaluate
from mobilette.verification.latency_table import build_latency_table
from mobilette.workflows.train import train

if TYPE_CHECKING:
    from bench.images import unpack
else:
    from images import unpack

TABLE = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
WAYS = ("netadapt", "widths alike", "prune --keep")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network that was cut to ``part`` of the latency and trained."""

    network: str
    part: float
    way: str
    madds: int
    params: int
    predicted_ms: float
    milliseconds: float
    cut: float
    top1: float
    seconds: float


def say(line: str) -> None:
    """Say on stderr what was reached."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def base_run(
    network: str, weights: Path, data: Path, folder: Path, *, resolution: int, epochs: int
) -> Run:
    """Return the run of the uncut network."""
    if network == "v1":
        start = import_weights(weights, model="mobilenet_v1", width_mult=0.75, preprocess="tf")
        return train(
            data, start=start, resolution=resolution, epochs=epochs, out=folder / "base",
            overrides={"precision": "fp32"},
        )  # fmt: skip
    names = sorted(path.name for path in (data / "train").iterdir())
    labels = [ClassLabel(id=name, name=name) for name in names]
    model = import_weights(
        weights, model="resnet20", resolution=32, classes=labels, preprocess="torch"
    )
    return open_run(model.save(folder / "base"))


def table_of(arch: Arch, path: Path | None) -> LatencyTable:
    """Return the latency table in ``path``, measured if it is not there."""
    if path is not None and path.exists():
        return read_latency_table(path)
    # Layers of its own widths: the table of all families would have to interpolate more.
    networks = [alike_by(arch, factor) for factor in TABLE]
    table = build_latency_table("onnx", networks=networks, reporter=Reporter(remark=say))
    if path is not None:
        write_latency_table(table, path)
    return table


def alike_by(arch: Arch, factor: float) -> Arch:
    """Return ``arch`` with all widths cut by the same factor, rounded to multiples of 8."""
    knobs = Knobs(arch)
    counts = [min(counts_of(knob), key=partial(_distance, factor * knob.size)) for knob in knobs]
    allowed = knobs.allowed(counts)
    triples = zip(knobs, counts, allowed, strict=True)
    return knobs.set([count if ok else knob.size for knob, count, ok in triples])


def _distance(wanted: float, count: int) -> tuple[float, int]:
    return abs(count - wanted), -count


def alike(arch: Arch, excess: Callable[[Arch], float]) -> Arch:
    """Return the network with all widths cut by the same factor that is nearest to the target."""
    factors = (number / 200 for number in range(199, 10, -1))
    cuts = dict.fromkeys(alike_by(arch, factor) for factor in factors)
    return min(cuts, key=lambda narrow: abs(excess(narrow) - 1))


def greedy(model: Model, scores: Scores, excess: Callable[[Arch], float]) -> Model:
    """Return the network that `prune_channels` makes with the most mult-adds that fits."""
    low, high = 0.05, 1.0
    best = None
    for _ in range(8):
        middle = (low + high) / 2
        pruned = prune_channels(model, scores, keep_madds=middle)
        if excess(pruned.arch) <= 1:
            best, low = pruned, middle
        else:
            high = middle
    if best is None:
        raise InputError("no part of the mult-adds is small enough")
    return best


def timed(models: dict[str, Model], folder: Path, *, rounds: int) -> dict[str, float]:
    """Return each model's median milliseconds in ONNX Runtime on one thread, timed in turns."""
    artifacts = {
        name: export_calibrated(model, to="onnx", precision="fp32", out=folder / f"{number}")
        for number, (name, model) in enumerate(models.items())
    }
    found: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, artifact in artifacts.items():
            request = Request(path=str(artifact.path), threads=1, batches=(1,), seconds=0.5)
            found[name].append(median(time_once(request).calls_ms["1"]))
    return {name: median(each) for name, each in found.items()}


def main(
    network: Annotated[str, typer.Argument(help="v1 or resnet20.")],
    weights: Annotated[Path, typer.Option(help="Of the trained network.")],
    data: Annotated[Path, typer.Option(help="A folder with train/ and val/, or a zip of one.")],
    images: Annotated[int | None, typer.Option(help="To train on; all if not given.")] = None,
    val_images: Annotated[int | None, typer.Option(help="Held out; all if not given.")] = None,
    resolution: Annotated[int, typer.Option(help="Of V1.")] = 128,
    parts: Annotated[str, typer.Option(help="Of the latency.")] = "0.75,0.5",
    iterations: Annotated[int, typer.Option(help="Of NetAdapt, for each part.")] = 6,
    steps: Annotated[int, typer.Option(help="Of each short training.")] = 10,
    most: Annotated[int, typer.Option(help="Proposals that are trained; 0 for all.")] = 0,
    by: Annotated[str, typer.Option(help="loss or score.")] = "loss",
    base_epochs: int = 4,
    epochs: Annotated[int, typer.Option(help="After the cut.")] = 4,
    rounds: Annotated[int, typer.Option(help="Of timing.")] = 5,
    out: Path | None = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    table_file: Annotated[
        Path | None, typer.Option("--table", help="Latency table, written if it is not there.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="A run to start from, if there is one.")] = None,
) -> None:
    """Cut a network in three ways, train each and print what they reach."""
    load = os.getloadavg()[0]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = unpack(data.resolve(), folder / "images", train=images, val=val_images).resolve()
        run = open_run(base) if base else base_run(
            network, weights, found, folder, resolution=resolution, epochs=base_epochs
        )  # fmt: skip
        model = run.model
        whole = evaluate(run, found, split="val", include_trained=True).top1
        say(f"uncut: {whole:.2%} of val")
        table = table_of(model.arch, table_file)
        (term,) = parse_budget("latency<=1s@onnx")
        assert term.device is not None
        limits = Limits(terms=(term,), tables={term.device: table})
        uncut_ms = timed({"uncut": model}, folder / "first", rounds=rounds)["uncut"]
        limits = limits.corrected(model.arch, {term: uncut_ms})
        dataset = load_dataset(
            find_images(found),
            resolution=model.arch.resolution,
            preprocess=model.preprocess,
            reading=Reading(workers=0),
        )
        recipe = load_recipe("sliced", overrides={"precision": "fp32", "batch_size": 32})
        practice = Practice(
            dataset, preprocess=model.preprocess, recipe=recipe, device=torch.device("cpu")
        )
        scores = practice.scores(model)
        current, trained = model, {"uncut": model}
        for part in map(float, parts.split(",")):
            begun = time.perf_counter()
            # Widths alike come in few steps: theirs is the latency that all have to meet.
            even = alike(model.arch, to_part(limits, part * uncut_ms))
            excess = to_part(limits, limits.need(even, term))
            current, _ = adapt(
                current,
                excess,
                budget=1.0,
                practice=practice,
                folder=folder / f"netadapt-{part:g}",
                iterations=iterations,
                steps=steps,
                most=most,
                by="score" if by == "score" else "loss",
                reporter=Reporter(remark=say),
            )
            searched = time.perf_counter() - begun
            cuts = {
                WAYS[0]: (current, searched),
                WAYS[1]: (cut_to(model, scores, even), 0.0),
                WAYS[2]: (greedy(model, scores, excess), 0.0),
            }
            for way, (narrow, seconds) in cuts.items():
                measured = practice.trained(narrow, 0)
                tuned = train(
                    found,
                    start=measured,
                    recipe="sliced",
                    overrides={
                        "epochs": epochs,
                        "teacher": str(run.path),
                        "precision": "fp32",
                        "batch_size": 32,
                    },
                    out=folder / f"trained-{len(rows)}",
                )
                trained[f"{way} {part:g}"] = tuned.model
                best, history = tuned.best() or {}, tuned.history()
                rows.append(
                    Row(
                        network=network,
                        part=part,
                        way=way,
                        madds=cost(narrow.arch).madds,
                        params=cost(narrow.arch).params,
                        predicted_ms=limits.need(narrow.arch, term),
                        milliseconds=0.0,
                        cut=float(history[0]["top1"]),
                        top1=float(best["top1"]),
                        seconds=seconds,
                    )
                )
                say(f"{part:g} {way}: {rows[-1]}")
            final_ms = timed(trained, folder / f"timed-{part:g}", rounds=rounds)
            rows = [replace(row, milliseconds=final_ms[f"{row.way} {row.part:g}"]) for row in rows]
            title = (
                f"{machine()}; load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; "
                f"{network}, {data.name}: {images or 'all'} images to train on, "
                f"{val_images or 'all'} held out, {'x'.join(map(str, model.arch.size))}; uncut "
                f"{whole:.2%}, {final_ms['uncut']:.3f} ms; {iterations} iterations a part, "
                f"{most or 'all'} proposals of {steps} steps, by {by}; {epochs} epochs after it"
            )
            if json_file is not None:
                content = {"task": title, "rows": [asdict(row) for row in rows]}
                json_file.write_text(json.dumps(content, indent=1))
            if out is not None:
                out.write_text(to_markdown(rows, title))
    print(to_markdown(rows, title))
    print(f"ratio: {ratio(rows):.2f}")


def to_part(limits: Limits, milliseconds: float) -> Callable[[Arch], float]:
    """Return what a network takes by ``milliseconds``."""
    (term,) = limits.terms

    def excess(arch: Arch) -> float:
        return limits.need(arch, term) / milliseconds

    return excess


def ratio(rows: list[Row]) -> float:
    """Return the median error of all widths alike by NetAdapt's."""
    errors = {(row.part, row.way): 1 - row.top1 for row in rows}
    parts = dict.fromkeys(row.part for row in rows)
    return median(errors[part, WAYS[1]] / max(errors[part, WAYS[0]], 1e-9) for part in parts)


def to_markdown(rows: list[Row], title: str) -> str:
    """Return the page."""
    lines = [
        "# NetAdapt against cutting all widths alike",
        "",
        "Written by `bench/netadapt.py`; its first lines say how the ways are compared.",
        "",
        f"{title}.",
        "",
        "| network | of the latency | cut | mult-adds | parameters | ms predicted | ms measured "
        "| top-1 after the cut | top-1 trained |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row.network} | {row.part:.0%} | {row.way} | {row.madds:,} | {row.params:,} "
        f"| {row.predicted_ms:.3f} | {row.milliseconds:.3f} | {row.cut:.2%} | {row.top1:.2%} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))
