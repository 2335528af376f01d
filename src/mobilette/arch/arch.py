"""`Arch`: one network as frozen data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from mobilette.arch.rows import Block, Conv, Head, Row
from mobilette.arch.scale import Resolution, as_resolution, size_of
from mobilette.errors import InputError
from mobilette.limits import IN_CHANNELS, RESOLUTION, Range
from mobilette.notebook import html_table
from mobilette.records import check_ranges

MOST_ROWS = 1_000  # the catalogue's deepest network has 56


@dataclass(frozen=True, kw_only=True)
class Arch:
    """A concrete network: stem, rows and head, with every channel count an integer.

    Attributes:
        name: the network's name in the catalogue.
        resolution: size of the input in pixels: the side of a square, or (height, width).
        in_channels: channels of the input image.
        norm_epsilon: added to the variance in every batch norm.
        norm_momentum: weight of the new batch in the running statistics (PyTorch's meaning).
        schema: version of this record; other versions are refused.
    """

    name: str
    resolution: Annotated[Resolution, RESOLUTION]
    in_channels: Annotated[int, IN_CHANNELS]
    stem: Conv | Block
    rows: tuple[Row, ...]
    head: Head
    norm_epsilon: Annotated[float, Range(1e-12, 1.0)] = 1e-5
    norm_momentum: Annotated[float, Range(1e-6, 1.0)] = 0.1
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", as_resolution(self.resolution))
        check_ranges(self)
        if len(self.rows) > MOST_ROWS:
            raise InputError(f"{len(self.rows)} rows: at most {MOST_ROWS} are supported")

    @property
    def size(self) -> tuple[int, int]:
        """The input's (height, width) in pixels."""
        return size_of(self.resolution)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The input's (channels, height, width)."""
        return (self.in_channels, *self.size)

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return self.head.classes

    def to_json(self) -> dict[str, object]:
        """Return the network as JSON values; `mobilette.records.parse` reads them back."""
        return asdict(self)

    def _repr_html_(self) -> str:
        from mobilette.arch.layers import layers

        graph = layers(self)
        rows = [
            (
                layer.name,
                type(layer).__name__.removesuffix("Layer"),
                "x".join(map(str, layer.shape)),
            )
            for layer in graph
        ]
        height, width = self.size
        notes = (
            f"{height}x{width}x{self.in_channels} in, {self.num_classes:,} classes",
            f"{len(self.rows)} rows, {len(graph)} layers",
        )
        return html_table(self.name, ("layer", "kind", "output"), rows, notes)

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON; equal networks have equal hashes."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def with_resolution(self, resolution: Resolution) -> Arch:
        """Return the same network for another input size; strides stay."""
        return replace(self, resolution=resolution)

    def with_classes(self, classes: int) -> Arch:
        """Return the same network with another number of classes."""
        return replace(self, head=replace(self.head, classes=classes))
