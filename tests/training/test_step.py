"""One step of training: what reaches the network and the loss, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.errors import InputError
from mobilette.formats.pretrained import create_model
from mobilette.nn.network import Network
from mobilette.training.environment import Precision
from mobilette.training.loss import Loss
from mobilette.training.recipe import Recipe
from mobilette.training.state import Progress, apply_state, read_state, state_bytes
from mobilette.training.step import Trainer

PLAIN: dict[str, Any] = {"crop": "none", "flip": False, "warmup": 0.0, "label_smoothing": 0.0}


def network(name: str = "mobilenet_v1", *, resolution: int = 16, channels: int = 3) -> Network:
    torch.manual_seed(0)
    return create_model(
        name, width_mult=0.25, resolution=resolution, num_classes=4, in_channels=channels
    )


def trainer(
    net: Network | None = None,
    *,
    precision: Precision = "fp32",
    loss: type[Loss] = Loss,
    teacher: Any = None,
    **keys: Any,
) -> Trainer:
    net = net or network()
    recipe = Recipe(**(PLAIN | keys))
    normalise = Normalise(preset("torch", in_channels=net.arch.in_channels))
    made = Trainer(
        net,
        normalise=normalise,
        recipe=recipe,
        precision=precision,
        loss=loss(recipe, multi_label=False),
        teacher=teacher,
    )
    made.begin_epoch(0)
    return made


def batch(count: int = 16, *, side: int = 16, channels: int = 3) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, channels, side, side), generator=drawn)
    return pixels.to(torch.uint8), torch.randint(0, 4, (count,), generator=drawn)


def steps(
    made: Trainer, count: int = 1, *, pixels: tuple[Tensor, Tensor], parts: int = 1
) -> Tensor:
    for index in range(count):
        place, progress = (0, index), index / max(count, 10)
        loss = made.step(*pixels, index=index, place=place, progress=progress, parts=parts)
    return loss


def weights(net: Network) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def without_dropout(net: Network) -> Network:
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net


# Parts of a batch


@settings(max_examples=12)
@given(st.integers(8, 17), st.integers(2, 4))
def test_parts_add_up_to_the_batch_where_no_batch_norm_looks(count: int, parts: int) -> None:
    """SqueezeNet 1.1 has none. Equal to rounding, also where the parts are not equally large."""
    trained = []
    for number in (1, parts):
        net = without_dropout(network("squeezenet1_1", resolution=32))
        made = trainer(net, momentum=0.0, lr=0.1, weight_decay=0.0)
        before = weights(net)
        loss = steps(made, pixels=batch(count, side=32), parts=number)
        trained.append((loss, weights(net) - before))
    torch.testing.assert_close(trained[0][0], trained[1][0], rtol=1e-5, atol=1e-6)
    largest = trained[0][1].abs().max().item()
    assert largest > 1e-4
    torch.testing.assert_close(trained[0][1], trained[1][1], rtol=1e-4, atol=1e-4 * largest)


def test_more_parts_than_images_still_train() -> None:
    made = trainer(without_dropout(network("squeezenet1_1", resolution=32)))
    assert steps(made, pixels=batch(3, side=32), parts=8).isfinite()


def test_each_part_draws_numbers_of_its_own() -> None:
    """Two parts of the same images are augmented differently."""
    seen: list[Tensor] = []
    made = trainer(crop="pad", flip=True)
    made.network.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    pixels, labels = batch(8)
    steps(made, pixels=(pixels.repeat(2, 1, 1, 1), labels.repeat(2)), parts=2)
    assert not torch.equal(*seen)


# What reaches the network and the loss


class Recorded(Loss):
    """A loss that keeps what it was given."""

    def __call__(self, logits: Tensor, targets: Tensor, taught: Tensor | None = None) -> Tensor:
        self.seen = targets.clone()
        return super().__call__(logits, targets, taught)


@pytest.mark.parametrize("keys", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_labels_reach_the_loss_in_the_parts_of_their_images(keys: dict[str, Any]) -> None:
    """Images of one colour a class: what is left of a colour is what is left of its label."""
    labels = torch.arange(16) % 4
    pixels = (labels * 80).to(torch.uint8)[:, None, None, None].expand(16, 3, 16, 16).clone()
    seen: list[Tensor] = []
    made = trainer(loss=Recorded, **keys)
    made.network.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    steps(made, pixels=(pixels, labels))
    assert isinstance(made.loss, Recorded)
    targets = made.loss.seen
    assert targets.shape == (16, 4)
    torch.testing.assert_close(targets.sum(1), torch.ones(16))
    assert (targets.max(1).values < 1).sum() >= 8
    values = Normalise(preset("torch"))(
        torch.arange(4).mul(80.0).view(4, 1, 1, 1).expand(4, 3, 1, 1)
    )
    expected = targets @ values[:, :, 0, 0]
    torch.testing.assert_close(seen[0].mean((2, 3)), expected, rtol=1e-4, atol=1e-4)


def test_labels_that_are_not_mixed_stay_indices() -> None:
    made = trainer(loss=Recorded)
    pixels, labels = batch()
    steps(made, pixels=(pixels, labels))
    assert isinstance(made.loss, Recorded)
    assert torch.equal(made.loss.seen, labels)


def test_small_images_first_and_full_ones_last() -> None:
    sides: list[Sequence[int]] = []
    made = trainer(network(resolution=64), start_resolution=0.5)
    made.network.register_forward_pre_hook(lambda _, args: sides.append(args[0].shape[2:]))
    pixels, labels = batch(8, side=64)
    for index, progress in enumerate((0.0, 0.2, 0.4, 0.6, 0.75, 1.0)):
        made.step(pixels, labels, index=index, place=(0, index), progress=progress)
    assert sides == [(side, side) for side in (32, 40, 48, 56, 64, 64)]


def test_the_teacher_sees_the_images_that_the_pupil_sees() -> None:
    seen: list[Tensor] = []

    def teacher(pixels: Tensor) -> Tensor:
        seen.append(pixels.clone())
        return torch.zeros(len(pixels), 4)

    made = trainer(teacher=teacher, crop="pad", flip=True, mixup=1.0, start_resolution=0.5)
    made.network.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    steps(made, pixels=batch())
    torch.testing.assert_close(made.normalise(seen[0]), seen[1])


def test_a_start_too_small_for_the_network() -> None:
    with pytest.raises(InputError, match=r"start_resolution 0\.25: rows\.11: a 2x2 window"):
        trainer(network("vgg11", resolution=96), start_resolution=0.25)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation_at_once_with_grey_images_too(channels: int) -> None:
    made = trainer(
        network(resolution=32, channels=channels),
        crop="resized",
        flip=True,
        colour_jitter=0.4,
        randaugment=9.0,
        erasing=0.5,
        mixup=0.2,
        cutmix=1.0,
        start_resolution=0.5,
    )
    assert steps(made, 3, pixels=batch(side=32, channels=channels)).isfinite()


# What comes of it


@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer": "sgd", "lr": 0.1},
        {"optimizer": "adamw", "lr": 0.01},
        {"schedule": "one_cycle", "lr": 0.2, "warmup": 0.3},
        {"precision": "bf16", "lr": 0.1},
    ],
)
def test_a_batch_is_learnt_by_heart(keys: dict[str, Any]) -> None:
    made = trainer(**keys)
    pixels = batch()
    first = steps(made, pixels=pixels)
    assert steps(made, 25, pixels=pixels) < 0.5 * first
    assert all(parameter.dtype == torch.float32 for parameter in made.network.parameters())


def test_the_one_cycle_moves_rate_and_momentum() -> None:
    for optimizer in ("sgd", "adamw"):
        made = trainer(optimizer=optimizer, schedule="one_cycle", warmup=0.5, momentum=0.95)
        pixels, labels = batch(4)
        found = []
        for progress in (0.0, 0.5, 1.0):
            made.step(pixels, labels, index=0, place=(0, 0), progress=progress)
            (group, *_) = made.optimizer.param_groups
            found.append(
                (group["lr"], group["betas"][0] if "betas" in group else group["momentum"])
            )
        assert found == [
            (pytest.approx(0.05 / 25), pytest.approx(0.95)),
            (pytest.approx(0.05), pytest.approx(0.85)),
            (pytest.approx(0.05 / 25e4), pytest.approx(0.95)),
        ]


def test_bf16_is_close_to_fp32() -> None:
    """In a shallow network: through many batch norms rounding grows, new as the weights are."""
    moved = []
    for precision in ("fp32", "bf16"):
        net = network("resnet8")
        before = weights(net)
        steps(trainer(net, precision=precision), pixels=batch())
        moved.append(weights(net) - before)
    exact, rounded = moved
    assert not torch.equal(exact, rounded)
    assert nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.99


def test_fp16_scales_its_loss_and_a_state_keeps_the_scale(tmp_path: Path) -> None:
    """On the CPU, where only tests train in fp16: the scaler is the same on a GPU."""
    made = trainer(precision="fp16")
    before = weights(made.network)
    made.scaler.load_state_dict(made.scaler.state_dict() | {"scale": 2.0**100})
    steps(made, pixels=batch())  # gradients overflow: no step is taken, the scale is halved
    assert torch.equal(weights(made.network), before)
    assert made.scaler.get_scale() == 2.0**99
    made.scaler.load_state_dict(made.scaler.state_dict() | {"scale": 1024.0, "_growth_tracker": 7})
    steps(made, pixels=batch())
    assert weights(made.network).isfinite().all()
    assert not torch.equal(weights(made.network), before)
    state = tmp_path / "last.pt"
    state.write_bytes(state_bytes(made, Progress()))
    again = trainer(precision="fp16")
    apply_state(read_state(state), again, where=state)
    assert again.scaler.state_dict() == made.scaler.state_dict()
    for each in (made, again):
        steps(each, pixels=batch())
    assert torch.equal(weights(made.network), weights(again.network))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own
def test_a_compiled_network_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As captured and differentiated by torch.compile; Inductor's code would take half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    taken = []
    for how in ("never", "always"):
        made = trainer(network("resnet8", resolution=32), compile=how, lr=0.01)
        before = weights(made.network)
        loss = steps(made, pixels=batch(8, side=32))
        taken.append((loss, weights(made.network) - before))
    torch.testing.assert_close(*(loss for loss, _ in taken), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*(step for _, step in taken), rtol=1e-3, atol=1e-6)


def test_the_average_follows_every_step() -> None:
    """d is (1 + t) / (10 + t) until the recipe's is smaller; written out for three steps."""
    made = trainer(ema_decay=0.15)
    expected = weights(made.network)
    pixels = batch()
    for index in range(3):
        made.step(*pixels, index=index, place=(0, index), progress=0.0)
        decay = min(0.15, (1 + index) / (10 + index))
        expected = decay * expected + (1 - decay) * weights(made.network)
    torch.testing.assert_close(weights(made.average.network), expected)


def test_frozen_epochs_train_the_head_alone() -> None:
    made = trainer(frozen_epochs=1)
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    steps(made, pixels=batch())
    changed = {n for n, t in made.network.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}
    made.begin_epoch(1)
    steps(made, pixels=batch())
    changed = {n for n, t in made.network.named_parameters() if not torch.equal(t, before[n])}
    assert changed == {name for name, _ in made.network.named_parameters()}
