"""Channels that go: which, how many, and that nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mobilette.arch.arch import Arch
from mobilette.arch.channels import channel_groups
from mobilette.arch.editing import convs
from mobilette.arch.rows import Conv, PoolLinear
from mobilette.compression.channel_scores import Scores, norm_scores, taylor_scores
from mobilette.compression.folding import fold
from mobilette.compression.pruning import kept_positions, prune_channels, slice_to
from mobilette.counting.cost import cost
from mobilette.errors import InputError
from mobilette.nn.network import Network
from tests.arch.test_channels import kill
from tests.batch_norm import give_statistics
from tests.families import WIDTHS, arch_of
from tests.models import model_of

# The shuffles of the wider ShuffleNets take long to be followed.
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


@pytest.mark.parametrize(("name", "width"), NAMES)
@torch.no_grad()
def test_cut_channels_are_those_that_were_zero(name: str, width: float) -> None:
    """The wide network without what was cut: zeroed where it is computed, scale and shift too."""
    wide = network_of(name, width)
    x = torch.randn(3, 3, 16, 16)
    scores = random_scores(wide.arch, seed=0)
    pruned = prune_channels(model_of(wide), scores, keep_madds=0.5)
    positions = kept_positions(wide.arch, scores, pruned.arch)
    cut = 0
    for group in channel_groups(wide.arch):
        place = next(place for place in group.places if place.side == "output")
        kept = set(positions[place.layer, "output"].values())
        gone = [c for c in range(group.size) if group.positions(place, c)[0] not in kept]
        kill(wide, group, gone)
        cut += len(gone)
    assert cut > 30
    expected = wide(x)
    assert expected.std(dim=0).max() > 0
    difference = (pruned.network(x) - expected).abs().max()
    assert difference < 2e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "width", "keep"),
    [(*network, (0.8, 0.35)[number % 2]) for number, network in enumerate(NAMES)]
    + [("resnet20", 1.0, 0.8), ("mobilenet_v3_small", 1.0, 0.2), ("shufflenet_v2", 0.5, 0.9)],
)
def test_the_mult_adds_are_what_was_asked_for(name: str, width: float, keep: float) -> None:
    arch = arch_of(name, width, resolution=16)
    model = model_of(arch, width_mult=width)
    pruned = prune_channels(model, random_scores(arch, seed=1), keep_madds=keep)
    before, after = cost(arch), cost(pruned.arch)
    assert keep - 0.02 <= after.madds / before.madds <= keep
    assert after.params < before.params
    assert pruned.arch.num_classes == arch.num_classes
    assert (model.origin.width_mult, pruned.origin.width_mult) == (width, None)


def test_channels_are_multiples_of_8_and_at_least_8() -> None:
    arch = arch_of("mobilenet_v2", 0.5)
    model = model_of(arch)
    pruned = prune_channels(model, norm_scores(model), keep_madds=0.3)
    before, after = convs(arch), convs(pruned.arch)
    changed = {name for name in before if after[name].channels != before[name].channels}
    assert len(changed) > 20
    assert all(after[name].channels % 8 == 0 for name in changed)
    assert min(conv.channels for conv in after.values()) == 8
    assert all(conv.groups in (1, conv.channels) for conv in after.values())


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
    model = model_of(arch)
    pruned = prune_channels(model, scores, keep_madds=0.67)
    kept = [c for c in range(24) if c not in (1, 5, 6, 7, 9, 11, 20, 23)]
    assert torch.equal(pruned.weights["stem.conv.weight"], model.weights["stem.conv.weight"][kept])
    assert pruned.arch.rows == arch.rows


def test_what_cannot_be_reached_is_said_with_what_can() -> None:
    arch = arch_of("mobilenet_v1", 0.25)
    model = model_of(arch)
    scores = norm_scores(model)
    with pytest.raises(InputError, match=r"cannot be pruned to 0.01 .* 0.\d+ is the smallest") as e:
        prune_channels(model, scores, keep_madds=0.01)
    smallest = float(str(e.value).split()[-4])
    pruned = prune_channels(model, scores, keep_madds=smallest)
    assert sum(conv.channels > 8 for conv in convs(pruned.arch).values()) < 4
    with pytest.raises(InputError):
        prune_channels(model, scores, keep_madds=smallest - 0.002)


# Slicing


def test_a_model_is_sliced_to_a_width_or_a_network() -> None:
    wide = model_of(arch_of("mobilenet_v2", 0.5), width_mult=0.5)
    narrow = arch_of("mobilenet_v2", 0.25)
    sliced = slice_to(wide, width_mult=0.25)
    assert sliced.arch == narrow
    assert sliced.origin.width_mult == 0.25
    alike = slice_to(wide, narrow)
    assert alike.origin.width_mult is None
    assert all(torch.equal(alike.weights[name], x) for name, x in sliced.weights.items())
    folded = slice_to(fold(wide), width_mult=0.25)
    assert folded.arch == fold(sliced).arch
    with pytest.raises(InputError, match="not a larger one"):
        slice_to(wide, width_mult=1.0)
    with pytest.raises(InputError, match="either arch or width_mult"):
        slice_to(wide)


# Scores


def learnt(arch: Arch) -> tuple[Network, list[tuple[Tensor, Tensor]]]:
    """Return a network that has begun to tell noisy patterns apart, and batches of these."""
    torch.manual_seed(0)
    labels = torch.randint(0, arch.num_classes, (256,))
    x = 3.0 * torch.randn(256, 3, 16, 16) + torch.randn(arch.num_classes, 3, 16, 16)[labels]
    batches = [(x[i : i + 16], labels[i : i + 16]) for i in range(0, 256, 16)]
    network = Network(arch)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(12):
        for pixels, theirs in batches:
            optimizer.zero_grad()
            cross_entropy(network(pixels), theirs).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network, batches


@torch.no_grad()
def losses_of(network: Network, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the loss of each batch with batch norms that normalise by it."""
    changed = copy.deepcopy(network).train()
    return torch.stack([cross_entropy(changed(x), labels) for x, labels in batches])


