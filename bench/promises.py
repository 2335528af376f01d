"""Do promises hold? Intervals, thresholds and temperatures by resampling; scores of the unknown.

    OMP_NUM_THREADS=1 python bench/promises.py [--epochs 2] [--per-class 2000]
        [--resamplings 500] [--out build/promises] [--data ../shared/data/cifar10-jpeg.zip]
        [--weights ../shared/weights] [--unknown ../shared/data/flowers200]

Networks are trained from scratch on some of CIFAR-10's training images; a tenth held out fits the
temperatures. A published ResNet-20 joins them, as it is and trained further here. One more network
is trained on six classes, so that the other four are unknown to it. What is found in `--out` is not
made again.

- Intervals: of images drawn with replacement from the 10,000 of the test set, how often Wilson's
  95% interval of the accuracy contains the accuracy on all of them; ten times as many resamplings.
- Promises: temperature and threshold are fitted on images so drawn; how often at most the promised
  part of the answers to all 10,000 is wrong. The truth is known, and drawn images are independent.
  Besides, without replacement: how often the wrong answers to the images that were not drawn are at
  most that part. These are a sample themselves, so a promise that holds can look broken there.
- Calibration: the expected calibration error on the test set, before and after the temperature.
  The ResNets' are fitted on every other image of the test set and measured on the rest.
- The unknown: areas under the ROC curve of test images of known classes against others.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from mobilette.engines.load import load
from mobilette.engines.predictor import Predictor
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.formats.importing import import_weights
from mobilette.progress import Reporter
from mobilette.run.answers import fit_answering
from mobilette.run.directory import Run, is_run, open_run
from mobilette.run.metrics import log_sum_exp, right_answers, softmax, wilson_interval
from mobilette.run.promise import Asked
from mobilette.run.temperature import fit_temperature
from mobilette.verification.bench import machine
from mobilette.verification.statistics import calibration_error
from mobilette.workflows.export import export
from mobilette.workflows.train import train

SHARED = Path(__file__).resolve().parents[2] / "shared"
PUBLISHED, SIX = "resnet20", "six classes"
FURTHER = "resnet20 trained further"
# What is trained, and with which options beside the number of images and epochs. The full form
# takes a quarter of the time of the small one, in which the others are.
SCRATCH: dict[str, Any] = {"width_mult": 0.5, "start": "scratch"}
TRAINED: dict[str, dict[str, Any]] = {
    FURTHER: {},
    "mobilenet_v3_small": {"model": "mobilenet_v3_small"} | SCRATCH,
    "shufflenet_v2": {"model": "shufflenet_v2"} | SCRATCH,
    SIX: {"model": "mobilenet_v3_small", "form": "full"} | SCRATCH,
    "mobilenet_v2": {"model": "mobilenet_v2", "form": "full", "epochs": 1} | SCRATCH,
}
LEFT_OUT = ("cat", "deer", "horse", "truck")
ERROR = 0.02
BANK = 5_000  # training images that features are compared with
REPORTER = Reporter(remark=print)

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]


def lay_out(archive: Path, out: Path) -> Path:
    """Unpack the images: a tenth of the training images is ``val``, the archive's is ``test``."""
    place = out / "set"
    if place.is_dir():
        return place
    with zipfile.ZipFile(archive) as content:
        for name in map(Path, content.namelist()):
            if name.suffix != ".jpg":
                continue
            split, label = name.parts[-3:-1]
            tenth = "val" if name.stem.endswith("9") else "train"
            file = place / ("test" if split == "val" else tenth) / label / name.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.read(str(name)))
    return place


def to_train_on(place: Path, out: Path, *, six: bool, per_class: int) -> Path:
    """Return the set with ``per_class`` training images, or also without `LEFT_OUT`, as links."""
    part = out / f"{'six' if six else 'ten'}-{per_class}"
    for folder in () if part.is_dir() else sorted(place.glob("*/*")):
        if six and folder.name in LEFT_OUT:
            continue
        link = part / folder.relative_to(place)
        link.parent.mkdir(parents=True, exist_ok=True)
        if folder.parent.name != "train":
            link.symlink_to(folder.resolve())
            continue
        link.mkdir()
        for file in sorted(folder.iterdir())[:per_class]:
            (link / file.name).symlink_to(file.resolve())
    return part


