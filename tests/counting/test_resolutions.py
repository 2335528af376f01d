from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.layers import layers
from mobilette.arch.primitives import INPUT, output_side
from mobilette.arch.scale import Resolution, Settings
from mobilette.counting.cost import cost
from mobilette.counting.resolution_costs import cost_by_resolution

FULL = st.integers(65, 512)
SMALL = st.integers(16, 64)


@given(
    name=st.sampled_from(list_models()),
    width=st.floats(0.1, 2.0),
    resolutions=st.lists(FULL | st.tuples(FULL, FULL), min_size=1, max_size=4)
    | st.lists(SMALL | st.tuples(SMALL, FULL), min_size=1, max_size=4),
    classes=st.integers(1, 1000),
)
def test_equals_the_cost_of_each_network(
    name: str, width: float, resolutions: list[Resolution], classes: int
) -> None:
    def settings(resolution: Resolution) -> Settings:
        return Settings(width_mult=width, resolution=resolution, num_classes=classes)

    swept = cost_by_resolution(get_arch(name, settings(resolutions[0])), resolutions)
    for index, resolution in enumerate(resolutions):
        counted = cost(get_arch(name, settings(resolution)))
        assert (swept.params, swept.size_bytes) == (counted.params, counted.size_bytes)
        assert swept.madds[index] == counted.madds
        assert swept.peak_activations[index] == counted.peak_activation_bytes.int8


@pytest.mark.parametrize("name", list_models())
def test_every_network_at_the_ends_of_both_forms(name: str) -> None:
    for sides in ([16, 63, 64], [65, 66, 4096]):
        swept = cost_by_resolution(get_arch(name, Settings(resolution=sides[0])), sides)
        counted = [cost(get_arch(name, Settings(resolution=side))) for side in sides]
        assert swept.madds.tolist() == [each.madds for each in counted]
        peaks = [each.peak_activation_bytes.int8 for each in counted]
        assert swept.peak_activations.tolist() == peaks


@given(name=st.sampled_from(list_models()), size=st.tuples(SMALL | FULL, SMALL | FULL))
def test_output_sides_are_those_of_the_graph(name: str, size: tuple[int, int]) -> None:
    sizes = {INPUT: size}
    for layer in layers(get_arch(name, Settings(width_mult=0.25, resolution=size))):
        height, width = sizes[layer.inputs[0]]
        sizes[layer.name] = output_side(layer, height), output_side(layer, width)
        assert layer.shape[1:] in ((), sizes[layer.name])
