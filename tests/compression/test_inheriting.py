"""The weights of a trained network in one that was changed a little."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.compression.inheriting import inherit
from mobilette.errors import InputError
from mobilette.formats.slicing import slice_weights
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.run.directory import Run
from mobilette.search.mutations import Mutation, mutations
from mobilette.workflows.train import train
from tests.batch_norm import give_statistics
from tests.families import WIDTHS, arch_of
from tests.models import model_of

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
# Their new rows start with random weights.
RANDOM = ("pp_lcnet", "shufflenet", "squeezenet")


@cache
def parent(name: str, width: float) -> tuple[Model, tuple[Mutation, ...], Tensor]:
    """Return a network with statistics of its own, its mutations, and its logits of ``X``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(arch_of(name, width)).eval()
        give_statistics(network, X)
    model = model_of(network)
    return model, tuple(mutations(model.arch)), logits(model)


@torch.no_grad()
def logits(model: Model) -> Tensor:
    answer: Tensor = model.network(X)
    return answer


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to what tells images apart."""
    return float((one - other).abs().max() / (other - other.mean(0)).abs().max())


def alike(one: Tensor, other: Tensor) -> float:
    """Return the correlation of logits."""
    both = torch.stack([(one - one.mean()).flatten(), (other - other.mean()).flatten()])
    return float(torch.corrcoef(both)[0, 1])


def preserves(name: str, mutation: Mutation) -> bool:
    """Whether the theory says that the function stays the same."""
    text = mutation.text
    match mutation.kind:
        case "kernel":
            return text.startswith("5x5")  # and nothing larger is cut
        case "depth":
            return "more" in text and not name.startswith(RANDOM)
        case "channels":
            return text.startswith("1.25")
        case "squeeze_excite":
            return not text.startswith("no ")
    return False


any_mutation = st.sampled_from(WIDTHS).flatmap(
    lambda network: st.tuples(st.just(network), st.integers(0, len(parent(*network[:2])[1]) - 1))
)


@settings(max_examples=12)
@given(any_mutation)
def test_the_function_stays_where_it_can(drawn: tuple[tuple[str, float, float], int]) -> None:
    (name, width, _), number = drawn
    model, found, before = parent(name, width)
    mutation = found[number]
    child = inherit(model, mutation.arch)
    after = logits(child)
    assert after.isfinite().all()
    assert child.classes == model.classes
    if preserves(name, mutation):
        assert apart(after, before) < 1e-3, mutation.text
    again = inherit(model, mutation.arch)
    assert all(torch.equal(child.weights[key], again.weights[key]) for key in child.weights)


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v3_small"])
def test_what_is_cut_answers_similarly(name: str) -> None:
    """Statistics are of its own: with those of the parent, what was cut is missing."""
    model, found, before = parent(name, next(width for n, width, _ in WIDTHS if n == name))
    random = Network(model.arch).eval()
    give_statistics(random, X)
    with torch.no_grad():
        chance = abs(alike(random(X), before))
    cut = [mutation for mutation in found if not preserves(name, mutation)]
    assert cut
    likeness = []
    for mutation in cut:
        network = inherit(model, mutation.arch).network.train()
        with torch.no_grad():
            likeness.append(alike(network(X), before))
    assert sum(likeness) / len(likeness) > max(0.5, chance)


def changed(arch: Arch, text: str) -> Arch:
    return next(mutation.arch for mutation in mutations(arch) if mutation.text == text)


def test_several_changes_at_once() -> None:
    model, _, before = parent("mobilenet_v2", 0.75)
    arch = changed(model.arch, "5x5 kernels in stage 2")
    arch = changed(arch, "one block more in stage 3")
    arch = changed(arch, "1.25 times the channels in stage 3")
    arch = changed(arch, "squeeze-and-excite in stage 4")
    assert apart(logits(inherit(model, arch)), before) < 1e-3


def test_a_block_is_dropped_and_channels_are_changed() -> None:
    model, _, _ = parent("mobilenet_v1", 0.5)
    arch = changed(model.arch, "one block less in stage 3")
    arch = changed(arch, "1.25 times the channels in stage 2")
    arch = changed(arch, "0.75 times the channels in stage 4")
    child = inherit(model, arch)
    assert logits(child).isfinite().all()
    # The last stage's rows are one row earlier.
    assert len(child.weights["rows.10.pointwise.conv.weight"]) == 384


def test_the_most_important_channels_stay() -> None:
    model, found, _ = parent("mobilenet_v1", 0.5)
    arch = next(m.arch for m in found if m.text == "0.75 times the channels in stage 4")
    sliced = slice_weights(model.arch, model.weights, arch)
    child = inherit(model, arch)
    assert all(torch.equal(tensor, child.weights[name]) for name, tensor in sliced.items())


def test_new_layers_learn() -> None:
    """No gradient of a new layer's last weights is zero for ever."""
    model, found, _ = parent("mobilenet_v2", 0.75)
    for text in ("squeeze-and-excite in stage 3", "one block more in stage 3"):
        arch = next(m.arch for m in found if m.text == text)
        network = inherit(model, arch).network.train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(2):  # the first step changes the zeros
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(X), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert not still, still


def test_another_network_is_refused() -> None:
    model, _, _ = parent("mobilenet_v1", 0.5)
    with pytest.raises(InputError, match=r"mobilenet_v2 cannot inherit .* of mobilenet_v1"):
        inherit(model, arch_of("mobilenet_v2", 0.5))
    with pytest.raises(InputError, match="cannot inherit"):
        inherit(model, model.arch.with_classes(3))
    with pytest.raises(InputError, match="cannot inherit"):
        inherit(model, replace(model.arch, rows=model.arch.rows[2:]))


@pytest.mark.parametrize(
    "text", ["5x5 kernels in stage 2", "one block more in stage 3", "one block less in stage 3"]
)
def test_it_is_a_start(text: str, trained: Run, images: Path, tmp_path: Path) -> None:
    arch = changed(trained.arch, text)
    child = inherit(trained.model, arch)
    run = train(
        images,
        start=child,
        overrides={"epochs": 1, "batch_size": 16},
        out=tmp_path / "run",
        workers=0,
    )
    assert run.arch == arch
    best = run.best()
    assert best is not None
    assert best["top1"] > 0.6
