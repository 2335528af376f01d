"""Initial weights: of another run, or published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import adopt_details, adopt_norms, convs
from mobilette.arch.scale import Form, Settings
from mobilette.counting.candidates import USUAL_WIDTHS
from mobilette.counting.published import published_widths
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError
from mobilette.formats.fitting import CLASSIFIER, check_fits
from mobilette.formats.imported import preprocess_of
from mobilette.formats.importing import holds_weights, import_weights
from mobilette.formats.pretrained import choose_published, load_published
from mobilette.formats.published import PublishedWeights, find_published
from mobilette.model.class_matching import BY_ORDER, match_classes
from mobilette.model.classes import ClassLabel
from mobilette.progress import Advance, Remark
from mobilette.run.directory import is_run, open_run
from mobilette.run.imported import name_of_weights

DEFAULT_MODEL = "mobilenet_v2"
EXPECTED = (
    "a run directory or published weights such as timm/mobilenetv2_100.ra_in1k are expected "
    "('mobilette weights list'; 'mobilette weights import' makes a run of a file)"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Weights that training starts from.

    Attributes:
        name: for people and for environment.json.
        classes: of the weights; ``None`` where only their number is known.
        multi_label: whether each class is answered for by itself.
    """

    name: str
    arch: Arch
    weights: dict[str, Tensor]
    preprocess: Preprocess
    classes: tuple[ClassLabel, ...] | None
    multi_label: bool = False

    def of_classes(self, ids: Sequence[str]) -> Start | None:
        """Return these weights with a classifier for ``ids`` alone, in this order.

        ``None`` where one of them is no class of the weights, by name or by synset.
        """
        if self.classes is None:
            return None
        numbers = [str(index) for index in range(len(self.classes))]
        if [label.id for label in self.classes] == numbers and list(ids) != numbers:
            return None  # a number is no name
        try:
            indices, matched_by = match_classes(ids, self.classes, where=self.name)
        except InputError:
            return None
        if matched_by == BY_ORDER:
            return None
        rows = torch.tensor(indices)
        return replace(
            self,
            arch=self.arch.with_classes(len(ids)),
            weights={
                name: tensor[rows] if name.startswith(CLASSIFIER) else tensor
                for name, tensor in self.weights.items()
            },
            classes=tuple(
                ClassLabel(id=own, name=self.classes[index].name)
                for own, index in zip(ids, indices, strict=True)
            ),
        )


def read_start(
    start: str | Path,
    *,
    model: str | None,
    width_mult: float | None,
    report: Advance | None,
    resolution: int | None = None,
    form: Form | None = None,
    preprocess: str | None = None,
) -> Start | None:
    """Return the weights that ``start`` means; ``None`` for ``scratch`` and ``auto``.

    Args:
        start: a run directory, a file that `import_weights` reads, or published weights by name
            (`find_published`).
        model: the network to train, if it was said; of a file it is the network in it.
        width_mult: its width multiplier, if it was said.
        report: is told the progress of a download.
        resolution: in pixels, for a file that does not tell.
        form: ``small`` or ``full``, likewise.
        preprocess: a preset, for a file that does not tell how images are prepared.

    Raises:
        InputError: there is no such run or no such weights, or these cannot be had or do not tell
            enough.
    """
    if str(start) in ("scratch", "auto"):
        return None
    if is_run(Path(start)):
        run = open_run(start)
        return Start(
            name=name_of_weights(run),
            arch=run.arch,
            weights=run.read_weights(),
            preprocess=run.preprocess,
            classes=run.classes if run.has_classifier else None,
            multi_label=run.multi_label,
        )
    if holds_weights(Path(start)):
        return _from_file(
            Path(start),
            model=model,
            width_mult=width_mult or 1.0,
            resolution=resolution,
            form=form,
            preprocess=preprocess,
        )
    if not names_weights(start):
        raise InputError(f"--from {str(start)!r}: scratch, auto, {EXPECTED}")
    name = str(start)
    if model is None and name.partition(".")[2]:
        return _published(find_published(name), report)
    chosen = choose_published(name, model=model or DEFAULT_MODEL, width_mult=width_mult or 1.0)
    return _published(chosen, report)


def _from_file(
    path: Path,
    *,
    model: str | None,
    width_mult: float,
    resolution: int | None,
    form: Form | None,
    preprocess: str | None,
) -> Start:
    if model is None:
        raise InputError(f"--from {path}: say which network is in the file, with --model")
    imported = import_weights(
        path, model=model, width_mult=width_mult, resolution=resolution, form=form
    )
    return Start(
        name=str(path.resolve()),
        arch=imported.arch,
        weights=imported.weights,
        preprocess=preprocess_of(imported, preprocess, resize=None, where=f"--from {path}"),
        classes=None,
        multi_label=imported.multi_label,
    )


def names_weights(start: str | Path) -> bool:
    """Whether ``start`` is a run directory, or named as published weights are."""
    library = str(start).partition("/")[0]
    return is_run(Path(start)) or (library in ("torchvision", "timm") and not Path(start).exists())


def automatic_start(
    model: str, *, width_mult: float, report: Advance | None, remark: Remark
) -> Start | None:
    """Return the best published weights for ``model`` that can be had; else say why there are none.

    Args:
        model: the network to train.
        width_mult: its width multiplier.
        report: is told the progress of a download.
        remark: is told the reason.
    """
    try:
        chosen = choose_published("auto", model=model, width_mult=width_mult)
        return _published(chosen, report, hurried=True)
    except InputError as error:
        remark(f"starts from scratch: {error}")
        return None


def _published(
    weights: PublishedWeights, report: Advance | None, *, hurried: bool = False
) -> Start:
    imported = load_published(weights, report=report, hurried=hurried)
    return Start(
        name=weights.name,
        arch=imported.arch,
        weights=imported.weights,
        preprocess=weights.preprocess,
        classes=None,
    )


def choose_arch(
    start: Start, settings: Settings, *, model: str | None, width_mult: float | None
) -> Arch:
    """Return the network to train from ``start``.

    Args:
        start: the weights.
        settings: what was asked for.
        model: the network, if it was said.
        width_mult: its width multiplier, if it was said; otherwise that of the weights.

    Raises:
        InputError: the weights cannot be made to fit it.
    """
    if model is None and width_mult is None and settings.form is None:
        # With the batch norms that the catalogue's network has, if these were folded.
        usual = get_arch(start.arch.name, Settings(form="full"))
        arch = replace(
            adopt_norms(start.arch, usual),
            resolution=settings.resolution,
            in_channels=settings.in_channels,
        ).with_classes(settings.num_classes)
    else:
        if width_mult is None and model in (None, start.arch.name):
            settings = replace(settings, width_mult=_width_of(start.arch))
        arch = adopt_details(get_arch(model or start.arch.name, settings), start.arch)
    try:
        check_fits(start.arch, arch)
    except InputError as error:
        raise InputError(f"{start.name}: {error}") from None
    return arch


def _width_of(arch: Arch) -> float:
    """Return the usual width multiplier that gives ``arch`` its channels; 1 if none does."""
    channels = _channels(arch)
    forms: tuple[Form, ...] = ("full", "small")
    for width_mult in sorted({*USUAL_WIDTHS, *published_widths(arch.name)}):
        for form in forms:
            if (
                _channels(get_arch(arch.name, Settings(width_mult=width_mult, form=form)))
                == channels
            ):
                return width_mult
    return 1.0


def _channels(arch: Arch) -> dict[str, int]:
    """Return the channels of every convolution whose channels are not the classes."""
    named = convs(arch.with_classes(1)).items()
    return {name: conv.channels for name, conv in named}
