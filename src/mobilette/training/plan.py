"""What to train, from which weights and how: decided before images are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import JSON, get_arch, list_models, resolve_name
from mobilette.arch.editing import adopt_norms
from mobilette.arch.layers import layers
from mobilette.arch.primitives import NormLayer
from mobilette.arch.scale import Form, Resolution, Settings
from mobilette.data.images import ImageSet, suggest_resolution
from mobilette.data.preprocess import Preprocess, Resize, preset
from mobilette.formats.fitting import is_as_wide
from mobilette.formats.importing import holds_weights
from mobilette.model.class_matching import select_classes
from mobilette.model.classes import ClassLabel
from mobilette.model.directory import is_model
from mobilette.model.model import Model, Origin
from mobilette.progress import Remark, Reporter
from mobilette.training.recipe import (
    DEFAULT,
    FOLDED,
    SLICED,
    TRANSFER,
    Recipe,
    load_recipe,
)
from mobilette.training.start import (
    DEFAULT_MODEL,
    automatic_start,
    choose_arch,
    read_start,
)

# Rates at which networks without batch norm learn: VGG with SGD (arXiv 1409.1556, section 3.1),
# SqueezeNet with AdamW (docs/log.md; with SGD at 0.05 it gives one answer to everything).
NORMLESS_RATE = {"sgd": 0.01, "adamw": 0.001}
# At which networks learn that normalise pooled features (MobileNet V4): at 0.05 the classifier,
# which reads 1,280 features of unit variance, overshoots (docs/log.md).
NORMED_HEAD_RATE = 0.02


@dataclass(frozen=True)
class NetworkChoice:
    """The network options of `mobilette.train`; `make_plan` fills in the rest."""

    model: str | None = None
    width_mult: float | None = None
    resolution: Resolution | None = None
    form: Form | None = None
    in_channels: int | None = None
    preprocess: str | None = None
    resize: Resize | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A network to train, its initial weights, recipe and preprocessing.

    ``start`` is ``None`` for random weights; ``keeps_classifier``: its classifier has exactly these
    classes.
    """

    arch: Arch
    origin: Origin
    start: Model | None
    keeps_classifier: bool
    recipe: Recipe
    preprocess: Preprocess
    classes: tuple[ClassLabel, ...]

    @property
    def is_cut(self) -> bool:
        """Whether the initial weights are of a wider network."""
        return self.start is not None and not is_as_wide(self.start.arch, self.arch)


def make_plan(
    images: ImageSet,
    choice: NetworkChoice,
    *,
    recipe: str | Path | Recipe | None,
    overrides: Mapping[str, object],
    start: str | Path | Model,
    reporter: Reporter,
) -> Plan:
    """Return the plan; `InputError` if a value is wrong, or the weights are missing or misfit."""
    if recipe is not None:  # a wrong one is refused before weights are downloaded
        load_recipe(recipe, overrides=overrides)
    if choice.model is not None:
        model, width_mult = resolve_name(choice.model, choice.width_mult)
        choice = replace(choice, model=model, width_mult=width_mult)
    source = read_start(
        start,
        model=choice.model,
        width_mult=choice.width_mult,
        report=reporter.download,
        resolution=choice.resolution,
        form=choice.form,
        preprocess=choice.preprocess,
    )
    settings = Settings(
        width_mult=1.0 if choice.width_mult is None else choice.width_mult,
        resolution=_resolution(choice.resolution, source, start, images),
        num_classes=len(images.classes),
        in_channels=choice.in_channels or (source.arch.in_channels if source else 3),
        form=choice.form,
    )
    if not isinstance(start, Model) and not is_model(Path(start)) and holds_weights(Path(start)):
        # The model options describe the file and were used to read it.
        choice = replace(choice, model=None, width_mult=None, preprocess=None)
    source, arch, origin = _choose_network(images, choice, settings, source, start, reporter)
    if recipe is None and source is None and has_normed_head(arch):
        overrides = {"lr": NORMED_HEAD_RATE} | dict(overrides)
    chosen = load_recipe(recipe or _default_recipe(source, arch), overrides=overrides)
    if source is None:
        _warn_without_norms(arch, chosen, reporter.remark)
    known = _with_known_classes(source, images, reporter.remark)
    return Plan(
        arch=arch,
        origin=origin,
        start=known or source,
        keeps_classifier=known is not None,
        recipe=chosen,
        preprocess=_preprocess(source, choice.preprocess, choice.resize, arch.in_channels),
        classes=known.classes
        if known
        else tuple(ClassLabel(id=name, name=name) for name in images.classes),
    )


