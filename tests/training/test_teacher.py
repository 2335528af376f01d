"""Learning from another network's answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Resolution
from mobilette.data.dataset import load_dataset
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.model.classes import ClassLabel
from mobilette.model.directory import WEIGHTS
from mobilette.model.model import Model, Origin
from mobilette.progress import Remark
from mobilette.run.directory import Run, open_run
from mobilette.training.loss import Loss
from mobilette.training.recipe import Recipe
from mobilette.training.teacher import Teacher, read_teacher
from tests.training.runs import resume, same_weights, train
from tests.training.test_train import Stop, stop_at_once

CPU = torch.device("cpu")
COLOURS = ("blue", "green", "red")


def read(
    run: Path,
    *,
    classes: tuple[str, ...] = COLOURS,
    channels: int = 3,
    multi_label: bool = False,
    resolution: Resolution = 16,
    remark: Remark | None = None,
) -> Teacher:
    arch = get_arch(
        "mobilenet_v1",
        width_mult=0.25,
        resolution=resolution,
        num_classes=3,
        in_channels=channels,
    )
    labels = [ClassLabel(id=name, name=name) for name in classes]
    return read_teacher(
        str(run), arch=arch, classes=labels, multi_label=multi_label, device=CPU, remark=remark
    )


def with_classes(run: Run, path: Path, order: list[int], extra: tuple[str, ...] = ()) -> Path:
    """Write the network of ``run`` with its classes in another order, and more of them."""
    tensors = load_file(run.weights_path)
    for name in ("head.classifier.weight", "head.classifier.bias"):
        new = torch.full((len(extra), *tensors[name].shape[1:]), 7.0)
        tensors[name] = torch.cat([new, tensors[name][order]])
    names = [*extra, *(run.classes[index].id for index in order)]
    return Model(
        arch=run.arch.with_classes(len(names)),
        preprocess=run.preprocess,
        classes=tuple(ClassLabel(id=name, name=name) for name in names),
        weights=tensors,
        origin=Origin(name="some"),
    ).save(path)


@pytest.fixture(scope="module")
def pixels(images: Path) -> Tensor:
    """Return the images held out, uint8 (24, 3, 16, 16)."""
    dataset = load_dataset(find_images(images), resolution=16, preprocess=preset("torch"))
    return torch.from_numpy(dataset.splits["val"].pixels[:])


# What a teacher answers


def test_it_answers_as_its_run_does(trained: Run, pixels: Tensor) -> None:
    with torch.no_grad():
        expected = trained.network.eval()(Normalise(trained.preprocess)(pixels))
    answer = read(trained.path)(pixels)
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)
    assert not answer.requires_grad


def test_classes_in_another_order_and_more_of_them(
    trained: Run, pixels: Tensor, tmp_path: Path
) -> None:
    other = with_classes(trained, tmp_path / "other", [2, 0, 1], extra=("violet", "brown"))
    expected = read(trained.path)(pixels)
    torch.testing.assert_close(read(other)(pixels), expected)
    some = read(other, classes=("red", "blue"))(pixels)
    torch.testing.assert_close(some, expected[:, [2, 0]])


def test_classes_that_only_their_order_matches_are_told(trained: Run, tmp_path: Path) -> None:
    said: list[str] = []
    for classes in (COLOURS, ("0", "1", "2")):
        read(trained.path, classes=classes, remark=said.append)
    assert said == [f"teacher {trained.path}: no class matches by name; matched by order"]
    with pytest.raises(InputError, match="'a' is none of the model's 3"):
        read(trained.path, classes=("a", "b", "c"))


def test_a_teacher_is_not_replaced_by_its_pupil(run_copy: Path, images: Path) -> None:
    before = (run_copy / "best.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"which teaches, lies there; give another --out"):
        train(images, overrides={"teacher": str(run_copy)}, out=run_copy, force=True)
    assert (run_copy / "best.safetensors").read_bytes() == before


def test_grey_images_for_a_teacher_of_colours(trained: Run, pixels: Tensor) -> None:
    grey = pixels[:, :1]
    answer = read(trained.path, channels=1)(grey)
    torch.testing.assert_close(answer, read(trained.path)(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("size", [(8, 8), (40, 40), (64, 64), (10, 50)])
def test_images_of_another_resolution(trained: Run, pixels: Tensor, size: tuple[int, int]) -> None:
    """It looks at them as Pillow resizes them, to the rounding of uint8."""
    images = [Image.fromarray(row.permute(1, 2, 0).numpy()) for row in pixels]
    given = [image.resize(size, Image.Resampling.BICUBIC) for image in images]
    resized = [image.resize((16, 16), Image.Resampling.BILINEAR) for image in given]
    batch, expected = (
        torch.from_numpy(np.stack([np.asarray(image) for image in group])).permute(0, 3, 1, 2)
        for group in (given, resized)
    )
    teacher = read(trained.path)
    seen: list[Tensor] = []
    teacher.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    teacher(batch)
    in_levels = 1 / (255 * 0.225)
    wanted = Normalise(trained.preprocess)(expected)
    torch.testing.assert_close(seen[0], wanted, rtol=0, atol=1.2 * in_levels)


def test_that_it_squashes_images_is_told(trained: Run) -> None:
    said: list[str] = []
    read(trained.path, resolution=(32, 32), remark=said.append)
    assert not said
    read(trained.path, resolution=(32, 48), remark=said.append)
    assert said == [f"teacher {trained.path}: sees the 32x48 images squashed to 16x16"]


# Learning from it


def pupil(images: Path, out: Path, **keys: Any) -> Run:
    return train(
        images,
        model="mobilenet_v1",
        width_mult=0.25,
        resolution=16,
        overrides={"epochs": 4, "batch_size": 16, "seed": 5} | keys,
        out=out,
        workers=0,
    )


def test_a_pupil_comes_closer_to_its_teacher(
    trained: Run, images: Path, pixels: Tensor, tmp_path: Path
) -> None:
    """The teacher takes each colour for another: no labels lead to that."""
    teacher = Path(shutil.copytree(trained.path, tmp_path / "teacher"))
    weights = load_file(teacher / WEIGHTS)
    for name in ("weight", "bias"):
        weights[f"head.classifier.{name}"] = weights[f"head.classifier.{name}"].roll(1, 0)
    save_file(weights, teacher / WEIGHTS)
    taught = read(teacher)(pixels)
    distance = Loss(Recipe(temperature=2.0), multi_label=False)
    far = {}
    for name, keys in (
        ("alone", {}),
        ("taught", {"teacher": str(teacher), "distillation": 0.9}),
    ):
        run = pupil(images, tmp_path / name, epochs=8, **keys)
        far[name] = distance.of_teacher(read(run.path)(pixels), taught).item()
    assert far["taught"] < 0.7 * far["alone"]


def test_a_run_with_a_teacher_resumes_while_there_is_one(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    teacher = Path(shutil.copytree(trained.path, tmp_path / "teacher"))
    keys = {"epochs": 1, "teacher": str(teacher)}
    whole = pupil(images, tmp_path / "whole", **keys)
    with pytest.raises(Stop):
        train(
            images,
            model="mobilenet_v1",
            width_mult=0.25,
            resolution=16,
            overrides={"batch_size": 16, "seed": 5} | keys,
            out=tmp_path / "part",
            report=stop_at_once,
            workers=0,
        )
    hidden = teacher.rename(tmp_path / "hidden")
    state = (tmp_path / "part" / "last.pt").read_bytes()
    with pytest.raises(InputError, match="teacher '.*teacher': a run directory or published") as no:
        resume(tmp_path / "part", workers=0)
    assert "\n" not in str(no.value)
    assert (tmp_path / "part" / "last.pt").read_bytes() == state
    hidden.rename(teacher)
    resume(tmp_path / "part", workers=0)
    assert same_weights(whole.path, tmp_path / "part")
    assert open_run(whole.path).history()[0]["train_loss"] > 0


# Teachers that are none


def test_teachers_that_are_none(trained: Run, run_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "timm").mkdir()
    for name in ("nowhere", "scratch", "auto", str(tmp_path)):
        with pytest.raises(InputError, match=f"^teacher '{name}': a run directory or published"):
            read(Path(name))
    with pytest.raises(InputError, match="timm/mobilenetv2_100.ra_in2k"):
        read(Path("timm/mobilenetv2_100.ra_in2k"))
    with pytest.raises(
        InputError, match="teacher .*: class 'rad' is none of the model's 3 .*'red'"
    ):
        read(trained.path, classes=("blue", "green", "rad"))
    (run_copy / "best.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match=r"best\.safetensors: not a complete"):
        read(run_copy)


def test_a_teacher_of_grey_images_does_not_teach_colours(images: Path, tmp_path: Path) -> None:
    grey = train(
        images,
        model="mobilenet_v1",
        width_mult=0.25,
        resolution=16,
        in_channels=1,
        overrides={"epochs": 1, "batch_size": 48},
        out=tmp_path / "grey",
        workers=0,
    )
    with pytest.raises(InputError, match="takes grey images, but the network takes colour"):
        read(grey.path)
    assert read(grey.path, channels=1)(torch.zeros(2, 1, 16, 16)).shape == (2, 3)


def test_answers_that_exclude_each_other_do_not_teach_those_that_do_not(run_copy: Path) -> None:
    with pytest.raises(InputError, match="has one of the classes per image, but"):
        read(run_copy, multi_label=True)
    recorded = json.loads((run_copy / "dataset.json").read_text())
    (run_copy / "dataset.json").write_text(json.dumps(recorded | {"multi_label": True}))
    with pytest.raises(InputError, match="has several of the classes per image, but"):
        read(run_copy)
    assert read(run_copy, multi_label=True)(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
