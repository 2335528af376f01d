"""ShuffleNet's shuffle in one pass, against PyTorch's layers, to the bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilette import create_model
from mobilette.nn.layers import Concat, ShuffleChannels
from mobilette.nn.network import Network
from mobilette.nn.shuffle import can_shuffle, shuffled, shuffled_halves
from tests.conftest import needs_compiler

pytestmark = needs_compiler

LAST = torch.channels_last


@given(
    images=st.integers(1, 3),
    pairs=st.integers(1, 40),
    plane=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    split=st.booleans(),
)
def test_values_and_gradients_are_those_of_the_layers(
    images: int, pairs: int, plane: tuple[int, int], dtype: torch.dtype, split: bool
) -> None:
    shape = images, 2 * pairs, *plane
    parts = [torch.randn(shape).to(dtype).contiguous(memory_format=LAST) for _ in range(2)]
    assert can_shuffle(parts, Concat(), ShuffleChannels(2))
    found, gradients = [], []
    upstream = torch.randn(images, 4 * pairs, *plane).to(dtype).chunk(2, dim=1)
    for ours in (True, False):
        a, b = (part.clone().requires_grad_() for part in parts)
        halves: tuple[Tensor, ...]
        if ours:
            halves = shuffled_halves(a, b) if split else shuffled(a, b).chunk(2, dim=1)
        else:
            halves = ShuffleChannels(2)(Concat()(a, b)).chunk(2, dim=1)
        torch.autograd.backward(halves, upstream)
        found.append(torch.cat(halves, dim=1))
        gradients.append((a.grad, b.grad))
    assert torch.equal(*found)
    for mine, theirs in zip(*gradients, strict=True):
        assert mine is not None
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("parts", "groups"),
    [
        ([torch.zeros(1, 4, 2, 2)], 2),
        ([torch.zeros(1, 4, 2, 2)] * 2, 4),
        ([torch.zeros(1, 3, 2, 2)] * 2, 2),
        ([torch.zeros(0, 4, 2, 2)] * 2, 2),
        ([torch.zeros(1, 4, 2, 2), torch.zeros(1, 6, 2, 2)], 2),
        ([torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16)], 2),
        ([torch.zeros(1, 4, 2, 2, dtype=torch.float64)] * 2, 2),
    ],
)
def test_others_are_left_to_pytorch(parts: list[Tensor], groups: int) -> None:
    parts = [part.contiguous(memory_format=LAST) for part in parts]
    assert not can_shuffle(parts, Concat(), ShuffleChannels(groups))


def test_one_channel_after_the_other_is_left_to_pytorch() -> None:
    parts = [torch.zeros(2, 4, 3, 3)] * 2
    assert not can_shuffle(parts, Concat(), ShuffleChannels(2))


def _answers(network: Network, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    logits, maps = network.with_maps(x)
    loss = logits.square().mean() + sum(each.square().mean() for each in maps.values())
    loss.backward()  # type: ignore[no-untyped-call]
    return logits.detach(), [each.grad for each in network.parameters() if each.grad is not None]


def test_a_networks_answers_gradients_and_hooks_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the maps of each stride kept, which are shuffled ones that are not split."""
    torch.manual_seed(0)
    network = create_model("shufflenet_v2", num_classes=5, width_mult=0.5, resolution=32)
    network.to(memory_format=LAST).train()  # type: ignore[call-overload]
    network.fused_norms = True
    x = torch.randn(4, 3, 32, 32).contiguous(memory_format=LAST)
    calls = [0]
    monkeypatch.setattr(ShuffleChannels, "forward", _counted(ShuffleChannels.forward, calls))
    logits, gradients = _answers(network, x)
    assert calls == [0]
    network.zero_grad()
    seen: list[Tensor] = []
    hook = network.get_submodule("rows.2.split.1").register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    watched, _ = _answers(network, x)
    hook.remove()
    assert len(seen) == 1
    torch.testing.assert_close(watched, logits)
    network.zero_grad()
    monkeypatch.setattr("mobilette.nn.network.can_shuffle", lambda *_: False)
    plain, plain_gradients = _answers(network, x)
    assert calls[0] > 10
    torch.testing.assert_close(plain, logits)
    for mine, theirs in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def _counted(forward: object, calls: list[int]) -> object:
    def counted(self: nn.Module, x: Tensor) -> Tensor:
        calls[0] += 1
        return forward(self, x)  # type: ignore[operator, no-any-return]

    return counted
