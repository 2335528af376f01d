"""What keys of a recipe do to a whole run: balance, several labels, when it stops and saves."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mobilette.data.sources import find_images
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.progress import SILENT, Reporter
from mobilette.training.events import WARM_UP, EpochDone, Event, Profiled, StepDone, Stopwatch
from mobilette.training.plan import NetworkChoice, make_plan
from mobilette.verification.evaluate import evaluate
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.conftest import COLOURS
from tests.training.runs import Ticks, train

train_small = partial(train, model="mobilenet_v1", width_mult=0.25, resolution=16, workers=0)


def epochs(events: list[Event]) -> list[EpochDone]:
    return [event for event in events if isinstance(event, EpochDone)]


# Classes of which there are few images


@pytest.fixture(scope="module")
def unbalanced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 200 dim images and 20 bright ones to train on; many are as bright as dim ones."""
    root, generator = tmp_path_factory.mktemp("unbalanced"), np.random.default_rng(0)
    for split, counts in (("train", (200, 20)), ("val", (40, 40))):
        for name, mean, count in zip(("dim", "bright"), (110, 140), counts, strict=True):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                level = int(np.clip(generator.normal(mean, 15), 0, 255))
                path = root / split / name / f"{index}.png"
                Image.new("RGB", (16, 16), (level, level, level)).save(path)
    return root


def recall_of_the_rare(unbalanced: Path, out: Path, **keys: str) -> float:
    events: list[Event] = []
    plain = {"crop": "none", "label_smoothing": 0.0, "precision": "fp32"}
    short = {"epochs": 6, "batch_size": 22, "validate_every": 6}
    train_small(
        unbalanced,
        model="resnet8",
        overrides=plain | short | keys,
        out=out,
        report=events.append,
    )
    return epochs(events)[-1].metrics.per_class["bright"]["top1"]


def test_the_rare_class_is_found_more_often_where_classes_are_balanced(
    unbalanced: Path, tmp_path: Path
) -> None:
    """By the best rule there is: 44% of it as they come, 84% where both count the same."""
    plain = recall_of_the_rare(unbalanced, tmp_path / "plain")
    weighted = recall_of_the_rare(unbalanced, tmp_path / "weights", class_weights="balanced")
    sampled = recall_of_the_rare(unbalanced, tmp_path / "sampling", sampling="balanced")
    assert plain < 0.5
    assert weighted > plain + 0.2
    assert sampled > plain + 0.2


