"""The order of an epoch: what is seen, how often, and from how many shards at a time."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Generator, Tensor

from mobilette.training.sampling import WINDOW, epoch_order

Labels = NDArray[np.int64]
LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(np.array)


def drawn(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def shuffled(count: int, seed: int, shards: list[int] | None = None) -> Tensor:
    of_row = None if shards is None else np.array(shards)
    return epoch_order(
        np.zeros(count, np.int64), sampling="shuffled", shards=of_row, generator=drawn(seed)
    )


@given(LABELS, st.integers(0, 99))
def test_shuffled_shows_every_image_once(labels: Labels, seed: int) -> None:
    order = epoch_order(labels, sampling="shuffled", shards=None, generator=drawn(seed))
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(len(labels)))


@given(LABELS, st.integers(0, 99))
def test_balanced_shows_every_class_equally_often_and_its_images_in_turns(
    labels: Labels, seed: int
) -> None:
    order = epoch_order(labels, sampling="balanced", shards=None, generator=drawn(seed)).numpy()
    assert len(order) == len(labels)
    assert order.min() >= 0
    present = np.unique(labels)
    seen = [int((labels[order] == label).sum()) for label in present]
    assert max(seen) - min(seen) <= 1
    for label in present:
        often = np.bincount(order, minlength=len(labels))[labels == label]
        assert often.max() - often.min() <= 1


def test_balanced_classes_are_mixed() -> None:
    labels = np.repeat([0, 1], [900, 100])
    order = epoch_order(labels, sampling="balanced", shards=None, generator=drawn(0)).numpy()
    rare = labels[order].reshape(10, 100).sum(1)
    assert rare.sum() == 500
    assert rare.min() > 30
    assert rare.max() < 70


@given(st.data(), st.integers(1, 70), st.integers(0, 99))
def test_few_shards_are_read_at_a_time(data: st.DataObject, count: int, seed: int) -> None:
    """From a shard's first image to its last, only `WINDOW` shards are in use."""
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=count, max_size=count))
    names = data.draw(st.permutations(range(count)))
    shards = [name for name, size in zip(names, sizes, strict=True) for _ in range(size)]
    order = shuffled(len(shards), seed, shards)
    assert sorted(order.tolist()) == list(range(len(shards)))
    seen = np.array(shards)[order.numpy()]
    first = {shard: int(np.flatnonzero(seen == shard)[0]) for shard in set(shards)}
    last = {shard: int(np.flatnonzero(seen == shard)[-1]) for shard in set(shards)}
    for place in range(len(seen)):
        assert sum(first[shard] <= place <= last[shard] for shard in first) <= WINDOW


def test_images_of_a_window_and_the_windows_are_shuffled() -> None:
    shards = np.repeat(np.arange(64), 20)
    orders = [shuffled(len(shards), seed, shards.tolist()).numpy() for seed in (1, 2)]
    windows = [set(shards[order[: 20 * WINDOW]]) for order in orders]
    assert len(windows[0]) == WINDOW
    assert windows[0] != windows[1]
    batch = shards[orders[0][:64]]
    assert len(set(batch)) > 12  # of 16: a batch is diverse
    assert (np.diff(orders[0][: 20 * WINDOW]) < 0).any()


@given(LABELS, st.sampled_from(["shuffled", "balanced"]), st.booleans(), st.integers(0, 99))
def test_the_generator_alone_decides(
    labels: Labels, sampling: Literal["shuffled", "balanced"], sharded: bool, seed: int
) -> None:
    shards = np.arange(len(labels)) // 3 if sharded else None
    orders = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        orders.append(epoch_order(labels, sampling=sampling, shards=shards, generator=drawn(seed)))
    assert torch.equal(*orders)


def test_other_seeds_other_orders() -> None:
    for shards in (None, [index // 10 for index in range(200)]):
        assert not torch.equal(shuffled(200, 1, shards), shuffled(200, 2, shards))
