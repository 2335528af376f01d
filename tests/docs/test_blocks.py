"""What the page's modules compute, against other ways to compute it."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from docs.blocks.hard_swish import RANGE, hard_swish, relu6, swish
from docs.blocks.relu import DIMENSIONS, DRAWS, POINTS, spiral, trials
from docs.blocks.separable import ratio
from docs.blocks.shuffle import UNIT, reach
from docs.blocks.squeeze_excite import with_and_without
from docs.blocks.without import without
from mobilette.arch.catalogue import get_arch
from mobilette.arch.rows import ChannelShuffle


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("outputs", [8, 100, 1024])
def test_the_counted_ratio_is_the_formula(kernel: int, outputs: int) -> None:
    assert ratio(kernel, outputs) == pytest.approx(1 / outputs + 1 / kernel**2, rel=1e-12)


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_lost_points_are_as_frequent_as_probability_says(dimensions: int) -> None:
    lost = trials(dimensions).lost
    expected = (1 + dimensions) / 2**dimensions
    assert lost.mean() == pytest.approx(expected, abs=4 * lost.std() / DRAWS**0.5 + 1e-6)


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_without_relu_the_spiral_comes_back(dimensions: int) -> None:
    assert trials(dimensions, relu=False).error.max() < 1e-9


def test_the_way_back_is_the_least_squares_solution() -> None:
    x = spiral()
    matrix = np.random.default_rng(5).standard_normal((DRAWS, 5, 2))[7]
    back = np.linalg.lstsq(matrix, np.maximum(matrix @ x, 0), rcond=None)[0]
    returned = trials(5).returned[7]
    assert returned.shape == (2, POINTS)
    # The same image up to its scale, and the scale is the best: what is left is at right angles.
    assert np.linalg.matrix_rank(np.stack([returned.ravel(), back.ravel()]), tol=1e-6) == 1
    assert float(((x - returned) * returned).sum()) == pytest.approx(0, abs=1e-6)


def test_the_activations_are_torchs() -> None:
    x = torch.from_numpy(RANGE)
    np.testing.assert_allclose(swish(RANGE), F.silu(x).numpy(), atol=1e-12)
    np.testing.assert_allclose(hard_swish(RANGE), F.hardswish(x).numpy(), atol=1e-12)
    np.testing.assert_allclose(relu6(RANGE), F.relu6(x).numpy(), atol=1e-12)


@pytest.mark.parametrize("shuffled", [True, False])
def test_channels_reach_each_other_as_torchs_gradients_do(shuffled: bool) -> None:
    def unit(x: torch.Tensor) -> torch.Tensor:
        compressed = F.conv2d(x, torch.ones(60, 80, 1, 1), groups=3)
        middle = F.channel_shuffle(compressed, 3) if shuffled else compressed
        filtered = F.conv2d(middle, torch.ones(60, 1, 3, 3), padding=1, groups=60)
        return x + F.conv2d(filtered, torch.ones(240, 20, 1, 1), groups=3)

    jacobian = cast(
        torch.Tensor,
        torch.autograd.functional.jacobian(unit, torch.ones(1, 240, 1, 1)),  # type: ignore[no-untyped-call]
    )
    arch = get_arch("shufflenet_v1_g3")
    mask = reach(arch if shuffled else without(arch, ChannelShuffle), UNIT, UNIT)[
        f"rows.{UNIT}.add"
    ]
    np.testing.assert_array_equal(mask, jacobian.reshape(240, 240).numpy() != 0)


def test_what_is_left_out_is_what_the_cost_table_says_it_costs() -> None:
    published, plain = with_and_without("mobilenet_v3_large")
    lines = [line for line in published.layers if ".squeeze_excite." in line.name]
    assert published.params - plain.params == sum(line.params for line in lines)
    assert published.madds - plain.madds == sum(line.madds for line in lines)
    assert not any(".squeeze_excite." in line.name for line in plain.layers)
