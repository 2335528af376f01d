"""What is trained from what: the choices that are made before images are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.editing import adopt_norms
from mobilette.arch.layers import layers
from mobilette.arch.primitives import NormLayer
from mobilette.arch.scale import Form, Settings
from mobilette.data.images import ImageSet, suggest_resolution
from mobilette.data.preprocess import Preprocess, Resize, preset
from mobilette.formats.fitting import is_as_wide
from mobilette.formats.importing import holds_weights
from mobilette.model.directory import is_model
from mobilette.model.model import Model, Origin
from mobilette.progress import Advance, Remark
from mobilette.training.recipe import (
    DEFAULT,
    FOLDED,
    SLICED,
    TRANSFER,
    Recipe,
    load_recipe,
    override,
)
from mobilette.training.start import (
    DEFAULT_MODEL,
    automatic_start,
    choose_arch,
    read_start,
)

# Networks without batch norm learnt at these: VGG its authors' (arXiv 1409.1556, section 3.1) with
# SGD, SqueezeNet ours with AdamW (docs/log.md: with SGD at 0.05 all its answers became the same).
NORMLESS_RATE = {"sgd": 0.01, "adamw": 0.001}


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A network to train, from which weights, how, and how its images are prepared."""

    arch: Arch
    origin: Origin
    start: Model | None
    recipe: Recipe
    preprocess: Preprocess


def make_plan(
    images: ImageSet,
    *,
    model: str | None,
    width_mult: float | None,
    resolution: int | None,
    form: Form | None,
    in_channels: int | None,
    preprocess: str | None,
    resize: Resize | None,
    recipe: str | Path | Recipe | None,
    overrides: Mapping[str, object] | None,
    start: str | Path | Model,
    report: Advance,
    remark: Remark,
) -> Plan:
    """Return what `mobilette.workflows.train.train`, whose arguments these are, will do.

    Raises:
        InputError: a value is wrong, or the initial weights cannot be had or made to fit.
    """
    if recipe is not None:  # a wrong one is told before weights are downloaded
        _read_recipe(recipe, overrides)
    source = read_start(
        start,
        model=model,
        width_mult=width_mult,
        report=report,
        resolution=resolution,
        form=form,
        preprocess=preprocess,
    )
    settings = Settings(
        width_mult=1.0 if width_mult is None else width_mult,
        resolution=_resolution(resolution, source, start, images),
        num_classes=len(images.classes),
        in_channels=_in_channels(in_channels, source),
        form=form,
    )
    of_file = (
        not isinstance(start, Model) and not is_model(Path(start)) and holds_weights(Path(start))
    )
    if source is not None and of_file:  # what was said is the file's, and read with it
        model = width_mult = preprocess = None
    name = model or DEFAULT_MODEL
    width: float | None = settings.width_mult
    if source is not None:
        arch = choose_arch(source, settings, model=model, width_mult=width_mult)
        name = model or source.arch.name
        if width_mult is None and name == source.arch.name:
            width = source.origin.width_mult
    else:
        arch = get_arch(name, settings)
        if str(start) == "auto" and images.name != "digits" and settings.is_full:
            source = automatic_start(
                name, width_mult=settings.width_mult, report=report, remark=remark
            )
            if source is not None:
                arch = choose_arch(source, settings, model=name, width_mult=settings.width_mult)
    chosen = _read_recipe(recipe or _usual_recipe(source, arch), overrides)
    if source is None and chosen.lr > NORMLESS_RATE[chosen.optimizer] and not _has_norms(arch):
        remark(
            f"{arch.name} has no batch norm and may learn nothing at a rate of {chosen.lr:g}; try "
            f"--set optimizer=adamw --lr {NORMLESS_RATE['adamw']:g}"
            + (f", or {arch.name}_bn" if f"{arch.name}_bn" in list_models() else "")
        )
    return Plan(
        arch=arch,
        origin=Origin(name=name, width_mult=width, form=form),
        start=source,
        recipe=chosen,
        preprocess=_preprocess(source, preprocess, resize, arch.in_channels),
    )


def _has_norms(arch: Arch) -> bool:
    return any(isinstance(layer, NormLayer) for layer in layers(arch))


def _read_recipe(recipe: str | Path | Recipe, overrides: Mapping[str, object] | None) -> Recipe:
    if isinstance(recipe, Recipe):
        return override(recipe, overrides or {})
    return load_recipe(recipe, overrides=overrides)


def _resolution(
    asked: int | None, source: Model | None, start: str | Path | Model, images: ImageSet
) -> int:
    if asked is not None:
        return asked
    if source is not None and (isinstance(start, Model) or Path(start).exists()):
        return source.arch.resolution
    return suggest_resolution(images)


def _in_channels(asked: int | None, source: Model | None) -> int:
    if asked is not None:
        return asked
    return 3 if source is None else source.arch.in_channels


def _usual_recipe(source: Model | None, arch: Arch) -> str:
    if source is None:
        return DEFAULT
    if not is_as_wide(source.arch, arch):
        return SLICED
    return FOLDED if adopt_norms(source.arch, arch) != source.arch else TRANSFER


def _preprocess(
    source: Model | None, name: str | None, resize: Resize | None, in_channels: int
) -> Preprocess:
    """Return how images are prepared: as asked, else as the initial weights had them."""
    if name is None and source is not None:
        values = source.preprocess.with_channels(in_channels)
        return values if resize is None else replace(values, resize=resize)
    return preset(name or "torch", in_channels=in_channels, resize=resize or "crop")