def networks(
    place: Path, weights: Path, out: Path, *, epochs: int, per_class: int
) -> Iterator[tuple[str, Run]]:
    """Yield the networks by name; those that are not there are trained or imported."""
    published = out / "runs" / PUBLISHED
    if not is_run(published):
        names = out / "classes.txt"
        names.write_text("".join(f"{c.name}\n" for c in sorted((place / "train").iterdir())))
        file = weights / "resnet20_cifar10_akamaster.th"
        import_weights(file, model=PUBLISHED, preprocess="torch", classes=names).save(published)
    yield PUBLISHED, open_run(published)
    for name, options in TRAINED.items():
        folder = out / "runs" / name.replace(" ", "_")
        if not is_run(folder):
            data = to_train_on(place, out, six=name == SIX, per_class=per_class)
            if name == FURTHER:
                options = {"start": published}
            train(data, out=folder, reporter=REPORTER, **{"epochs": epochs} | options)
        yield name, open_run(folder)


def read(predictor: Predictor, folder: Path, step: int = 1) -> tuple[NDArray[np.uint8], Labels]:
    """Return every ``step``-th image below ``folder``, prepared, and the number of its class."""
    files = sorted(folder.rglob("*.jpg")) + sorted(folder.rglob("*.png"))
    numbers = {label.id: number for number, label in enumerate(predictor.classes)}
    pixels, labels = [], []
    for file in files[::step]:
        with Image.open(file) as image:
            prepared = predictor.preprocess.geometry(
                image.convert("RGB"), predictor.arch.resolution
            )
        pixels.append(prepared)
        labels.append(numbers.get(file.parent.name, -1))
    return np.stack(pixels), np.array(labels)


def saved(out: Path, name: str, make: Callable[[], Arrays]) -> Arrays:
    """Return arrays from a file in ``out``, made first if it is not there."""
    file = out / f"{name.replace(' ', '_')}.npz"
    if not file.exists():
        np.savez(file, **make())  # type: ignore[arg-type]
    with np.load(file) as content:
        return {key: content[key] for key in content.files}


