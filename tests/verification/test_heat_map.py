"""Grad-CAM finds what decides the class, and is what the paper's formula gives."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mobilette.data.preprocess import preset
from mobilette.errors import InputError
from mobilette.formats.pretrained import create_model
from mobilette.model.model import Model, Origin, numbered_classes
from mobilette.run.directory import Run
from mobilette.verification.heat_map import LEAST_SIDE, grad_cams, heat_map, seen
from tests.verification.corners import COLOURS, SIDE, corner_image, on_patch


def random_model(name: str, resolution: int | tuple[int, int], in_channels: int = 3) -> Model:
    torch.manual_seed(0)
    network = create_model(
        name, num_classes=4, width_mult=0.5, resolution=resolution, in_channels=in_channels
    )
    return Model(
        arch=network.arch,
        weights=network.state_dict(),
        preprocess=preset("torch", in_channels=in_channels),
        classes=numbered_classes(4),
        origin=Origin(name=name),
    )


def test_the_warmest_place_is_what_decides_the_class(corners: Run) -> None:
    for number, colour in enumerate(COLOURS):
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            heat = heat_map(corners, corner_image(colour, corner, 90_000), class_index=number)
            assert heat.shape == (SIDE, SIDE)
            assert heat.dtype == np.float32
            assert 0 <= heat.min() < heat.max() <= 1
            top, left = np.unravel_index(heat.argmax(), heat.shape)
            assert on_patch((int(top), int(left)), corner)


def test_with_an_average_pool_it_is_the_class_activation_map(corners: Run) -> None:
    """Zhou et al. 2016: the maps, weighted by the classifier's row; no gradient is needed."""
    pixels = seen(corners.model, corner_image("red", (0, 1), 5))[None]
    network = corners.model.network
    mean, std = (np.array(v)[:, None, None] for v in (preset("torch").mean, preset("torch").std))
    assert corners.model.preprocess.mean == preset("torch").mean
    with torch.no_grad():
        maps = network.features(torch.from_numpy((pixels - mean) / std).float())
        last = maps[max(maps)]
        row = corners.model.weights["head.classifier.weight"][2]
        expected = (row[None, :, None, None] * last).sum(1).clamp(min=0)
    found = grad_cams(corners.model, pixels, np.array([2]))
    np.testing.assert_allclose(found, (expected / expected.max()).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "squeezenet1_1", "vgg11_bn", "shufflenet_v2"]
)
def test_it_is_the_papers_formula(name: str) -> None:
    """Beside autograd in double precision over a module's output that a hook has kept."""
    model = random_model(name, 64)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 64, 64), np.uint8)
    network = copy.deepcopy(model.network).double()
    kept: list[Tensor] = []
    mean, std = (np.array(v)[:, None, None] for v in (preset("torch").mean, preset("torch").std))
    x = torch.from_numpy((pixels - mean) / std)
    shapes = {stride: each.shape for stride, each in network.features(x).items()}
    stride = max(s for s, shape in shapes.items() if min(shape[2:]) >= LEAST_SIDE)
    last = network._ends[stride]
    module = network.get_submodule(last)

    def keep(module: torch.nn.Module, given: object, output: Tensor) -> Tensor:
        kept.append(output.clone().detach().requires_grad_())
        return kept[-1].clone()

    handle = module.register_forward_hook(keep)
    network(x)[[0, 1], [3, 1]].sum().backward()
    handle.remove()
    (output,) = kept
    assert output.grad is not None
    weights = output.grad.mean((2, 3), keepdim=True)
    expected = (weights * output.detach()).sum(1).clamp(min=0)
    largest = expected.amax((1, 2), keepdim=True)
    scaled = torch.where(largest > 0, expected / largest, torch.zeros(())).numpy()
    np.testing.assert_allclose(grad_cams(model, pixels, np.array([3, 1])), scaled, atol=2e-3)
    assert scaled.max() == 1


@pytest.mark.parametrize("resolution", [32, (32, 80)])
def test_grey_and_oblong(resolution: int | tuple[int, int]) -> None:
    model = random_model("mobilenet_v2", resolution, in_channels=1)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (57, 131), np.uint8))
    height, width = model.arch.size
    assert seen(model, image).shape == (1, height, width)
    assert heat_map(model, image).shape == (height, width)


def test_images_of_every_kind(corners: Run, tmp_path: Path) -> None:
    pixels = corner_image("green", (1, 1), 7)
    image, file, content = Image.fromarray(pixels), tmp_path / "1.png", io.BytesIO()
    image.save(file)
    image.save(content, "PNG")
    expected = heat_map(corners, pixels)
    for other in (image, file, str(file), content.getvalue(), content):
        np.testing.assert_array_equal(heat_map(corners, other), expected)


def test_what_cannot_be_explained(corners: Run, tmp_path: Path) -> None:
    for index in (-1, 3):
        with pytest.raises(InputError, match=f"class_index {index} is not from 0 to 2"):
            heat_map(corners, corner_image("red", (0, 0), 1), class_index=index)
    with pytest.raises(InputError, match=r"none\.png"):
        heat_map(corners, tmp_path / "none.png")


def test_nothing_speaks_for_it() -> None:
    model = random_model("resnet8", 32)
    weights = {name: torch.zeros_like(each) for name, each in model.weights.items()}
    silent = Model(
        arch=model.arch,
        weights=weights,
        preprocess=model.preprocess,
        classes=model.classes,
        origin=model.origin,
    )
    assert not heat_map(silent, np.zeros((32, 32, 3), np.uint8)).any()
