"""Steps as CUDA graphs, without a GPU: on static inputs, and replayed as PyTorch's operations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mobilette.errors import InputError
from mobilette.training.graphs import WARM_UP, Graphs, Numbers, Work, check_graphs
from mobilette.training.recipe import Recipe
from mobilette.training.state import Progress, apply_state, read_state, state_bytes
from mobilette.training.step import Trainer
from tests.data.sets import divided
from tests.training.agreement import described, disagreements, distances, state_of
from tests.training.runs import same_weights, train
from tests.training.test_step import batch, network, trainer

CPU = torch.device("cpu")


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What a graph captures of a step, here PyTorch's operations: `replay` does them again.

    As in a graph, tensors stay where they are and Python's numbers are those of the capture;
    whatever reads a tensor's value is refused.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[tuple[Any, Any, dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "waits for the device"
        result = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, before in self.done:
                after = func(*args, **kwargs)
                for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


def recorded(made: Trainer, work: Work) -> Work:
    """Return ``work``, replayed from its operations; recording it changes nothing."""
    held = [*made.network.state_dict().values(), *made.average.network.state_dict().values()]
    held += [value for state in made.optimizer.state.values() for value in state.values()]
    before = [value.clone() for value in held]
    with torch.random.fork_rng(), Operations() as operations:
        loss = work()
    for value, old in zip(held, before, strict=True):
        value.detach().copy_(old)

    def replay() -> Tensor:
        operations.replay()
        return loss

    return replay


def replayed(name: str = "mobilenet_v1", *, resolution: int = 16, **keys: Any) -> Trainer:
    made = trainer(network(name, resolution=resolution), graphs=True, **keys)
    assert made.graphs is not None
    made.graphs.capture = partial(recorded, made)
    return made


def take(
    made: Trainer, count: int = WARM_UP + 4, *, side: int = 16, first: int = 0, epoch: int = 0
) -> list[float]:
    """Take steps with other images, rates and momentum each; return their losses."""
    losses = [
        take_one(made, index, side=side, epoch=epoch) for index in range(first, first + count)
    ]
    return [float(loss) for loss in losses]


def take_one(made: Trainer, index: int, *, side: int = 16, epoch: int = 0) -> Tensor:
    drawn = torch.Generator().manual_seed(index)
    pixels = torch.randint(0, 256, (8, 3, side, side), generator=drawn).to(torch.uint8)
    labels = torch.randint(0, 4, (8,), generator=drawn)
    place, progress = (epoch, index), (index + 1) / 20
    return made.step(pixels, labels, index=index, place=place, progress=progress)


KINDS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1, "warmup": 0.3},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "warmup": 0.3},
    "dropout": {"name": "mobilenet_v2", "crop": "pad", "flip": True, "label_smoothing": 0.1},
    "mixed": {"mixup": 0.2, "cutmix": 1.0, "crop": "resized", "randaugment": 9.0, "erasing": 0.3},
    "bf16": {"precision": "bf16", "lr": 0.1, "name": "resnet8"},
    "no batch norm": {"name": "squeezenet1_1", "resolution": 32, "momentum": 0.0},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["static inputs", "operations"])
def test_steps_are_those_without_a_graph_to_the_bit(kind: str, how: str) -> None:
    """Weights, statistics, average, momentum and losses, while rates and images change."""
    keys = dict(KINDS[kind])
    name, resolution = keys.pop("name", "mobilenet_v1"), keys.pop("resolution", 16)
    plain = trainer(network(name, resolution=resolution), **keys)
    made = replayed(name, resolution=resolution, **keys)
    assert made.graphs is not None
    if how == "static inputs":
        made.graphs.capture = lambda work: work
    losses = [take(each, side=resolution) for each in (plain, made)]
    assert made.graphs.captured == 1
    assert losses[0] == losses[1]
    expected = state_of(plain)
    for part, found in state_of(made).items():
        assert torch.equal(found, expected[part]), part


def test_every_size_and_every_set_of_trained_layers_has_its_graph() -> None:
    keys: dict[str, Any] = {"start_resolution": 0.5, "frozen_epochs": 1, "body_lr": 0.5}
    plain = trainer(network(resolution=32), **keys)
    made = replayed(resolution=32, **keys)
    for each in (plain, made):
        for epoch in (0, 1):
            each.begin_epoch(epoch)
            take(each, 10, side=32, first=10 * epoch, epoch=epoch)
    assert made.graphs is not None
    assert made.graphs.captured >= 2
    expected = state_of(plain)
    for part, found in state_of(made).items():
        assert torch.equal(found, expected[part]), part


def test_a_teacher_teaches_in_the_graph() -> None:
    def teacher(pixels: Tensor) -> Tensor:
        return pixels.float().mean((2, 3)) @ torch.ones(3, 4)

    plain, made = trainer(teacher=teacher), replayed(teacher=teacher)
    assert take(plain) == take(made)


def test_the_momentum_of_a_cycle_is_no_number_of_the_capture() -> None:
    """PyTorch's own SGD in double precision, its momentum set by hand, is the reference."""
    keys: dict[str, Any] = {"schedule": "one_cycle", "warmup": 0.3, "momentum": 0.9, "lr": 0.2}
    drawn = torch.Generator().manual_seed(0)
    made = replayed(**keys, weight_decay=1e-2)
    parameters = [each for group in made.optimizer.param_groups for each in group["params"]]
    exact = [each.detach().double().clone().requires_grad_() for each in parameters]
    decays = [g["weight_decay"] for g in made.optimizer.param_groups for _ in g["params"]]
    reference = torch.optim.SGD(
        [
            {"params": [each], "weight_decay": decay}
            for each, decay in zip(exact, decays, strict=True)
        ],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        fused=False,
    )
    for index in range(8):
        made._set_numbers(index, index / 8, 1.0)
        (group, *_) = made.optimizer.param_groups
        for each in reference.param_groups:
            each.update(lr=float(group["lr"]), momentum=float(group["momentum"]))
        for each, double in zip(parameters, exact, strict=True):
            each.grad = torch.randn(each.shape, generator=drawn)
            double.grad = each.grad.double()
        made.optimizer.step()
        reference.step()
    for each, double in zip(parameters, exact, strict=True):
        torch.testing.assert_close(each.double(), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet8"])
def test_agreement_is_what_rounding_makes(name: str, schedule: str) -> None:
    """The criterion of the test on a GPU: it accepts these steps, but no frozen number."""
    keys: dict[str, Any] = {"lr": 0.05, "warmup": 0.3, "schedule": schedule}

    def plain() -> Trainer:
        return trainer(network(name), **keys)

    def frozen() -> Trainer:
        made = replayed(name, **keys)
        made._number = lambda name, value: Numbers(CPU)(name, value)  # a new tensor for each step
        return made

    found = distances(plain, partial(replayed, name, **keys), take_one, steps=WARM_UP + 3)
    print(name, schedule, described(found))
    assert not disagreements(found)
    found = distances(plain, frozen, take_one, steps=WARM_UP + 3)
    print("with frozen numbers", described(found))
    assert {"weights", "average"} <= set(disagreements(found))


def test_a_batch_that_lacks_images_is_not_captured() -> None:
    seen: list[tuple[int, int]] = []

    def work(images: Tensor, targets: Tensor) -> Tensor:
        seen.append((len(images), images.data_ptr()))
        return images.float().sum() + targets.sum()

    graphs = Graphs(work, device=CPU)
    losses = [
        graphs.step(torch.full((size, 3, 2, 2), index), torch.zeros(size), kind=None)
        for index, size in enumerate([4, 4, 3, 4, 3, 4, 3, 3, 4])
    ]
    assert [float(loss) for loss in losses] == [
        12.0 * index * size for index, size in enumerate([4, 4, 3, 4, 3, 4, 3, 3, 4])
    ]
    assert graphs.captured == 1
    assert len({place for size, place in seen if size == 4}) == 1


def test_parts_of_a_batch_are_taken_without_a_graph() -> None:
    """As after the memory ran out: a graph holds a step in one part."""
    plain, made = trainer(), replayed()
    for each in (plain, made):
        take(each)
        for index in range(2):
            pixels, labels = batch(12)
            place = (1, index)
            each.step(pixels, labels, index=index, place=place, progress=0.4, parts=3)
    expected = state_of(plain)
    for part, found in state_of(made).items():
        assert torch.equal(found, expected[part]), part


def test_a_whole_run_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs, validations and saved states, on static inputs: the CPU's refusal set aside."""
    monkeypatch.setattr("mobilette.workflows.train.check_machine", lambda *_: None)
    images = divided(tmp_path / "images", train=20, val=6)
    keys: dict[str, Any] = {"batch_size": 8, "epochs": 3, "frozen_epochs": 1, "precision": "fp32"}
    for name, graphs in (("plain", False), ("graphs", True)):
        train(
            images,
            model="mobilenet_v1",
            width_mult=0.25,
            resolution=16,
            start="scratch",
            overrides=keys | {"graphs": graphs},
            out=tmp_path / name,
        )
    assert same_weights(tmp_path / "plain", tmp_path / "graphs")


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_state_is_resumed_with_graphs_or_without(tmp_path: Path, schedule: str) -> None:
    """Its tensors replace those that were captured: the graphs begin anew."""
    keys: dict[str, Any] = {"schedule": schedule, "lr": 0.1}
    made = replayed(**keys)
    take(made)
    state = tmp_path / "last.pt"
    state.write_bytes(state_bytes(made, Progress()))
    whole = take(made, first=10)
    again = replayed(**keys)
    take(again, 5, first=40)
    assert again.graphs is not None
    assert again.graphs.captured == 1
    apply_state(read_state(state), again, where=state)
    assert again.graphs.captured == 0
    assert take(again, first=10) == whole
    plain = trainer(**keys)
    apply_state(read_state(state), plain, where=state)
    assert take(plain, 2, first=10) == pytest.approx(whole[:2], rel=1e-3)
    assert torch.equal(state_of(again)["weights"], state_of(made)["weights"])


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"device": CPU}, "only CUDA has graphs, cpu has none"),
        ({"precision": "fp16"}, "fp16 decides outside a graph"),
        ({"processes": 2}, "2 processes cannot exchange gradients in a graph"),
        ({"accumulate": 2}, "a step is one part, not accumulate=2"),
        ({"optimizer": "adamw", "schedule": "one_cycle"}, "adamw's first beta cannot vary"),
    ],
)
def test_what_cannot_be_captured_is_refused_in_one_line(keys: dict[str, Any], why: str) -> None:
    where: dict[str, Any] = {"device": torch.device("cuda"), "precision": "bf16", "processes": 1}
    where |= {name: keys[name] for name in where.keys() & keys.keys()}
    recipe = {name: value for name, value in keys.items() if name not in where}
    with pytest.raises(InputError, match=f"graphs=true: {why}.*; --set graphs=false") as caught:
        check_graphs(Recipe(graphs=True, **recipe), **where)
    assert "\n" not in str(caught.value)
    check_graphs(Recipe(**recipe), **where)
