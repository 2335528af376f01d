from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.channels import channel_groups
from mobilette.arch.rows import Conv, PoolLinear
from mobilette.arch.scale import Settings
from mobilette.errors import InputError
from mobilette.formats.slicing import slice_weights
from mobilette.nn.network import Network, build_empty
from tests.arch.test_channels import kill
from tests.batch_norm import give_statistics
from tests.families import WIDTHS, arch_of
from tests.models import stem_of

NAMES = sorted({name for name, _, _ in WIDTHS})


def network_of(name: str, width: float, *, resolution: int = 32) -> Network:
    """Return a network whose channels differ: its biases and batch norms are drawn, too."""
    network = Network(arch_of(name, width, resolution=resolution)).eval()
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
    give_statistics(network, torch.randn(4, 3, resolution, resolution))
    return network


def loaded(arch: Arch, weights: dict[str, Tensor]) -> Network:
    network = Network(arch).eval()
    network.load_state_dict(weights)
    return network


@pytest.mark.parametrize(("name", "width", "narrower"), WIDTHS)
@torch.no_grad()
def test_without_its_dead_channels_a_network_answers_the_same(
    name: str, width: float, narrower: float
) -> None:
    """Channels chosen at random are made 0, as many as the narrower network lacks."""
    wide, target = network_of(name, width), arch_of(name, narrower)
    sizes = {frozenset(group.places): group.size for group in channel_groups(target)}
    killed = 0
    for group in channel_groups(wide.arch):
        surplus = group.size - sizes.get(frozenset(group.places), 0)
        assert surplus >= 0
        kill(wide, group, random.Random(group.size).sample(range(group.size), surplus))
        killed += surplus
    assert killed
    narrow = loaded(target, slice_weights(wide.arch, wide.state_dict(), target))
    x = torch.randn(3, 3, 32, 32)
    expected, answer = wide(x), narrow(x)
    assert expected.std(dim=0).max() > 0
    assert (answer - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_at_equal_width_nothing_changes(name: str) -> None:
    network = network_of(name, 0.5)
    weights = network.state_dict()
    before = {key: tensor.clone() for key, tensor in weights.items()}
    sliced = slice_weights(network.arch, weights, network.arch)
    assert sliced.keys() == before.keys()
    for key, tensor in sliced.items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=0)
        tensor.zero_()
    assert all(torch.equal(weights[key], before[key]) for key in before), "not a copy"


@settings(max_examples=15)
@given(name=st.sampled_from(NAMES), data=st.data())
@torch.no_grad()
def test_any_width_has_the_targets_tensors(name: str, data: st.DataObject) -> None:
    narrower = data.draw(st.floats(0.1, 0.6), label="narrower")
    width = data.draw(st.floats(narrower, 0.7), label="wider")
    source, target = arch_of(name, width), arch_of(name, narrower)
    network = Network(source)
    weights = network.state_dict()
    try:
        sliced = slice_weights(source, weights, target)
    except InputError as error:
        # At some widths a network of the catalogue has other layers, or is wider after all.
        assume("smaller width" not in str(error) and "layer" not in str(error))
        raise
    expected = build_empty(target).state_dict()
    assert {key: (x.shape, x.dtype) for key, x in sliced.items()} == {
        key: (x.shape, x.dtype) for key, x in expected.items()
    }
    assert loaded(target, sliced)(torch.randn(1, 3, 32, 32)).isfinite().all()
    for key, tensor in sliced.items():  # every output is computed from something
        if tensor.dim() > 1:
            assert tensor.flatten(1).any(dim=1).all(), key


def small(channels: int, middle: int) -> Arch:
    """Return a stem, one convolution and a classifier."""
    return Arch(
        name="small",
        resolution=16,
        in_channels=3,
        stem=Conv(channels=channels, kernel=3, activation="relu"),
        rows=(Conv(channels=middle, activation="relu"),),
        head=PoolLinear(classes=2),
    )


def test_channels_stay_that_vary_much_and_are_read_with_large_weights() -> None:
    wide, narrow = small(6, 5), small(2, 3)
    weights = Network(wide).state_dict()
    weights["rows.0.conv.weight"] = torch.ones(5, 6, 1, 1)
    weights["stem.norm.weight"] = torch.tensor([1.0, 4.0, 0.1, 1.0, 4.0, 2.0])
    weights["rows.0.conv.weight"][:, 4] = 0.01  # varies much, is hardly read
    weights["stem.norm.bias"][3] = 100.0  # large, but the same for all images
    weights["head.classifier.weight"] = torch.tensor([[1.0, 5, -2, 3, 0], [0, 0, -9, 0, 4]])
    sliced = slice_weights(wide, weights, narrow)
    assert torch.equal(sliced["stem.conv.weight"], weights["stem.conv.weight"][[1, 5]])
    assert torch.equal(
        sliced["head.classifier.weight"], weights["head.classifier.weight"][:, [1, 2, 4]]
    )
    assert torch.equal(sliced["rows.0.norm.running_var"], torch.ones(3))


