from __future__ import annotations

import numpy as np
import pytest
import torch

from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_by_hand(name: str) -> None:
    """(pixel - mean) / std per channel, in the order in which the network sees the colours."""
    values = preset(name)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    planes = pixels[:, ::-1] if name == "caffe" else pixels
    mean, std = (np.array(v)[None, :, None, None] for v in (values.mean, values.std))
    expected = ((planes - mean) / std).astype(np.float32)
    answer = Normalise(values)(torch.from_numpy(pixels))
    np.testing.assert_allclose(answer.numpy(), expected, rtol=1e-5, atol=2e-5)


def test_the_torch_preset_is_imagenets() -> None:
    """torchvision prints mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225 for 0 to 1."""
    pixels = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    answer = Normalise(preset("torch"))(pixels).flatten()
    expected = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(answer, expected)


def test_caffe_is_bgr() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
    answer = Normalise(preset("caffe"))(red).flatten()
    assert answer.tolist() == [-104.0, -117.0, 132.0]


def test_grey_and_no_trained_tensors() -> None:
    module = Normalise(preset("tf", in_channels=1))
    white = module(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8))
    torch.testing.assert_close(white, torch.ones(1, 1, 2, 2))
    assert list(module.parameters()) == []
    assert module.state_dict() == {}
