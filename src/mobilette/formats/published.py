"""ImageNet weights published by others for networks of the catalogue.

The table, published.csv, is written by bench/published_weights.py, which states the source of each
value. `mobilette.formats.download` fetches a file; nothing is read here.

Names are ``library/network.tag`` in the library's own spelling: ``timm/mobilenetv2_100.ra_in1k``,
``torchvision/mobilenet_v2.IMAGENET1K_V2``. For a given network, ``library/tag`` or ``library`` is
enough.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, resolve_name
from mobilette.arch.editing import change_convs
from mobilette.arch.scale import Settings
from mobilette.data.preprocess import PRESETS, Interpolation, Preprocess
from mobilette.errors import InputError, nearest, one_of

# Sizes in the table are rounded (torchvision) or computed from the network (timm).
SIZE_TOLERANCE = 0.05
SIZE_SLACK = 2**18


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """A downloadable file of weights for the 1,000 classes of ImageNet.

    Attributes:
        name: ``library/network.tag``.
        model: the network's name in the catalogue.
        padding: of every convolution; ``tf_same`` for weights from TensorFlow.
        sha256: the known first hexadecimal digits of the file's SHA-256: 8 or 10 from the
            publisher's file name, or none.
        size_bytes: rounded or estimated; the true size is in `size_range`.
        licence: as stated by the publisher. ImageNet itself is for research and teaching only; what
            that means for weights trained on it is not settled.
        top1: claimed accuracy on ImageNet's validation set at ``resolution``, a fraction; ``None``
            if our sources state none.
        preset: mean and standard deviation, a name in `mobilette.data.preprocess.PRESETS`.
        resize: shorter side of the resized image in pixels, before the crop to ``resolution``.
        source: where these values are stated.
    """

    name: str
    model: str
    width_mult: float
    padding: Literal["symmetric", "tf_same"]
    norm_epsilon: float
    url: str
    sha256: str
    size_bytes: int
    licence: str
    top1: float | None
    preset: str
    resize: int
    resolution: int
    interpolation: Interpolation
    source: str

    @property
    def library(self) -> str:
        """The publisher: ``torchvision`` or ``timm``."""
        return self.name.partition("/")[0]

    @property
    def tag(self) -> str:
        """The library's name for these weights of the network, such as ``IMAGENET1K_V2``."""
        return self.name.partition(".")[2]

    @property
    def filename(self) -> str:
        """The file's name in the cache."""
        return self.name.replace("/", "-") + PurePosixPath(urlsplit(self.url).path).suffix

    @property
    def size_range(self) -> tuple[int, int]:
        """The smallest and largest plausible file size in bytes."""
        margin = int(self.size_bytes * SIZE_TOLERANCE) + SIZE_SLACK
        return max(1, self.size_bytes - margin), self.size_bytes + margin

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing with which ``top1`` was measured."""
        return replace(
            PRESETS[self.preset],
            crop_fraction=self.resolution / self.resize,
            interpolation=self.interpolation,
        )

    def arch(self) -> Arch:
        """Return the network of these weights."""
        settings = Settings(width_mult=self.width_mult, resolution=self.resolution, form="full")
        arch = replace(get_arch(self.model, settings), norm_epsilon=self.norm_epsilon)
        if self.padding == "symmetric":
            return arch
        return change_convs(arch, lambda _, conv: replace(conv, padding=self.padding))


def list_published(model: str | None = None) -> list[PublishedWeights]:
    """Return all published weights, or those for ``model``, best claimed accuracy first."""
    return [weights for weights in _table() if model in (None, weights.model)]


def find_published(
    name: str, *, model: str | None = None, width_mult: float | None = None
) -> PublishedWeights:
    """Return the weights called ``name``.

    Args:
        name: ``library/network.tag``; with ``model`` also ``library/tag``, or ``library`` or
            ``auto`` for the best ones.
        model: the network, as `get_arch` knows it.
        width_mult: its width multiplier, 1.0 by default.

    Raises:
        InputError: there are none; the message has the nearest name or the widths available.
    """
    by_name = {weights.name: weights for weights in _table()}
    if model is None:
        if name in by_name:
            return by_name[name]
        raise InputError(
            f"no published weights are called {name!r}{nearest(name, by_name)} "
            "('mobilette weights list' lists all)"
        )
    model, width_mult = resolve_name(model, width_mult)
    if name in by_name:
        return _check_fit(by_name[name], model, width_mult)
    library, _, tag = name.partition("/")
    libraries = dict.fromkeys(weights.library for weights in _table())
    one_of(library, ("auto", *libraries), "library of published weights")
    fitting = [weights for weights in list_published(model) if library in ("auto", weights.library)]
    if not fitting:
        raise InputError(_no_weights(model, library))
    if tag:
        tags = dict.fromkeys(f"{weights.library}/{weights.tag}" for weights in fitting)
        if name not in tags:
            raise InputError(
                f"{model} has no weights {name!r}, only {', '.join(tags)}{nearest(name, tags)}"
            )
        fitting = [weights for weights in fitting if weights.tag == tag]
    width = 1.0 if width_mult is None else width_mult
    for weights in fitting:
        if weights.width_mult == width:
            return weights
    widths = ", ".join(f"{each:g}" for each in sorted({w.width_mult for w in fitting}))
    raise InputError(
        f"{model} has no published weights of width {width:g}, only of {widths}"
        + _slicing(fitting, width)
    )


def _check_fit(weights: PublishedWeights, model: str, width_mult: float | None) -> PublishedWeights:
    if weights.model != model:
        raise InputError(f"{weights.name} is for {weights.model}, not {model}")
    if width_mult is not None and width_mult != weights.width_mult:
        raise InputError(
            f"{weights.name} has width {weights.width_mult:g}, not {width_mult:g}"
            + _slicing([weights], width_mult)
        )
    return weights


def _slicing(fitting: Sequence[PublishedWeights], width_mult: float) -> str:
    wider = [weights for weights in fitting if weights.width_mult > width_mult]
    if not wider:
        return ""
    nearest_wider = min(wider, key=lambda weights: weights.width_mult)
    return f"; {nearest_wider.name}, of width {nearest_wider.width_mult:g}, can be sliced to it"


def _no_weights(model: str, library: str) -> str:
    others = list(dict.fromkeys(weights.library for weights in list_published(model)))
    if others:
        return f"{library} has no weights for {model}; {' and '.join(others)} has"
    get_arch(model)  # raises if there is no such network
    return f"{model} has no published weights ('mobilette weights list' lists all)"


@cache
def _table() -> tuple[PublishedWeights, ...]:
    file = resources.files("mobilette").joinpath("formats", "published.csv")
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(_from_line(line) for line in csv.DictReader(lines))


def _from_line(line: dict[str, Any]) -> PublishedWeights:
    numbers = {
        "width_mult": float(line["width_mult"]),
        "norm_epsilon": float(line["norm_epsilon"]),
        "size_bytes": int(line["size_bytes"]),
        "top1": float(line["top1"]) if line["top1"] else None,
        "resize": int(line["resize"]),
        "resolution": int(line["resolution"]),
    }
    return PublishedWeights(**line | numbers)
