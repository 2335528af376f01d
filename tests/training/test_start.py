"""Training that starts from other weights: what is taken over, what is kept, what is new."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mobilette
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Form, Settings
from mobilette.compression.folding import fold
from mobilette.data.normalise import Normalise
from mobilette.errors import InputError
from mobilette.formats.importing import import_weights
from mobilette.formats.slicing import slice_weights
from mobilette.model.class_matching import select_classes
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model, Origin, numbered_classes
from mobilette.nn.network import Network
from mobilette.progress import Reporter
from mobilette.run.directory import Run, open_run
from mobilette.training.events import EpochDone, Event
from mobilette.training.optimiser import learning_rate
from mobilette.training.recipe import TRANSFER, load_recipe
from mobilette.training.step import Trainer
from tests.conftest import write_images
from tests.formats.published_files import images as real_images
from tests.formats.published_files import published
from tests.models import model_of, stem_of
from tests.training.runs import Ticks, resume, same_weights, train
from tests.training.test_train import Stop, stop_at_once

transfer = partial(train, workers=0)
HEAD = "head.classifier."


@pytest.fixture(scope="module")
def wide(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run of width 0.5 that has learnt the colours."""
    return train(
        images,
        model="mobilenet_v1",
        width_mult=0.5,
        resolution=32,
        preprocess="tf",
        resize="squash",
        start="scratch",
        overrides={"epochs": 6, "batch_size": 16},
        out=tmp_path_factory.mktemp("runs") / "wide",
        workers=0,
    )


