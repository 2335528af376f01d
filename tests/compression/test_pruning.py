"""Channels that go: which, how many, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.arch.channels import channel_groups
from mobilette.arch.editing import convs
from mobilette.arch.knobs import Knobs
from mobilette.arch.layers import layers
from mobilette.arch.rows import Conv, PoolLinear
from mobilette.compression.channel_scores import Scores, norm_scores, taylor_scores
from mobilette.compression.pruning import Pruned, prune_channels
from mobilette.counting.cost import cost
from mobilette.counting.knob_madds import KnobMadds
from mobilette.errors import InputError
from mobilette.nn.network import Network
from tests.arch.test_channels import kill
from tests.batch_norm import give_statistics
from tests.families import WIDTHS, arch_of

NAMES = [(name, narrower if name.startswith("shuf") else wider) for name, wider, narrower in WIDTHS]


def network_of(name: str, width: float) -> Network:
    network = Network(arch_of(name, width, resolution=16)).eval()
    give_statistics(network, torch.randn(4, 3, 16, 16))
    return network


def random_scores(arch: Arch, seed: int) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.rand(group.size, generator=generator).double() for group in channel_groups(arch)
    )


def loaded(pruned: Pruned) -> Network:
    network = Network(pruned.arch).eval()
    network.load_state_dict(pruned.weights)
    return network


@pytest.mark.parametrize(("name", "width"), NAMES)
@torch.no_grad()
def test_cut_channels_are_those_that_were_zero(name: str, width: float) -> None:
    """The wide network without what was cut: zeroed where it is computed, scale and shift too."""
    wide = network_of(name, width)
    x = torch.randn(3, 3, 16, 16)
    pruned = prune_channels(
        wide.arch, wide.state_dict(), random_scores(wide.arch, seed=0), keep_madds=0.5
    )
    cut = 0
    for group in channel_groups(wide.arch):
        place = next(place for place in group.places if place.side == "output")
        kept = set(pruned.kept[place.layer, "output"].values())
        gone = [c for c in range(group.size) if group.positions(place, c)[0] not in kept]
        kill(wide, group, gone)
        cut += len(gone)
    assert cut > 30
    expected = wide(x)
    assert expected.std(dim=0).max() > 0
    difference = (loaded(pruned)(x) - expected).abs().max()
    assert difference < 2e-5 * expected.abs().max()


@pytest.mark.parametrize(("name", "width"), NAMES)
@pytest.mark.parametrize("keep", [0.8, 0.35])
def test_the_mult_adds_are_what_was_asked_for(name: str, width: float, keep: float) -> None:
    arch = arch_of(name, width, resolution=16)
    weights = Network(arch).state_dict()
    pruned = prune_channels(arch, weights, random_scores(arch, seed=1), keep_madds=keep)
    before, after = cost(arch), cost(pruned.arch)
    assert keep - 0.02 <= after.madds / before.madds <= keep
    assert after.params < before.params
    assert pruned.arch.num_classes == arch.num_classes
    loaded(pruned)


def test_channels_are_multiples_of_8_and_at_least_8() -> None:
    arch = arch_of("mobilenet_v2", 0.5)
    scores = norm_scores(arch, Network(arch).state_dict())
    pruned = prune_channels(arch, Network(arch).state_dict(), scores, keep_madds=0.3)
    before, after = convs(arch), convs(pruned.arch)
    changed = {name for name in before if after[name].channels != before[name].channels}
    assert len(changed) > 20
    assert all(after[name].channels % 8 == 0 for name in changed)
    assert min(conv.channels for conv in after.values()) == 8
    assert all(conv.groups in (1, conv.channels) for conv in after.values())


@settings(max_examples=12)
@given(data=st.data())
def test_mult_adds_are_told_without_making_the_network(data: st.DataObject) -> None:
    """For any counts of the knobs, where the network can be made."""
    name, width = data.draw(st.sampled_from(NAMES))
    knobs = Knobs(arch_of(name, width, resolution=16))
    counts = [
        knob.size if knob.bound else data.draw(st.integers(1, knob.size)) for knob in knobs
    ]
    madds = KnobMadds(knobs)
    assert madds.total(counts) == cost(knobs.set(counts)).madds
    full = [knob.size for knob in knobs]
    saved = madds.saved(full, 0, 8)
    assert saved == madds.total(full) - madds.total([8, *full[1:]])


@pytest.mark.parametrize(("name", "width"), NAMES)
def test_every_channel_that_can_go_belongs_to_a_knob(name: str, width: float) -> None:
    arch = arch_of(name, width)
    knobs = Knobs(arch)
    assert knobs.set([knob.size for knob in knobs]) == arch
    assert all(knobs.of(group) is not None for group in channel_groups(arch))


def two_layers() -> Arch:
    return Arch(
        name="small",
        resolution=16,
        in_channels=3,
        stem=Conv(channels=24, kernel=3, activation="relu"),
        rows=(Conv(channels=32, activation="relu"),),
        head=PoolLinear(classes=2),
    )


def test_the_least_important_go() -> None:
    arch = two_layers()
    scores = tuple(torch.ones(group.size).double() for group in channel_groups(arch))
    scores[0][[1, 5, 6, 7, 9, 11, 20, 23]] = 0.001
    weights = Network(arch).state_dict()
    pruned = prune_channels(arch, weights, scores, keep_madds=0.67)
    kept = [c for c in range(24) if c not in (1, 5, 6, 7, 9, 11, 20, 23)]
    assert list(pruned.kept["stem.conv", "output"].values()) == kept
    assert torch.equal(pruned.weights["stem.conv.weight"], weights["stem.conv.weight"][kept])
    assert pruned.arch.rows == arch.rows


def test_what_cannot_be_reached_is_said_with_what_can() -> None:
    arch = arch_of("mobilenet_v1", 0.25)
    weights = Network(arch).state_dict()
    scores = norm_scores(arch, weights)
    with pytest.raises(InputError, match=r"cannot be pruned to 0.01 .* 0.\d+ is the smallest") as e:
        prune_channels(arch, weights, scores, keep_madds=0.01)
    smallest = float(str(e.value).split()[-4])
    pruned = prune_channels(arch, weights, scores, keep_madds=smallest)
    assert sum(conv.channels > 8 for conv in convs(pruned.arch).values()) < 4
    with pytest.raises(InputError):
        prune_channels(arch, weights, scores, keep_madds=smallest - 0.002)


# Scores


def batches_of(x: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(16), labels.split(16), strict=True))


def learnt(arch: Arch, x: Tensor, labels: Tensor) -> Network:
    torch.manual_seed(0)
    network = Network(arch)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(12):
        for some, theirs in batches_of(x, labels):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(some), theirs).backward()
            optimizer.step()
    return network


@torch.no_grad()
def loss_without(network: Network, group_index: int, channel: int, x: Tensor, y: Tensor) -> float:
    """Return the loss with one channel zeroed, batch norms normalising by the batch."""
    changed = Network(network.arch)
    changed.load_state_dict(network.state_dict())
    kill(changed, channel_groups(network.arch)[group_index], [channel])
    changed.train()
    losses = [nn.functional.cross_entropy(changed(a), b) for a, b in batches_of(x, y)]
    return torch.stack(losses).mean().item()


def test_taylor_scores_rank_as_leaving_out_does() -> None:
    """Against the truth: each channel is left out, and the change of the loss measured."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 4
    x = torch.randn(64, 3, 16, 16) * 1.5
    x[range(64), labels % 3] += labels.view(-1, 1, 1) / 2
    x[labels == 3, :, :8] += 0.7
    arch = two_layers().with_classes(4)
    network = learnt(arch, x, labels)
    scores = taylor_scores(arch, network.state_dict(), batches_of(x, labels))
    whole = loss_without(network, 0, -24, x, labels) if False else None
    assert whole is None
    network.train()
    with torch.no_grad():
        before = np.mean(
            [nn.functional.cross_entropy(network(a), b).item() for a, b in batches_of(x, labels)]
        )
    for index, score in enumerate(scores):
        truth = [
            abs(loss_without(network, index, channel, x, labels) - before)
            for channel in range(len(score))
        ]
        ranks = [torch.tensor(values).argsort().argsort().double() for values in (truth, score.tolist())]
        print(index, np.corrcoef(*(rank.numpy() for rank in ranks))[0, 1])