def test_taylor_scores_rank_as_leaving_out_does() -> None:
    """Against the truth: each channel is left out, and the change of the loss measured."""
    network, batches = learnt(two_layers().with_classes(4))
    scores = taylor_scores(model_of(network), batches)
    before = losses_of(network, batches)
    for group, score in zip(channel_groups(network.arch), scores, strict=True):
        changes = []
        for channel in range(group.size):
            without = copy.deepcopy(network)
            kill(without, group, [channel])
            changes.append((losses_of(without, batches) - before).square().mean())
        assert spearmanr(changes, score).statistic > 0.85


def test_a_gate_where_channels_are_read_is_one_at_the_batch_norm() -> None:
    """Through ReLU the gradients of both are equal; the paper's is at the batch norm."""
    network, batches = learnt(two_layers())
    scores = taylor_scores(model_of(network), batches)
    sums = [torch.zeros(group.size) for group in channel_groups(network.arch)]
    for x, labels in batches:
        network.zero_grad()
        cross_entropy(network(x), labels).backward()  # type: ignore[no-untyped-call]
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for total, norm in zip(sums, norms, strict=True):
            assert norm.weight.grad is not None
            assert norm.bias.grad is not None
            gate = norm.weight * norm.weight.grad + norm.bias * norm.bias.grad
            total += gate.detach().square() / len(batches)
    for score, total in zip(scores, sums, strict=True):
        torch.testing.assert_close(score.float(), total, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v1_g3", "resnet20", "vgg11"])
def test_a_channel_that_is_zero_has_no_score(name: str) -> None:
    network = network_of(name, 0.5 if name != "resnet20" else 1.0)
    groups = channel_groups(network.arch)
    for group in groups:
        kill(network, group, [0])
    x = torch.randn(8, 3, 16, 16)
    batches = [(x, torch.arange(8) % 7)]
    taylor = taylor_scores(model_of(network), batches)
    norm = norm_scores(model_of(network))
    for score in (taylor, norm):
        assert all(channels[0] == 0 for channels in score)
        assert all((channels[1:] > 0).any() for channels in score if len(channels) > 4)


def test_without_images_there_are_no_scores() -> None:
    arch = two_layers()
    with pytest.raises(InputError, match="no images"):
        taylor_scores(model_of(arch), [])