@pytest.fixture(scope="module")
def other_images(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same images under other names of classes, and one class less."""
    root = tmp_path_factory.mktemp("other")
    shutil.copytree(images / "red", root / "apple")
    shutil.copytree(images / "green", root / "leaf")
    return root


def weights(run: Run) -> dict[str, Tensor]:
    return load_file(run.weights_path)


# What is taken over


def test_size_and_preprocessing_are_those_of_the_start(
    wide: Run, other_images: Path, tmp_path: Path
) -> None:
    run = transfer(other_images, start=wide.path, overrides={"epochs": 1}, out=tmp_path / "a")
    assert run.arch == wide.arch.with_classes(2)
    assert run.preprocess == wide.preprocess
    assert [label.id for label in run.classes] == ["apple", "leaf"]
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["start"] == str(wide.path)
    assert "frozen_epochs = 1\n" in (run.path / "recipe.toml").read_text()
    asked = transfer(
        other_images,
        start=wide.path,
        resolution=48,
        preprocess="unit",
        resize="pad",
        recipe="quick",
        overrides={"epochs": 1},
        out=tmp_path / "b",
    )
    assert asked.arch == replace(wide.arch, resolution=48).with_classes(2)
    assert (asked.preprocess.mean, asked.preprocess.resize) == ((0.0,) * 3, "pad")
    assert "frozen_epochs = 0\n" in (asked.path / "recipe.toml").read_text()


@pytest.mark.parametrize(
    ("options", "full"),
    [({"model": "mobilenet_v1"}, False), ({"form": "full"}, True), ({"form": "small"}, False)],
)
def test_the_width_is_that_of_the_start_unless_said(
    options: dict[str, Any], full: bool, wide: Run, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        transfer(images, start=wide.path, **options, out=tmp_path / "run", report=stop_at_once)
    form: Form = "full" if full else "small"
    settings = Settings(width_mult=0.5, resolution=32, num_classes=3, form=form)
    assert open_run(tmp_path / "run").arch == get_arch("mobilenet_v1", settings)


def test_the_frozen_epoch_changes_the_head_alone(
    wide: Run, other_images: Path, tmp_path: Path
) -> None:
    run = transfer(other_images, start=wide.path, overrides={"epochs": 1}, out=tmp_path / "run")
    before, after = weights(wide), weights(run)
    assert after[f"{HEAD}weight"].shape == (2, before[f"{HEAD}weight"].shape[1])
    for name, tensor in after.items():
        assert name.startswith(HEAD) or torch.equal(tensor, before[name]), name
    state = torch.load(run.path / "last.pt", weights_only=True)["network"]
    for name, tensor in state.items():
        assert name.startswith(HEAD) or torch.equal(tensor, before[name]), name


def test_the_epochs_after_it_change_everything(
    wide: Run, other_images: Path, tmp_path: Path
) -> None:
    """But what a depthwise layer's own norm takes out again: the scale of what it is given."""
    run = transfer(other_images, start=wide.path, overrides={"epochs": 2}, out=tmp_path / "run")
    before = weights(wide)
    state = torch.load(run.path / "last.pt", weights_only=True)["network"]
    same = [name for name in state if name in before and torch.equal(state[name], before[name])]
    taken_out = ("stem.norm.weight", "pointwise.norm.weight")  # gradients of nearly nothing
    assert [name for name in same if not name.endswith(taken_out)] == []


def test_the_same_classes_keep_the_classifier(wide: Run, images: Path, tmp_path: Path) -> None:
    """Trained with a rate of nearly nothing, the new run is the old one."""
    still = {"epochs": 1, "lr": 1e-12}
    run = transfer(images, start=wide.path, overrides=still, out=tmp_path / "run")
    for name, tensor in weights(wide).items():
        torch.testing.assert_close(weights(run)[name], tensor, msg=name)
    assert run.history()[0]["top1"] == max(row["top1"] for row in wide.history())


def test_classes_are_the_same_by_their_ids_and_keep_their_names(
    wide: Run, images: Path, tmp_path: Path
) -> None:
    named = tuple(ClassLabel(id=label.id, name=f"a {label.id} one") for label in wide.classes)
    start = Model(
        arch=wide.arch,
        preprocess=wide.preprocess,
        classes=named,
        weights=weights(wide),
        origin=Origin(name="some"),
    ).save(tmp_path / "named")
    still = {"epochs": 1, "lr": 1e-12}
    run = transfer(images, start=start, overrides=still, out=tmp_path / "run")
    assert run.classes == named
    torch.testing.assert_close(weights(run)[f"{HEAD}weight"], weights(wide)[f"{HEAD}weight"])


def test_what_comes_out_is_no_worse_than_a_start_that_knows_the_classes(
    wide: Run, images: Path, tmp_path: Path
) -> None:
    spoilt = {"epochs": 1, "lr": 0.5, "body_lr": 1.0, "frozen_epochs": 0, "batch_size": 8}
    run = transfer(images, start=wide.path, overrides=spoilt, out=tmp_path / "run")
    before, after = run.history()
    assert (before["epoch"], before["step"], after["epoch"]) == (0, 0, 1)
    assert math.isnan(before["train_loss"])
    assert before["top1"] == max(row["top1"] for row in wide.history()) == 1.0
    for name, tensor in weights(wide).items():
        assert torch.equal(weights(run)[name], tensor), name
    assert run.best() == pytest.approx(before, nan_ok=True)


def test_killed_before_its_first_step_it_goes_on_likewise(
    wide: Run, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Stop):
        transfer(images, start=wide.path, out=out, report=stop_at_once)
    resume(out, workers=0)
    assert [row["epoch"] for row in open_run(out).history()][:2] == [0, 1]


def test_the_head_alone_may_remain_the_best(wide: Run, other_images: Path, tmp_path: Path) -> None:
    """However dear a validation is under a time limit, the end of the frozen epochs has one."""
    run = transfer(
        other_images,
        start=wide.path,
        overrides={"time_limit": 3.0, "frozen_epochs": 2, "batch_size": 16},
        out=tmp_path / "run",
        now=Ticks(),
    )
    assert 2 in [row["epoch"] for row in run.history()]


def test_some_of_the_classes_keep_their_part_of_the_classifier(wide: Run, tmp_path: Path) -> None:
    """By name, in the order of the folders; as ImageNet's weights know a few of its synsets."""
    some = write_images(tmp_path / "set", 12)
    shutil.rmtree(some / "green")
    still = {"epochs": 1, "lr": 1e-12}
    said: list[str] = []
    run = transfer(
        some,
        start=wide.path,
        overrides=still,
        out=tmp_path / "run",
        reporter=Reporter(remark=said.append),
    )
    rows = [[label.id for label in wide.classes].index(name) for name in ("blue", "red")]
    for name in (f"{HEAD}weight", f"{HEAD}bias"):
        torch.testing.assert_close(weights(run)[name], weights(wide)[name][rows])
    assert [label.id for label in run.classes] == ["blue", "red"]
    assert any("know these classes" in line for line in said)
    for name, values in weights(run).items():
        if not name.startswith(HEAD) and name.endswith(("weight", "bias")):
            torch.testing.assert_close(values, weights(wide)[name])


@pytest.mark.parametrize(
    ("known", "asked", "indices"),
    [
        (("n01440764", "n03888257", "n03445777"), ("n03445777_golf", "n01440764_tench"), [2, 0]),
        (("n01440764", "n03888257"), ("n01440764_tench", "cat"), None),
        (("cat", "dog"), ("horse", "cow"), None),  # as many say nothing
        (("0", "1", "2"), ("0", "1"), None),  # nor do numbers
        (("0", "1", "2"), ("0", "1", "2"), [0, 1, 2]),
        (None, ("cat",), None),
    ],
)
def test_which_classes_weights_know(
    wide: Run,
    known: tuple[str, ...] | None,
    asked: tuple[str, ...],
    indices: list[int] | None,
) -> None:
    classes = tuple(ClassLabel(id=each, name="a") for each in known or ()) or numbered_classes(3)
    arch = wide.arch.with_classes(len(classes))
    weights = Network(arch).state_dict()
    weight = weights[f"{HEAD}weight"]
    start = Model(
        arch=arch,
        weights=weights,
        preprocess=wide.preprocess,
        classes=classes,
        origin=Origin(name=arch.name),
    )
    found = select_classes(start, asked)
    if indices is None:
        assert found is None
        return
    assert found is not None
    assert found.arch.num_classes == len(asked)
    assert torch.equal(found.weights[f"{HEAD}weight"], weight[indices])
    assert [label.id for label in found.classes or ()] == list(asked)


def test_a_narrower_network_takes_a_part_and_measures_its_statistics(
    wide: Run, images: Path, tmp_path: Path
) -> None:
    still = {"epochs": 1, "lr": 1e-12, "norm_statistics": "kept"}
    run = transfer(images, start=wide.path, width_mult=0.25, overrides=still, out=tmp_path / "run")
    assert run.arch.name == "mobilenet_v1"
    sliced = slice_weights(wide.arch, weights(wide), run.arch)
    for name, tensor in weights(run).items():
        if "running_" not in name and not name.endswith("tracked"):
            torch.testing.assert_close(tensor, sliced[name], msg=name)
    # The first layer sees all of its input still; what comes behind lost half of it.
    measured, theirs = (
        torch.cat([tensors[name] for name in sorted(sliced) if name.endswith("running_mean")])
        for tensors in (weights(run), sliced)
    )
    assert (measured - theirs).abs().mean() > 0.01
    with torch.no_grad():
        network = run.network.train()
        network(torch.zeros(2, 3, 32, 32))  # does not fail in training either
    assert run.history()[0]["top1"] > 0.34


def test_training_on_what_was_sliced_learns_again(wide: Run, images: Path, tmp_path: Path) -> None:
    run = transfer(
        images,
        start=wide.path,
        width_mult=0.25,
        overrides={"epochs": 6, "batch_size": 16},
        out=tmp_path / "run",
    )
    assert max(row["top1"] for row in run.history()) > 0.9


def test_a_folded_network_gets_its_batch_norms_back(
    wide: Run, images: Path, tmp_path: Path
) -> None:
    start = fold(wide.model).save(tmp_path / "folded")
    still = {"epochs": 1, "lr": 1e-12}
    run = transfer(images, start=start, overrides=still, out=tmp_path / "run")
    assert run.arch == wide.arch
    assert load_recipe(run.path / "recipe.toml").norm_statistics == "kept"
    assert run.history()[0]["top1"] == max(row["top1"] for row in wide.history())
    image = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(run.network(image), wide.network(image), rtol=1e-3, atol=1e-3)


def test_a_published_tflite_is_trained_further(tmp_path: Path) -> None:
    """Its batch norms are folded; the first validation shows that nothing else was lost."""
    few = tmp_path / "few"
    for kind in sorted(real_images("vww400").iterdir()):
        (few / kind.name).mkdir(parents=True)
        for image in sorted(kind.iterdir())[:60]:
            shutil.copy(image, few / kind.name)
    imported = import_weights(
        published("mobilenet_v1_0.25_96_vww_mlperf_tiny_int8.tflite"),
        model="mobilenet_v1",
        width_mult=0.25,
        preprocess="unit",
        resize="squash",
        classes=[ClassLabel(id=folder.name, name=folder.name) for folder in sorted(few.iterdir())],
    )
    assert stem_of(imported.arch).norm == "none"
    run = transfer(
        few,
        start=imported.save(tmp_path / "imported"),
        overrides={"epochs": 2},
        out=tmp_path / "run",
    )
    assert stem_of(run.arch).norm == "batch"
    assert "rows.0.depthwise.norm.running_mean" in weights(run)
    assert run.arch.resolution == 96
    assert all(row["top1"] > 0.7 for row in run.history())


def test_a_checkpoint_of_somebodys_own_class_with_a_head_of_another_size(
    wide: Run, images: Path, tmp_path: Path
) -> None:
    arch = wide.arch.with_classes(1000)
    tensors = Network(arch).state_dict()
    parts = {name.rpartition(".")[0]: None for name in tensors}
    named = {part: f"module.own.part{number}" for number, part in enumerate(parts)}
    nested = {
        f"{named[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor
        for name, tensor in tensors.items()
    }
    torch.save({"epoch": 9, "model_state_dict": nested}, tmp_path / "own.pth")
    remarks: list[str] = []
    run = transfer(
        images,
        start=tmp_path / "own.pth",
        model="mobilenet_v1",
        width_mult=0.5,
        resolution=32,
        preprocess="tf",
        overrides={"epochs": 1, "lr": 1e-12},
        out=tmp_path / "run",
        reporter=Reporter(remark=remarks.append),
    )
    assert any("know 1,000 other classes: their classifier is left out" in r for r in remarks)
    stem = "stem.conv.weight"
    torch.testing.assert_close(weights(run)[stem], tensors[stem], rtol=1e-3, atol=1e-3)
    assert len(weights(run)[f"{HEAD}weight"]) == len(run.classes)


def test_grey_images_for_a_network_that_knew_colours(
    wide: Run, images: Path, tmp_path: Path
) -> None:
    still = {"epochs": 1, "lr": 1e-12}
    run = transfer(images, start=wide.path, in_channels=1, overrides=still, out=tmp_path / "grey")
    assert run.arch == replace(wide.arch, in_channels=1)
    assert (run.preprocess.colour, run.preprocess.mean) == ("grey", (127.5,))
    grey = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            run.network(grey), wide.network(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-3
        )
    # and one more step from there, its channels said or not
    again = transfer(images, start=run.path, overrides={"epochs": 1}, out=tmp_path / "again")
    assert again.arch.in_channels == 1


# Small sets


@pytest.mark.parametrize("batch_size", [4, 64])
@pytest.mark.parametrize("width_mult", [None, 0.25])
def test_three_images_a_class(
    batch_size: int, width_mult: float | None, wide: Run, tmp_path: Path
) -> None:
    data = write_images(tmp_path / "few", 3, size=32)
    for number, folder in enumerate(sorted(data.iterdir())):
        folder.rename(data / f"kind {number}")
    run = transfer(
        data,
        start=wide.path,
        width_mult=width_mult,
        overrides={"epochs": 3, "batch_size": batch_size},
        out=tmp_path / "run",
    )
    assert all(tensor.isfinite().all() for tensor in weights(run).values())
    assert all(np.isfinite(list(row.values())).all() for row in run.history())
    answers = mobilette.load(run.path).predict(sorted(data.rglob("*.png")))
    assert len(answers) == 9
    assert all(0 < answer.probability <= 1 for answer in answers)


# Rates, and the frozen epoch interrupted


def test_the_body_learns_at_a_part_of_the_rate(wide: Run) -> None:
    """The rates that every parameter has in a step half-way."""
    recipe = load_recipe(TRANSFER)
    network = Network(wide.arch)
    trainer = Trainer(
        network,
        normalise=Normalise(wide.preprocess),
        recipe=recipe,
        precision="fp32",
        flip=False,
    )
    pixels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    trainer.step(pixels, torch.tensor([0, 1, 2, 0]), index=9, place=(5, 0), progress=0.5)
    rates = {
        id(parameter): group["lr"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    whole = learning_rate(recipe, 0.5)
    assert 0 < recipe.body_lr < 1
    for name, parameter in network.named_parameters():
        rate = whole if name.startswith("head.") else recipe.body_lr * whole
        assert rates.pop(id(parameter)) == pytest.approx(rate), name
    assert rates == {}


@pytest.mark.parametrize(("body_lr", "moves"), [(1e-9, False), (0.1, True)])
def test_a_body_with_no_rate_stays_where_it_was(
    body_lr: float, moves: bool, wide: Run, other_images: Path, tmp_path: Path
) -> None:
    run = transfer(
        other_images,
        start=wide.path,
        overrides={"epochs": 2, "body_lr": body_lr},
        out=tmp_path / "run",
    )
    before = weights(wide)
    state = torch.load(run.path / "last.pt", weights_only=True)["network"]
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            far = (tensor - before[name]).abs().max()
            assert (far > 1e-7) == moves, name


def test_stopped_in_the_frozen_epoch_and_resumed_to_the_same_bits(
    wide: Run, other_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start is gone meanwhile; the state is what a kill would leave."""
    source = Path(shutil.copytree(wide.path, tmp_path / "source"))
    begin = partial(
        transfer,
        other_images,
        start=source,
        width_mult=0.25,
        overrides={"epochs": 3, "batch_size": 16, "frozen_epochs": 2},
    )
    whole = begin(out=tmp_path / "whole")
    monkeypatch.setattr("mobilette.training.loop.SECONDS_BETWEEN_STATES", -1.0)
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if sum(isinstance(e, EpochDone) for e in seen) == 1 and not isinstance(event, EpochDone):
            raise Stop

    for name, report in (("first", stop_at_once), ("second", stop)):
        with pytest.raises(Stop):
            begin(out=tmp_path / name, report=report)
    shutil.rmtree(source)
    for name in ("first", "second"):
        state = torch.load(tmp_path / name / "last.pt", weights_only=True)["progress"]
        assert (state["epoch"], state["finished"]) == (int(name == "second"), False)
        finished = resume(tmp_path / name, workers=0)
        assert same_weights(whole.path, finished.path)
        assert len(finished.history()) == 3


# What cannot be a start


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": "resnet8"}, "resnet8 cannot take weights of mobilenet_v1: "),
        ({"model": "mobilenet_v2"}, "mobilenet_v2 cannot take weights of mobilenet_v1: "),
        ({"width_mult": 0.75}, "can be cut to a smaller width, not a larger one"),
        ({"in_channels": 4}, "in_channels 4 is not 1 or 3"),
    ],
)
def test_another_network(
    options: dict[str, Any], error: str, wide: Run, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=error) as told:
        transfer(images, start=wide.path, **options, out=tmp_path / "run")
    assert "\n" not in str(told.value)
    assert "in_channels" in options or str(told.value).startswith(f"{wide.path}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", ["nowhere", "timm/mobilenetv1_100.ra4", "keras/x", "."])
def test_no_such_start(start: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as told:
        transfer(images, start=start, out=tmp_path / "run")
    assert "mobilette weights list" in str(told.value)
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["squeezenet1_1", "squeezenet1_1_bn", "vgg11"])
def test_every_kind_of_classifier_begins_anew(
    name: str, other_images: Path, tmp_path: Path
) -> None:
    """Of SqueezeNet it is a convolution with its activation, of VGG the last of three layers."""
    settings = Settings(width_mult=0.25, resolution=32, num_classes=7)
    start = model_of(get_arch(name, settings), width_mult=0.25)
    run = transfer(other_images, start=start, overrides={"epochs": 1}, out=tmp_path / "run")
    assert run.arch.num_classes == 2