# Several labels an image


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a list of images of none, one or two of three colours, divided."""
    root, generator = tmp_path_factory.mktemp("several"), np.random.default_rng(0)
    (root / "p").mkdir()
    rows = ["path,labels,split"]
    red, green, blue = COLOURS["red"], COLOURS["green"], COLOURS["blue"]
    kinds = [
        ((red, red), "red"),
        ((green, green), "green"),
        ((blue, blue), "blue"),
        ((red, green), "green;red"),
        ((blue, red), "red;blue"),
        ((green, blue), "blue|green"),
        (((128,) * 3, (128,) * 3), ""),
    ]
    for number in range(112):
        halves, labels = kinds[number % 7]
        pixels = np.repeat(np.array(halves, np.float64), 8, axis=0)[None].repeat(16, 0)
        pixels += generator.normal(0, 20, (16, 16, 3))
        file = f"p/{number}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / file)
        rows.append(f"{file},{labels},{'val' if number >= 84 else 'train'}")
    (root / "list.csv").write_text("\n".join(rows))
    return root / "list.csv"


def test_several_labels_from_a_list_to_a_verified_file(several: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    run = train_small(
        several,
        overrides={"epochs": 12, "batch_size": 14, "precision": "fp32"},
        out=tmp_path / "run",
        report=events.append,
    )
    assert run.multi_label
    reached = [event.metrics.mean_average_precision for event in epochs(events)]
    best = max(value for value in reached if value is not None)
    assert best > 0.75  # guessing: 3 of 7 images have a colour
    marked = [event.metrics.mean_average_precision for event in epochs(events) if event.is_best]
    assert marked[-1] == best
    line = run.best()
    assert line is not None
    assert line["mean_average_precision"] == pytest.approx(best, abs=1e-6)
    assert line["epoch"] == [event.epoch for event in epochs(events) if event.is_best][-1]
    assert epochs(events)[-1].train_loss < epochs(events)[0].train_loss < 0.8
    metrics = evaluate(load(run.path), several)
    assert metrics.images == 28
    assert metrics.mean_average_precision == pytest.approx(best, abs=1e-6)
    (answer,) = load(run.path).predict([several.parent / "p" / "84.png"])
    given = {guess.id: guess.probability for guess in answer.top}
    pixels = run.preprocess.geometry(Image.open(several.parent / "p" / "84.png"), 16)
    wanted = torch.sigmoid(torch.from_numpy(load(run.path).logits(pixels[None])[0]).double())
    assert given == pytest.approx(dict(zip(("blue", "green", "red"), wanted.tolist(), strict=True)))
    verdict = verify(export(run, out=tmp_path / "out").path, several)
    assert verdict.passed
    assert verdict.images == 28


@pytest.mark.parametrize("key", ["class_weights", "sampling"])
def test_several_labels_are_not_balanced(several: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match="can balance single labels only; these images"):
        train_small(several, overrides={key: "balanced"}, out=tmp_path / "run")


def test_several_labels_can_be_mixed_and_smoothed(several: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    keys = {"epochs": 1, "batch_size": 14, "mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.2}
    train_small(several, overrides=keys, out=tmp_path / "run", report=events.append)
    assert 0.2 < epochs(events)[0].train_loss < 1.0


@pytest.mark.parametrize(
    ("model", "overrides", "warned"),
    [
        ("squeezenet1_1", {}, True),
        ("squeezenet1_1", {"optimizer": "adamw", "lr": 0.001}, False),
        ("squeezenet1_1_bn", {}, False),
    ],
)
def test_a_rate_too_high_without_batch_norm_is_told(
    model: str, overrides: dict[str, object], warned: bool, images: Path, tmp_path: Path
) -> None:
    """All answers of a SqueezeNet became the same at the usual rate."""
    said: list[str] = []
    train(
        images,
        model=model,
        resolution=32,
        start="scratch",
        overrides={"epochs": 1} | overrides,
        out=tmp_path / "run",
        workers=0,
        reporter=Reporter(remark=said.append),
    )
    expected = (
        "squeezenet1_1 has no batch norm and may not learn at a rate of 0.05; try --set "
        "optimizer=adamw --lr 0.001, or squeezenet1_1_bn"
    )
    assert (expected in said) is warned
    assert any("no batch norm" in text for text in said) is warned


@pytest.mark.parametrize(
    ("model", "options", "rate"),
    [
        ("mobilenet_v4_conv_small", {}, 0.02),
        ("mobilenet_v4_conv_small", {"overrides": {"lr": 0.05}}, 0.05),
        ("mobilenet_v4_conv_small", {"recipe": "quick"}, 0.05),
        ("mobilenet_v3_small", {}, 0.05),
        ("mobilenet_v2", {}, 0.05),
    ],
)
def test_a_network_that_normalises_its_features_gets_a_lower_rate(
    model: str, options: dict[str, Any], rate: float, images: Path
) -> None:
    given = {"recipe": None, "overrides": {}} | options
    choice = NetworkChoice(model=model, resolution=64)
    plan = make_plan(find_images(images), choice, start="scratch", reporter=SILENT, **given)
    assert plan.recipe.lr == rate


# When a run validates, saves and stops


def test_it_stops_when_nothing_gets_better(images: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run = train_small(
        images,
        overrides={"epochs": 9, "batch_size": 48, "lr": 1e-12, "patience": 2},
        out=tmp_path / "run",
        reporter=Reporter(remark=said.append),
    )
    assert [row["epoch"] for row in run.history()] == [1, 2, 3]
    assert "no better result in 2 validations: stopped" in said
    assert run.best() == run.history()[0]


def test_it_validates_every_so_many_epochs_and_after_the_last(images: Path, tmp_path: Path) -> None:
    run = train_small(
        images,
        overrides={"epochs": 5, "batch_size": 48, "validate_every": 2},
        out=tmp_path / "run",
    )
    assert [row["epoch"] for row in run.history()] == [2, 4, 5]
    assert [row["step"] for row in run.history()] == [4, 8, 10]


def test_it_saves_every_so_many_steps(images: Path, tmp_path: Path) -> None:
    saved = []

    def look(event: Event) -> None:
        if isinstance(event, StepDone):
            state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
            saved.append(state["progress"]["index"])

    train_small(
        images,
        overrides={"epochs": 1, "batch_size": 12, "save_every": 3},
        out=tmp_path / "run",
        report=look,
    )
    assert saved == [0, 0, 0, 3, 3, 3, 6, 6]


# What is measured and logged


def test_the_profile_accounts_for_every_part_of_every_step(images: Path, tmp_path: Path) -> None:
    """By a clock that goes on when it is asked: each part is one tick of every step."""
    events: list[Event] = []
    train_small(
        images,
        overrides={"epochs": 1, "batch_size": 8, "crop": "resized"},
        out=tmp_path / "run",
        profile=True,
        report=events.append,
        now=Ticks(),
    )
    (profiled,) = (event for event in events if isinstance(event, Profiled))
    assert list(profiled.seconds) == ["data", "augmentation", "forward", "backward", "optimiser"]
    assert profiled.steps == 12 - WARM_UP
    assert list(profiled.seconds.values()) == pytest.approx([0.01 * profiled.steps] * 5)
    assert profiled.images_per_second == pytest.approx(8 / 0.05)


def test_a_run_shorter_than_the_warm_up_is_measured_whole() -> None:
    clock = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        clock.start()
        clock.lap("forward")
        clock.count(4)
    assert clock.result().steps == 2
    assert clock.result().images_per_second > 0
    assert list(clock.result().seconds) == ["forward"]


def test_tensorboard_has_what_metrics_csv_has(images: Path, tmp_path: Path) -> None:
    run = train_small(
        images,
        overrides={"epochs": 2, "batch_size": 48},
        out=tmp_path / "run",
        tensorboard=True,
    )
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    history = run.history()
    for name, column in (
        ("loss/train", "train_loss"),
        ("loss/val", "val_loss"),
        ("accuracy/top1", "top1"),
        ("lr", "lr"),
    ):
        logged = [(scalar.step, scalar.value) for scalar in events.Scalars(name)]
        expected = [(row["step"], pytest.approx(row[column], abs=1e-5)) for row in history]
        assert logged == expected
    assert len(events.Tags()["scalars"]) == 4  # few classes have no top-5


def test_a_short_time_is_used_though_much_is_held_out(images: Path, tmp_path: Path) -> None:
    """What reading and the first step take says nothing about how long a validation will."""
    for name in COLOURS:
        for number in range(40):
            folder = tmp_path / "set" / ("train" if number < 4 else "val") / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(images / name / f"{number}.png", folder)
    run = train_small(
        tmp_path / "set",
        overrides={"time_limit": 1.5, "batch_size": 12},
        out=tmp_path / "run",
        now=Ticks(),
    )
    last = run.history()[-1]
    assert last["step"] > 5
    assert last["seconds"] > 0.7