def intervals(right: NDArray[np.bool_], images: int, times: int) -> float:
    """Return how often Wilson's interval of ``images`` drawn images has the accuracy of all."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(times):
        low, high = wilson_interval(float(generator.choice(right, images).mean()), images)
        held += low <= right.mean() <= high
    return held / times


def promises(
    logits: Logits, labels: Labels, *, images: int, times: int, replace: bool
) -> tuple[float, float, float]:
    """Return how often a threshold was found, how often the promise held, and the mean coverage.

    Without ``replace`` it has to hold on the images that were not drawn, otherwise on all.
    """
    generator, everything = np.random.default_rng(1), np.arange(len(labels))
    right = right_answers(logits, labels)
    found, held, coverage = 0, 0, []
    for _ in range(times):
        rows = generator.choice(everything, images, replace=replace)
        fitted = fit_answering(
            logits[rows], labels[rows], split="drawn", asked=Asked(error=ERROR)
        ).answering
        others = everything if replace else np.setdiff1d(everything, rows)
        if fitted.promise is None:  # then nothing is promised, which holds
            held += 1
            continue
        best = softmax(logits[others], temperature=fitted.temperature).max(axis=1)
        given = best >= fitted.promise.threshold
        found += 1
        held += (~right[others][given]).mean() <= ERROR
        coverage.append(given.mean())
    return found / times, held / times, float(np.mean(coverage)) if coverage else 0.0


def outputs(name: str, run: Run, place: Path, unknown: Path, out: Path) -> Arrays:
    """Return the logits and features of training images, and of known and unknown images."""

    def make() -> Arrays:
        predictor = load(run)
        assert isinstance(predictor, CheckpointPredictor)
        bank, labels = read(predictor, place / "train", step=len(run.classes) * 4_500 // BANK)
        pixels, truth = read(predictor, place / "test")
        images = {"bank": bank[labels >= 0], "known": pixels[truth >= 0]}
        images |= {"flowers": read(predictor, unknown)[0], "digits": digits(predictor)}
        if (truth < 0).any():
            images["four classes left out"] = pixels[truth < 0]
        found: Arrays = {"labels": labels[labels >= 0]}
        for what, each in images.items():
            both = [_both(predictor, each[at : at + 32]) for at in range(0, len(each), 32)]
            found[f"logits of {what}"] = np.concatenate([logits for logits, _ in both])
            found[f"features of {what}"] = np.concatenate([features for _, features in both])
        return found

    return saved(out, f"{name} outputs", make)


def _both(predictor: CheckpointPredictor, pixels: NDArray[np.uint8]) -> tuple[Logits, Logits]:
    """Return logits and features of one pass."""
    with torch.inference_mode():
        x = predictor.normalise(torch.from_numpy(pixels))
        logits, features = predictor.network.eval().with_features(x)
    return logits.numpy(), features.numpy()


def scores(found: Arrays, what: str) -> dict[str, NDArray[np.float64]]:
    """Return each score of the images called ``what``, the higher the more known.

    GEN is the generalised entropy of Liu, Lochman and Zach (CVPR 2023) with their exponent, 0.1.
    """
    logits, features = found[f"logits of {what}"], found[f"features of {what}"].astype(np.float64)
    trained, labels = found["features of bank"].astype(np.float64), found["labels"]
    neighbours = NearestNeighbors(n_neighbors=10).fit(unit(trained))
    probability = softmax(logits).clip(1e-12, 1 - 1e-12)
    own = found["logits of bank"].astype(np.float64)
    return {
        "energy": log_sum_exp(logits),
        "largest logit": logits.max(axis=1).astype(np.float64),
        "probability": probability.max(axis=1),
        "GEN": -((probability * (1 - probability)) ** 0.1).sum(axis=1),
        "logits' distance": nearness(logits.astype(np.float64), own, labels),
        "features' distance": nearness(features, trained, labels),
        "10th neighbour": -neighbours.kneighbors(unit(features))[0][:, -1],
        "length": np.linalg.norm(features, axis=1),
    }


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows of length 1."""
    scaled: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
    return scaled


def nearness(
    rows: NDArray[np.float64], trained: NDArray[np.float64], labels: Labels
) -> NDArray[np.float64]:
    """Return minus Mahalanobis' distance to the nearest class (Lee et al., NeurIPS 2018)."""
    means = np.stack([trained[labels == label].mean(axis=0) for label in np.unique(labels)])
    spread = np.cov((trained - means[np.searchsorted(np.unique(labels), labels)]).T)
    spread += 1e-3 * np.trace(spread) / len(spread) * np.eye(len(spread))
    inverse = np.linalg.inv(spread)
    each = [np.einsum("nd,nd->n", (rows - mean) @ inverse, rows - mean) for mean in means]
    nearest: NDArray[np.float64] = -np.min(each, axis=0)
    return nearest


def digits(predictor: Predictor) -> NDArray[np.uint8]:
    """Return scikit-learn's digits as images, prepared."""
    grey = (load_digits().images * 15.9375).astype(np.uint8)
    resolution = predictor.arch.resolution
    images = (Image.fromarray(each).convert("RGB") for each in grey)
    return np.stack([predictor.preprocess.geometry(image, resolution) for image in images])


def row(*cells: object) -> str:
    """Return a line of a Markdown table."""
    shown = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells)
    return f"| {' | '.join(shown)} |"


def table(title: str, *headings: str) -> None:
    """Print the head of a Markdown table."""
    print(f"\n{title}\n\n{row(*headings)}\n|---{'|--:' * (len(headings) - 1)}|")