def test_a_channel_that_is_always_negative_goes() -> None:
    """ReLU makes it 0, however large the scale of its batch norm."""
    wide, narrow = small(3, 4), small(2, 4)
    weights = Network(wide).state_dict()
    weights["rows.0.conv.weight"] = torch.ones(4, 3, 1, 1)
    weights["stem.norm.weight"] = torch.tensor([1.0, 5.0, 1.0])
    weights["stem.norm.bias"] = torch.tensor([0.0, -50.0, 0.0])
    sliced = slice_weights(wide, weights, narrow)
    assert torch.equal(sliced["stem.conv.weight"], weights["stem.conv.weight"][[0, 2]])


def test_a_width_with_another_shortcut_takes_all_it_can() -> None:
    """At 0.25 the first bottleneck of V2 has 8 channels in and out, and so a shortcut."""
    wide, narrow = arch_of("mobilenet_v2", 1.0), arch_of("mobilenet_v2", 0.25)
    weights = Network(wide).state_dict()
    sliced = slice_weights(wide, weights, narrow)
    for key in ("stem.conv.weight", "rows.0.depthwise.conv.weight"):
        rows = [row.tolist() for row in weights[key]]
        assert all(row.tolist() in rows for row in sliced[key])
    assert all(tensor.any() for key, tensor in sliced.items() if key.endswith("conv.weight"))


@pytest.mark.parametrize(
    ("name", "width", "narrower"),
    [("shufflenet_v1_g8", 0.25, 0.125), ("mobilenet_v3_small", 0.75, 0.35)],
)
def test_where_groups_do_not_match_no_weights_are_used_twice(
    name: str, width: float, narrower: float
) -> None:
    wide = arch_of(name, width)
    weights = {key: torch.randn(x.shape) for key, x in build_empty(wide).state_dict().items()}
    for key, tensor in slice_weights(wide, weights, arch_of(name, narrower)).items():
        values = tensor.flatten().tolist()
        assert set(values) <= set(weights[key].flatten().tolist())
        rows = tensor.flatten(1).tolist() if tensor.dim() > 1 else []
        assert len({tuple(row) for row in rows}) == len(rows), key


def test_strides_and_resolution_may_differ() -> None:
    wide = get_arch("mobilenet_v1", Settings(width_mult=0.5, resolution=32))
    narrow = get_arch("mobilenet_v1", Settings(width_mult=0.25, resolution=128))
    assert slice_weights(wide, Network(wide).state_dict(), narrow)


V2 = get_arch("mobilenet_v2", Settings(width_mult=0.5, num_classes=5))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            get_arch("mobilenet_v2", Settings(width_mult=0.75, num_classes=5)),
            "stem.conv has 24 channels, the weights have 16.*not a larger one",
        ),
        (V2.with_classes(6), "6 classes, the weights have 5"),
        (replace(V2, in_channels=1), "1 input channels, the weights have 3"),
        (replace(V2, rows=V2.rows[:-1]), "17 rows, the weights have 18"),
        (
            replace(V2, rows=(*V2.rows[:-1], Conv(channels=1280, kernel=3, activation="relu6"))),
            "rows.17.conv is a 3x3 convolution, in the weights a 1x1 convolution",
        ),
        (
            replace(V2, stem=replace(stem_of(V2), norm="none", bias=True)),
            "stem.conv is a 3x3 convolution with bias, in the weights a 3x3 convolution$",
        ),
        (
            get_arch("mobilenet_v1", Settings(num_classes=5)),
            "mobilenet_v1 cannot take weights of mobilenet_v2: 13 rows, the weights have 18",
        ),
        (replace(V2, head=PoolLinear(classes=5, pool=3)), "3x3 pixels, in the weights 1x1"),
        (
            replace(V2, head=PoolLinear(classes=5, hidden=(9,))),
            "the weights have no layer head.hidden.0.linear",
        ),
    ],
)
def test_what_cannot_be_cut_is_said(target: Arch, message: str) -> None:
    with pytest.raises(InputError, match=message):
        slice_weights(V2, Network(V2).state_dict(), target)


def test_the_small_form_is_not_the_full_one() -> None:
    full = get_arch("vgg11", Settings(width_mult=0.125, resolution=224))
    weights = build_empty(full).state_dict()
    with pytest.raises(InputError, match="10 rows, the weights have 12 .* the same form"):
        slice_weights(full, weights, get_arch("vgg11", Settings(width_mult=0.125, resolution=32)))
