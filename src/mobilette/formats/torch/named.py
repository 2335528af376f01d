"""`import_state_dict`: weights under the names of torchvision, timm, transformers and others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import change_convs
from mobilette.arch.families.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from mobilette.arch.families.resnet import CIFAR_VARIANTS
from mobilette.arch.primitives import Shape
from mobilette.arch.scale import Form, Resolution, Settings
from mobilette.counting.published import published_widths
from mobilette.errors import InputError, nearest
from mobilette.formats.imported import NO_CLASSIFIER, Imported
from mobilette.formats.torch.in_order import InOrder, match_in_order
from mobilette.formats.torch.name_tables import (
    COUNTER,
    Source,
    first_weights,
    tensor_names,
    tensor_shapes,
)
from mobilette.formats.torch.names import OTHER_SOURCES, SOURCES, TIMM, TRANSFORMERS
from mobilette.formats.torch.placing import CLASSIFIER, Placed, place
from mobilette.formats.torch.state_dict import StateDict, read_state_dict

# torchvision and timm scale V3 differently.
V3 = {"mobilenet_v3_large": mobilenet_v3_large, "mobilenet_v3_small": mobilenet_v3_small}
WEIGHTS = (".weight", ".bias", ".running_mean", ".running_var")
CIFAR_RESOLUTION = 32
MOST_NAMES = 2000  # limit of names compared with a missing one
SMALL_FORM = "the small form has other strides than the weights were trained with"
TENSORFLOW_EPSILON, PYTORCH_EPSILON = 1e-3, 1e-5


def import_state_dict(
    path: str | Path,
    *,
    model: str,
    width_mult: float = 1.0,
    resolution: Resolution | None = None,
    form: Form | None = None,
    tensorflow: bool = False,
) -> Imported:
    """Read a state dict of ``model`` in any known project's names.

    Classes and input channels are taken from the file. Linear layers and 1x1 convolutions may
    replace each other; missing counters become 0. The network may have a prefix and its classifier
    another name (`place`); without a classifier, the returned network has one class of zeros. The
    file does not state the preprocessing.

    Args:
        path: a file in any format that `read_state_dict` supports.
        model: a name from `mobilette.list_models`.
        width_mult: the width multiplier.
        resolution: of the returned network; 224 by default, 32 for CIFAR's ResNets.
        form: ``small`` or ``full``; by default chosen by resolution.
        tensorflow: the weights are of one of timm's ``tf_`` networks, with TensorFlow's padding
            and epsilon, which names and shapes do not show.

    A file in which fewer than half of the names are a project's is matched by order and shapes
    (`mobilette.formats.torch.in_order`).

    Raises:
        InputError: the file cannot be read, or its tensors are not exactly the network's.
    """
    path = Path(path)
    if resolution is None:
        resolution = CIFAR_RESOLUTION if model in CIFAR_VARIANTS else Settings().resolution
    settings = Settings(width_mult=width_mult, resolution=resolution, form=form)
    arch = get_arch(model, settings)
    read = read_state_dict(path)
    placed = place(str(path), read.tensors, arch, (*SOURCES.values(), *OTHER_SOURCES))
    if placed is None or not _has_most_names(placed, arch):
        known = (source.name for source in SOURCES.values() if arch.name in source.tables)
        found = _in_order(path, read, settings, model)
        if isinstance(found, Imported):
            return found
        if placed is None:
            raise InputError(
                f"{path}: no tensor is named like {arch.name}'s in {', '.join(known)}; the first "
                f"is called {next(iter(read.tensors))!r:.80}{_seems_to_be(read.tensors)}; by "
                f"order and shapes, {found}"
            )
    tensors, source = placed.tensors, placed.source
    if tensorflow and source is not TIMM:
        raise InputError(
            f"{path}: {source.name}'s names; only timm's networks come from TensorFlow"
        )
    _check_names(path, placed, placed.adapt(arch))
    settings = _with_shapes(path, tensors, arch, source, settings)
    fitted = _fitting(path, placed, settings, model)
    names = tensor_names(fitted, source)
    weights = {
        ours: _as_ours(path, tensors.get(names[ours]), names[ours], shape)
        for ours, shape in tensor_shapes(fitted).items()
    }
    remarks = [*read.remarks, f"{source.name}'s names of {fitted.name}", *placed.remarks]
    if source is TRANSFORMERS:
        remarks.append("TensorFlow's padding and epsilon, the default in transformers")
    if not settings.is_full and source.name != "mobilette" and fitted.name not in CIFAR_VARIANTS:
        remarks.append(SMALL_FORM)
    return Imported(
        arch=_adapted(fitted, source, tensorflow=tensorflow),
        weights=weights,
        has_classifier=placed.has_classifier,
        tensors=len(read.tensors),
        unused=tuple(sorted([*placed.outside, *(tensors.keys() - set(names.values()))])),
        remarks=tuple(remarks),
    )


def _has_most_names(placed: Placed, arch: Arch) -> bool:
    names = _weight_names(arch, placed.source)
    return 2 * sum(name in placed.tensors for name in names) >= len(names)


def _in_order(path: Path, read: StateDict, settings: Settings, model: str) -> Imported | str:
    """Return the network of a file with nobody's names, or why it does not fit; see `in_order`."""
    if not read.is_ordered:
        return "safetensors files do not keep the order; save the state dict with torch.save"
    usual = _scaled(path, settings, model)
    matches = [match_in_order(read.tensors, arch) for arch in usual]
    fitting = [place for place, found in enumerate(matches) if isinstance(found, InOrder)]
    if not fitting:
        return str(matches[0])
    found = matches[fitting[0]]
    assert isinstance(found, InOrder)
    tensors = {ours: read.tensors[theirs] for ours, theirs in found.names.items()}
    top = next((t for n, t in tensors.items() if n.startswith(CLASSIFIER) and t.ndim > 1), None)
    settings = replace(
        settings,
        num_classes=1 if top is None else len(top),
        in_channels=tensors[first_weights(usual[0])[0]].shape[1],
    )
    found = match_in_order(read.tensors, _scaled(path, settings, model)[fitting[0]])
    assert isinstance(found, InOrder)
    weights = {
        ours: _as_ours(path, tensors.get(ours), found.names.get(ours, ours), shape)
        for ours, shape in tensor_shapes(found.arch).items()
    }
    remark = (
        f"nobody's names: {found.arch.name} by the order and shapes of its tensors; strides, "
        "activations, padding and PyTorch's epsilon 1e-5 are assumed"
    )
    return Imported(
        arch=replace(found.arch, norm_epsilon=PYTORCH_EPSILON),
        weights=weights,
        has_classifier=found.has_classifier,
        tensors=len(read.tensors),
        remarks=(
            *read.remarks,
            remark,
            *(() if found.has_classifier else (NO_CLASSIFIER,)),
            *(() if settings.is_full or found.arch.name in CIFAR_VARIANTS else (SMALL_FORM,)),
        ),
    )