def answers(name: str, run: Run, place: Path, out: Path) -> Arrays:
    """Return the logits of both artifacts, and the labels, of ``test`` and ``val``."""

    def make() -> Arrays:
        data = str(place) if name == PUBLISHED else None  # it has no images of its own
        found: Arrays = {}
        for precision, given in (("fp32", None), ("int8", data)):
            artifact = export(
                run,
                precision=precision,  # type: ignore[arg-type]
                data=given,
                out=out / "exports" / name,
                force=True,
                reporter=REPORTER,
            )
            predictor = load(artifact)
            for split in ("val", "test"):
                pixels, labels = read(predictor, place / split)
                found[f"{precision} {split}"] = predictor.logits(pixels)
                found[split] = labels
        return found

    return saved(out, name, make)


def main(
    data: Path = SHARED / "data" / "cifar10-jpeg.zip",
    weights: Path = SHARED / "weights",
    unknown: Path = SHARED / "data" / "flowers200",
    epochs: int = 2,
    per_class: int = 2000,
    resamplings: Annotated[int, typer.Option(min=200)] = 500,
    out: Path = Path("build/promises"),
) -> None:
    """Measure everything and print the tables."""
    out.mkdir(parents=True, exist_ok=True)
    place = lay_out(data, out)
    runs = dict(networks(place, weights, out, epochs=epochs, per_class=per_class))
    trained = f"{epochs} epochs of {per_class:,} images a class"
    print(f"{machine()}\n{data.name}, {trained}, {resamplings} resamplings")
    found = {name: answers(name, run, place, out) for name, run in runs.items() if name != SIX}
    table("Wilson's 95% intervals that contain the accuracy", "network", "200", "1,000", "5,000")
    for name, each in found.items():
        for precision in ("fp32", "int8"):
            right = right_answers(each[f"{precision} test"], each["test"])
            cells = [intervals(right, images, 10 * resamplings) for images in (200, 1_000, 5_000)]
            print(row(f"{name}, {precision}, {right.mean():.1%}", *cells))
    table(
        f"error<={ERROR:.0%}",
        *("network", "images drawn", "threshold found", "holds", "answered", "holds on the others"),
    )
    for name, each in found.items():
        for precision in ("fp32", "int8"):
            for images in (1_000, 2_000, 5_000):
                logits, labels = each[f"{precision} test"], each["test"]
                of = [
                    promises(logits, labels, images=images, times=resamplings, replace=replace)
                    for replace in (True, False)
                ]
                print(row(f"{name}, {precision}", images, *of[0], of[1][1]), flush=True)
    table("Expected calibration error", "network", "temperature", "before", "after")
    for name, each in found.items():
        for precision in ("fp32", "int8"):
            logits, labels = each[f"{precision} test"], each["test"]
            fitting = each[f"{precision} val"], each["val"]
            if name in (PUBLISHED, FURTHER):  # trained on all of the training images
                fitting, logits, labels = (logits[::2], labels[::2]), logits[1::2], labels[1::2]
            temperature, _ = fit_temperature(*fitting)
            errors = [
                calibration_error((logits / x).astype(np.float32), labels)
                for x in (1.0, temperature)
            ]
            shown = [f"{error:.4f}" for error in errors]
            print(row(f"{name}, {precision}", temperature, *shown))
    print_unknown({name: outputs(name, run, place, unknown, out) for name, run in runs.items()})


def print_unknown(found: dict[str, Arrays]) -> None:
    """Print how well each score tells unknown images, and the best score of all and of logits."""
    rows: dict[str, dict[str, float]] = {}
    for name, each in found.items():
        known = scores(each, "known")
        for key in each:
            what = key.removeprefix("logits of ")
            if key == what or what in ("bank", "known"):
                continue
            others = scores(each, what)
            truth = np.repeat([1, 0], [len(known["energy"]), len(others["energy"])])
            rows[f"{name}: {what}"] = {
                score: float(roc_auc_score(truth, np.concatenate([known[score], others[score]])))
                for score in known
            }
    names = list(next(iter(rows.values())))
    table("Area under the ROC curve: known against unknown", "network: unknown", *names)
    for what, each_score in rows.items():
        print(row(what, *each_score.values()))
    means = {name: float(np.mean([each[name] for each in rows.values()])) for name in names}
    print(row("mean", *means.values()))
    print(f"\nthe best: {max(means, key=lambda name: means[name])}")


if __name__ == "__main__":
    typer.run(main)
