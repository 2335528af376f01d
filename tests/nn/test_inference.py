"""A network made to answer, against the plain modules that it was made of, in double precision."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilette.formats.pretrained import create_model
from mobilette.nn.inference import for_inference
from mobilette.nn.network import Network, build_empty
from tests.batch_norm import give_statistics
from tests.families import WIDTHS, arch_of


def settled(name: str, *, width: float = 0.25, side: int = 32, channels: int = 3) -> Network:
    """Return a network in evaluation mode whose activations neither fade nor explode."""
    torch.manual_seed(0)
    network = create_model(
        name, width_mult=width, resolution=side, num_classes=5, in_channels=channels
    )
    give_statistics(network, torch.randn(4, channels, side, side))
    return network.eval()


def pixels(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


def assert_same(one: Tensor, other: Tensor, *, part: float) -> None:
    assert one.shape == other.shape
    assert (one - other).abs().max() <= part * other.abs().max().clamp_min(1e-3)


def assert_answers_alike(network: Network, x: Tensor, *, part: float) -> None:
    """Compare logits, features and maps of every stride."""
    fast, before = for_inference(network), x.clone()
    assert fast is not network
    with torch.inference_mode():
        logits, features = network.with_features(x)
        maps = network.features(x)
        assert_same(fast(x), logits, part=part)
        assert_same(fast.with_features(x)[0], logits, part=part)
        assert_same(fast.with_features(x)[1], features, part=part)
        for stride, each in fast.features(x).items():
            assert_same(each, maps[stride], part=part)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("name", "width"), [(name, narrow) for name, _, narrow in WIDTHS])
def test_every_family_answers_the_same(name: str, width: float) -> None:
    network = Network(arch_of(name, width)).eval()
    give_statistics(network, torch.randn(4, 3, 32, 32))
    assert_answers_alike(network.double(), pixels(2, 3, 32, 32), part=1e-12)


@settings(max_examples=15)
@given(
    st.sampled_from(["mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2", "resnet20"]),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
    st.integers(32, 48),
)
def test_any_batch_channels_and_size(name: str, batch: int, channels: int, side: int) -> None:
    network = settled(name, channels=channels).double()
    assert_answers_alike(network, pixels(batch, channels, side, side), part=1e-12)


def test_in_single_precision_it_is_as_exact_as_the_plain_network() -> None:
    network = settled("mobilenet_v2", width=0.5)
    x = pixels(4, 3, 32, 32, dtype=torch.float32)
    with torch.inference_mode():
        fast, plain = for_inference(network)(x), network(x)
        exact = network.double()(x.double())
    assert (fast - exact).norm() < 3 * (plain - exact).norm()


def test_no_batch_norm_is_left_after_a_convolution() -> None:
    for name in ("mobilenet_v2", "resnet18", "shufflenet_v2", "ghostnet", "vgg11_bn"):
        fast = for_inference(settled(name))
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    branches = for_inference(settled("repvgg_a0"))  # whose shortcuts are norms alone
    kept = [name for name, each in branches.named_modules() if isinstance(each, nn.BatchNorm2d)]
    assert kept
    assert all("identity" in name for name in kept)


def test_the_network_stays_as_it_was() -> None:
    network = create_model("mobilenet_v3_small", width_mult=0.5, resolution=32, num_classes=5)
    network.train()
    network.get_submodule("rows.0").eval()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    gradients = [parameter.requires_grad for parameter in network.parameters()]
    modules = dict(network.named_modules())
    fast = for_inference(network)
    for tensor in fast.state_dict().values():
        tensor.fill_(7)
    assert dict(network.named_modules()) == modules
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == gradients
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not fast.training


def test_hooks_see_the_network_itself() -> None:
    network = settled("mobilenet_v2").train()
    seen: list[nn.Module] = []
    norm = network.get_submodule("rows.1.expand.norm")
    handle = norm.register_forward_hook(lambda module, *_: seen.append(module))
    answering = for_inference(network)
    assert answering is network
    assert not answering.training
    answering(pixels(1, 3, 32, 32, dtype=torch.float32))
    assert seen == [norm]
    handle.remove()
    assert for_inference(network) is not network


def test_another_device_than_the_cpu_has_the_network_itself() -> None:
    network = build_empty(arch_of("mobilenet_v2", 0.5))
    assert for_inference(network) is network


def test_a_norm_that_cannot_be_folded_stays() -> None:
    network = settled("resnet20").double()
    exact = pixels(3, 3, 32, 32)
    norm = network.get_submodule("stem.norm")
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean = norm.running_var = None  # it uses the batch's
    norm.track_running_stats = False
    fast = for_inference(network)
    assert isinstance(fast.get_submodule("stem.norm"), nn.BatchNorm2d)
    with torch.inference_mode():
        assert_same(fast(exact), network(exact), part=1e-12)


def test_weights_that_are_not_finite_are_not_hidden() -> None:
    network = settled("mobilenet_v2")
    network.get_parameter("stem.conv.weight").data[0] = torch.nan
    with torch.inference_mode():
        assert for_inference(network)(pixels(1, 3, 32, 32, dtype=torch.float32)).isnan().all()