def _choose_network(
    images: ImageSet,
    choice: NetworkChoice,
    settings: Settings,
    source: Model | None,
    start: str | Path | Model,
    reporter: Reporter,
) -> tuple[Model | None, Arch, Origin]:
    """Return the initial weights, published ones if ``auto`` finds any, and the network."""
    model, width_mult = choice.model, choice.width_mult
    name, width = model or DEFAULT_MODEL, settings.width_mult
    is_own = name.endswith(JSON)
    arch = None
    if source is None:
        arch = get_arch(name, settings)
        if str(start) == "auto" and not is_own and images.name != "digits" and settings.is_full:
            source = automatic_start(
                name, width_mult=width, report=reporter.download, remark=reporter.remark
            )
            model, width_mult = name, width
    else:
        name = model or source.arch.name
    known_width: float | None = width
    if source is not None:
        arch = choose_arch(source, settings, model=model, width_mult=width_mult)
        if width_mult is None and name == source.arch.name:
            known_width = source.origin.width_mult
    assert arch is not None
    if is_own:
        return source, arch, Origin(name=arch.name)
    return source, arch, Origin(name=name, width_mult=known_width, form=choice.form)


def _with_known_classes(source: Model | None, images: ImageSet, remark: Remark) -> Model | None:
    """Return the initial weights with a classifier for these classes, if they have one."""
    if source is None or source.multi_label != images.multi_label:
        return None
    known = select_classes(source, images.classes)
    if known is not None:
        remark("the initial weights know these classes: their classifier is kept")
    elif source.has_classifier:
        remark(
            f"the initial weights know {source.arch.num_classes:,} other classes: their classifier "
            "is left out, a new one begins"
        )
    return known


def has_normed_head(arch: Arch) -> bool:
    """Return whether the classifier reads features that a batch norm scaled after pooling."""
    return any(isinstance(layer, NormLayer) and layer.name[:5] == "head." for layer in layers(arch))


def _warn_without_norms(arch: Arch, recipe: Recipe, remark: Remark) -> None:
    has_norms = any(isinstance(layer, NormLayer) for layer in layers(arch))
    if recipe.lr > NORMLESS_RATE[recipe.optimizer] and not has_norms:
        remark(
            f"{arch.name} has no batch norm and may not learn at a rate of {recipe.lr:g}; try "
            f"--set optimizer=adamw --lr {NORMLESS_RATE['adamw']:g}"
            + (f", or {arch.name}_bn" if f"{arch.name}_bn" in list_models() else "")
        )


def _resolution(
    asked: Resolution | None, source: Model | None, start: str | Path | Model, images: ImageSet
) -> Resolution:
    if asked is not None:
        return asked
    if source is not None and (isinstance(start, Model) or Path(start).exists()):
        return source.arch.resolution
    return suggest_resolution(images)


def _default_recipe(source: Model | None, arch: Arch) -> str:
    if source is None:
        return DEFAULT
    if not is_as_wide(source.arch, arch):
        return SLICED
    return FOLDED if adopt_norms(source.arch, arch) != source.arch else TRANSFER


def _preprocess(
    source: Model | None, name: str | None, resize: Resize | None, in_channels: int
) -> Preprocess:
    """Return the preprocessing: as asked, else that of the initial weights."""
    if name is None and source is not None:
        values = source.preprocess.with_channels(in_channels)
        return values if resize is None else replace(values, resize=resize)
    return preset(name or "torch", in_channels=in_channels, resize=resize or "crop")
