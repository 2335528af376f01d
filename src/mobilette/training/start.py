"""Initial weights: where they come from, and how they are fitted to the network to train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.editing import adopt_details, adopt_norms
from mobilette.arch.scale import Form, Resolution, Settings
from mobilette.data.dataset import Dataset
from mobilette.errors import InputError
from mobilette.formats.fitting import check_fits, fit_weights
from mobilette.formats.importing import holds_weights, import_weights
from mobilette.formats.pretrained import choose_published, load_published
from mobilette.formats.published import find_published
from mobilette.model.directory import is_model
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.progress import Advance, Remark
from mobilette.training.optimiser import classifier, scale_classifier
from mobilette.training.step import Trainer
from mobilette.training.validation import images_to_measure

DEFAULT_MODEL = "mobilenet_v2"
EXPECTED = (
    "a run directory or published weights such as timm/mobilenetv2_100.ra_in1k are expected "
    "('mobilette weights list' lists them; 'mobilette weights import' turns a file into a run)"
)


def read_start(
    start: str | Path | Model,
    *,
    model: str | None,
    width_mult: float | None,
    report: Advance | None,
    resolution: Resolution | None = None,
    form: Form | None = None,
    preprocess: str | None = None,
) -> Model | None:
    """Return the initial weights that ``start`` names; ``None`` for ``scratch`` and ``auto``.

    ``start`` is a model, a run directory, a file that `import_weights` reads, or the name of
    published weights (`find_published`). ``model`` and ``width_mult`` describe the network to
    train or, for a file, the one in it; ``resolution`` (pixels), ``form`` and ``preprocess`` are
    for files that do not contain them. ``report`` is called during a download.

    Raises:
        InputError: no such run or weights exist, or they lack information.
    """
    if isinstance(start, Model):
        return start
    if str(start) in ("scratch", "auto"):
        return None
    if is_model(Path(start)):
        return Model.load(start)
    if holds_weights(Path(start)):
        if model is None:
            raise InputError(f"--from {start}: say which network is in the file, with --model")
        read = import_weights(
            Path(start),
            model=model,
            width_mult=width_mult or 1.0,
            resolution=resolution,
            form=form,
            preprocess=preprocess,
        )
        return replace(read, origin=replace(read.origin, source=str(Path(start).resolve())))
    if not names_weights(start):
        raise InputError(f"--from {str(start)!r}: scratch, auto, {EXPECTED}")
    name = str(start)
    if model is None and name.partition(".")[2]:
        return load_published(find_published(name), report=report)
    chosen = choose_published(name, model=model or DEFAULT_MODEL, width_mult=width_mult or 1.0)
    return load_published(chosen, report=report)


def names_weights(start: str | Path) -> bool:
    """Whether ``start`` is a run directory or the name of published weights."""
    if Path(start).exists():
        return is_model(Path(start))
    return str(start).partition("/")[0] in ("torchvision", "timm")


def automatic_start(
    model: str, *, width_mult: float, report: Advance | None, remark: Remark
) -> Model | None:
    """Return the best published weights for ``model``, or remark why there are none."""
    try:
        chosen = choose_published("auto", model=model, width_mult=width_mult)
        return load_published(chosen, report=report, optional=True)
    except InputError as error:
        remark(f"starts from scratch: {error}")
        return None


def choose_arch(
    start: Model, settings: Settings, *, model: str | None, width_mult: float | None
) -> Arch:
    """Return the network to train from ``start``; `InputError` if the weights cannot fit it."""
    if model is None and width_mult is None and settings.form is None:
        # Folded batch norms come back.
        known = start.arch.name in list_models()
        usual = get_arch(start.arch.name, Settings(form="full")) if known else start.arch
        arch = replace(
            adopt_norms(start.arch, usual),
            resolution=settings.resolution,
            in_channels=settings.in_channels,
        ).with_classes(settings.num_classes)
    else:
        if width_mult is None and model in (None, start.arch.name):
            settings = replace(settings, width_mult=start.origin.width_mult or 1.0)
        arch = adopt_details(get_arch(model or start.arch.name, settings), start.arch)
    try:
        check_fits(start.arch, arch)
    except InputError as error:
        raise InputError(f"{start.origin.source}: {error}") from None
    return arch


# Standard deviation of a new classifier's first logits.
_MOST_SPREAD = 1.0


def load_start(start: Model, trainer: Trainer, dataset: Dataset, *, keep_classifier: bool) -> None:
    """Put the weights of ``start`` into ``trainer``, fitted to its network.

    Batch norm statistics are measured on training images where needed, and the classifier's
    learning rate is adapted to its inputs (`scale_classifier`).
    """
    network = trainer.network

    def batches() -> Iterator[Tensor]:
        return (
            batch.cpu() for batch in images_to_measure(trainer, dataset.splits["train"], epoch=0)
        )

    fitted = fit_weights(
        start.arch, start.weights, network.arch, keep_classifier=keep_classifier, batches=batches
    )
    network.load_state_dict(fitted, strict=False)
    average = trainer.average.network
    average.load_state_dict(network.state_dict())
    squared = _squared_length(average, next(iter(batches())))
    if not keep_classifier:
        shrink_classifier(classifier(network), squared)
        average.load_state_dict(network.state_dict())
    if dataset.multi_label:  # the loss is a mean over the classes
        squared /= len(dataset.classes)
    scale_classifier(trainer.optimizer, network, trainer.recipe, squared=squared)


@torch.no_grad()
def shrink_classifier(drawn: nn.Module, squared: float) -> None:
    """Shrink a classifier's random weights if its first answers would be overconfident.

    Without batch norm, SqueezeNet would start at a loss of 160; guessing has 1.6.
    """
    for name, parameter in drawn.named_parameters():
        spread = float(parameter.std()) * squared**0.5 if name.endswith("weight") else 0.0
        if spread > _MOST_SPREAD:
            parameter.mul_(_MOST_SPREAD / spread)


@torch.no_grad()
def _squared_length(network: Network, images: Tensor) -> float:
    """Return the mean squared length of the vectors that the classifier reads."""
    features = network.with_features(images.to(next(network.parameters()).device))[1]
    return float(features.square().sum(1).mean())