def _check_names(path: Path, placed: Placed, arch: Arch) -> None:
    tensors, source = placed.tensors, placed.source
    expected = _weight_names(arch, source)
    if not placed.has_classifier:
        names = tensor_names(arch, source).items()
        expected = [
            name for ours, name in names if name in expected and not ours.startswith(CLASSIFIER)
        ]
    missing = [name for name in expected if name not in tensors]
    excess = sorted(name for name in tensors.keys() - set(expected) if f".{name}".endswith(WEIGHTS))
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of the {len(expected)} tensors of {arch.name} in "
            f"{source.name}'s names are missing, the first is {missing[0]!r}"
            f"{_seems_to_be(tensors) or nearest(missing[0], excess[:MOST_NAMES])}"
        )
    if excess:
        raise InputError(
            f"{path}: {len(excess)} weights do not belong to {arch.name} in {source.name}'s names, "
            f"the first is {excess[0]!r:.80}{_seems_to_be(tensors)}"
        )


def _weight_names(arch: Arch, source: Source) -> list[str]:
    return [name for name in tensor_names(arch, source).values() if not name.endswith(COUNTER)]


def _seems_to_be(tensors: Mapping[str, Tensor]) -> str:
    """Return a hint to the network with exactly these names, or ""."""
    given = {name for name in tensors if not name.endswith(COUNTER)}
    for source in SOURCES.values():
        for name in source.tables:
            if set(_weight_names(get_arch(name), source)) == given:
                return f"; these are {source.name}'s names of {name}"
    return ""


