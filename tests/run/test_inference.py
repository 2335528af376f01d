"""Batches of a checkpoint: each thread computes its own, and none is lost or mixed up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.formats.pretrained import create_model
from mobilette.nn.network import Network
from mobilette.nn.threads import torch_threads
from mobilette.run import inference
from mobilette.run.inference import checkpoint_logits, features_in_batches, logits_in_batches
from tests.batch_norm import give_statistics

NORMALISE = Normalise(preset("torch"))
MOST = 50


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    made = create_model("mobilenet_v2", width_mult=0.25, resolution=32, num_classes=5)
    give_statistics(made, torch.randn(4, 3, 32, 32))
    return made.eval()


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), np.uint8)


@pytest.fixture(scope="module")
def exact(network: Network) -> tuple[Tensor, Tensor]:
    """Logits and features of PyTorch's plain modules in double precision, image by image."""
    double = Network(network.arch)
    double.load_state_dict(network.state_dict())
    double.double().eval()
    with torch.inference_mode(), torch_threads(1):
        x = NORMALISE(torch.from_numpy(images(MOST))).double()
        logits, features = zip(*(double.with_features(each[None]) for each in x), strict=True)
    return torch.cat(logits), torch.cat(features)


@pytest.mark.parametrize(("count", "at_once"), [(1, None), (2, None), (7, 4), (50, None), (7, 1)])
def test_each_image_has_its_own_answer(
    network: Network, exact: tuple[Tensor, Tensor], threads: int, count: int, at_once: int | None
) -> None:
    pixels = images(MOST)[:count]
    logits, features = (each[:count] for each in exact)
    found = checkpoint_logits(network, NORMALISE, pixels, at_once=at_once)
    np.testing.assert_allclose(found, logits, atol=1e-4)
    np.testing.assert_allclose(features_in_batches(network, NORMALISE, pixels), features, atol=1e-4)
    assert torch.get_num_threads() == threads


def test_no_image_has_no_answer(network: Network, threads: int) -> None:
    assert checkpoint_logits(network, NORMALISE, images(0)).shape == (0, 5)
    assert features_in_batches(network, NORMALISE, images(0)).shape == (0, 1280)


@pytest.mark.parametrize("at_once", [None, 5])
def test_threads_share_the_images(
    network: Network, threads: int, at_once: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the last batches are of one size; together they are what memory may hold."""
    monkeypatch.setattr(inference, "largest_batch", lambda _: 8)
    seen: list[tuple[int, int]] = []
    normalise = Normalise(preset("torch"))
    normalise.register_forward_hook(
        lambda _, args, __: seen.append((len(args[0]), torch.get_num_threads()))
    )
    checkpoint_logits(network, normalise, images(60), at_once=at_once)
    sizes = sorted(size for size, _ in seen)
    assert sum(sizes) == 60
    assert sizes[-1] * threads <= (at_once or 8 * threads)
    assert len(set(sizes[1:])) == 1
    assert len(sizes) % threads == 0
    assert {each for _, each in seen} == {1}


class Watched:
    """Images that tell when some of them are read."""

    def __init__(self, pixels: NDArray[np.uint8], tell: Callable[[int], None]) -> None:
        self.pixels, self.tell = pixels, tell

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        self.tell(1)
        return self.pixels[part]


def test_no_more_is_read_than_is_computed_soon(
    network: Network, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamed images need not fit in memory."""
    monkeypatch.setattr(inference, "largest_batch", lambda _: 1)
    held: list[int] = []
    normalise = Normalise(preset("torch"))
    normalise.register_forward_hook(lambda *_: held.append(-1))
    watched: Any = Watched(images(MOST), held.append)
    checkpoint_logits(network, normalise, watched)
    assert sum(each == 1 for each in held) == MOST
    assert max(accumulate(held)) <= threads + 2


def test_hooks_are_called_by_one_thread(
    network: Network, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "largest_batch", lambda _: 2)
    seen: list[int] = []
    handle = network.register_forward_hook(lambda *_: seen.append(threading.get_ident()))
    try:
        checkpoint_logits(network, NORMALISE, images(6))
    finally:
        handle.remove()
    assert seen == [threading.get_ident()] * 3


def test_a_thread_that_begins_afterwards_has_all_of_pytorchs_threads(
    network: Network, threads: int
) -> None:
    checkpoint_logits(network, NORMALISE, images(40))
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [threads]


def test_an_error_of_a_batch_is_raised(network: Network, threads: int) -> None:
    class Broken(Normalise):
        def forward(self, pixels: Tensor) -> Tensor:
            raise RuntimeError("not enough memory")

    with pytest.raises(RuntimeError, match="not enough memory"):
        logits_in_batches(network, Broken(preset("torch")), images(40))
    assert torch.get_num_threads() == threads


def test_the_network_stays_as_it_was(network: Network) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    checkpoint_logits(network.train(), NORMALISE, images(3))
    assert network.training
    assert norms == [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network.eval()