def _with_shapes(
    path: Path, tensors: Mapping[str, Tensor], arch: Arch, source: Source, settings: Settings
) -> Settings:
    """Return ``settings`` with the file's classes and input channels.

    Tensors with too few dimensions are reported later, when shapes are compared.
    """
    names = tensor_names(arch, source)
    head = next(name for ours, name in names.items() if ours.startswith(CLASSIFIER))
    classes = tensors[head].shape[:1] if head in tensors else (1,)
    channels = tensors[names[first_weights(arch)[0]]].shape[1:2]
    try:
        return replace(
            settings,
            num_classes=classes[0] if classes else settings.num_classes,
            in_channels=channels[0] if channels else settings.in_channels,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _fitting(path: Path, placed: Placed, settings: Settings, model: str) -> Arch:
    """Return the candidate whose shapes are the file's."""
    tensors, source = placed.tensors, placed.source

    def candidates(settings: Settings) -> list[Arch]:
        return [placed.adapt(arch) for arch in _scaled(path, settings, model)]

    faults = {arch: _fault(tensors, arch, source) for arch in candidates(settings)}
    for arch, fault in faults.items():
        if not fault:
            return arch
    usual = candidates(replace(settings, width_mult=1.0))[0]
    names, shapes = tensor_names(usual, source), tensor_shapes(usual)
    pairs = [
        (tensors[theirs].shape[0], shapes[ours][0])
        for ours, theirs in names.items()
        if ours.endswith(".conv.weight") and theirs in tensors and tensors[theirs].ndim
    ]

    def fits(width_mult: float) -> bool:
        scaled = candidates(replace(settings, width_mult=width_mult))
        return not all(_fault(tensors, arch, source) for arch in scaled)

    found = width_in_file(usual.name, pairs, fits)
    hint = "" if found is None else f"; the file has the shapes of width {found:g}"
    width, fault = settings.width_mult, next(iter(faults.values()))
    raise InputError(f"{path}: {fault} in {usual.name} of width {width:g}{hint}")


def _scaled(path: Path, settings: Settings, model: str) -> list[Arch]:
    """Return the network as scaled by each project."""
    try:
        scaled = [get_arch(model, settings)]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    build = V3.get(scaled[0].name)
    if build is not None:
        scaled += [build(settings, torchvision=True), build(settings, full_stem=True)]
    return scaled


def width_in_file(
    model: str, pairs: Iterable[tuple[int, int]], fits: Callable[[float], bool]
) -> float | None:
    """Return the width multiplier suggested by a file's channels, if any fits.

    ``pairs`` are channels of layers in the file and at width 1; ``fits`` tells whether the file
    has the network of a width.
    """
    ratios = Counter(round(theirs / ours, 3) for theirs, ours in pairs).most_common(3)
    # Published widths first: an odd ratio may fit ShuffleNet's tabulated channels by chance.
    likely = (*published_widths(model), *(ratio for ratio, _ in ratios))
    for width_mult in dict.fromkeys(likely):
        with suppress(InputError):  # an unsupported width
            if fits(width_mult):
                return width_mult
    return None


def _fault(tensors: Mapping[str, Tensor], arch: Arch, source: Source) -> str:
    """Describe the first tensor that does not fit; "" if all do."""
    names = tensor_names(arch, source)
    for ours, shape in tensor_shapes(arch).items():
        theirs = names[ours]
        if theirs in tensors and not _fits(tuple(tensors[theirs].shape), shape):
            given = "x".join(map(str, tensors[theirs].shape)) or "one number"
            return f"tensor {theirs!r} is {given}, but {'x'.join(map(str, shape)) or 'one number'}"
    return ""


def _fits(given: Shape, expected: Shape) -> bool:
    """Whether shapes are equal, counting a linear layer as a 1x1 convolution."""
    return given == expected or given == (*expected, 1, 1) or (*given, 1, 1) == expected


def _as_ours(path: Path, tensor: Tensor | None, name: str, shape: Shape) -> Tensor:
    if name.endswith(COUNTER):
        return torch.tensor(0) if tensor is None else tensor.to(torch.int64)
    if tensor is None:
        return torch.zeros(shape)  # of a missing classifier
    if not tensor.is_floating_point():
        raise InputError(f"{path}: tensor {name!r} is {tensor.dtype}, not floating point")
    return tensor.reshape(shape)


def _adapted(arch: Arch, source: Source, *, tensorflow: bool) -> Arch:
    """Return the network with the details in which ``source`` differs from the papers."""
    if source not in (TIMM, TRANSFORMERS):
        return arch
    if source is TIMM and not tensorflow:
        return replace(arch, norm_epsilon=PYTORCH_EPSILON)
    padded = change_convs(arch, lambda name, conv: replace(conv, padding="tf_same"))
    return replace(padded, norm_epsilon=TENSORFLOW_EPSILON)
