"""`Arch`: one network as frozen data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

from mobilette.arch.rows import Conv, Head, Row
from mobilette.errors import InputError

SMALLEST_RESOLUTION = 16
LARGEST_RESOLUTION = 4096


@dataclass(frozen=True, kw_only=True)
class Arch:
    """A concrete network: stem, rows and head, with every channel an integer.

    Attributes:
        name: the catalogue's name of the network it was expanded from.
        resolution: side of the square input, in pixels.
        in_channels: channels of the input picture.
        norm_epsilon: added to the variance in every batch norm.
        norm_momentum: weight of the new batch in the running statistics (PyTorch's meaning).
        schema: version of this record; a file of another version is refused.
    """

    name: str
    resolution: int
    in_channels: int
    stem: Conv
    rows: tuple[Row, ...]
    head: Head
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.1
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        check_in_channels(self.in_channels)
        if not (self.norm_epsilon > 0 and 0 < self.norm_momentum <= 1):
            raise InputError(
                f"batch norm epsilon {self.norm_epsilon} and momentum {self.norm_momentum} must be "
                "above 0, the momentum at most 1"
            )

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return self.head.classes

    def to_json(self) -> dict[str, object]:
        """Return the network as JSON values; `mobilette.records.parse` reads them back."""
        return asdict(self)

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the network's canonical JSON: equal networks have equal hashes."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def with_resolution(self, resolution: int) -> Arch:
        """Return the same network for another input size; strides stay as they are."""
        return replace(self, resolution=resolution)

    def with_classes(self, classes: int) -> Arch:
        """Return the same network with another number of classes."""
        return replace(self, head=replace(self.head, classes=classes))


def check_resolution(resolution: int) -> None:
    """Raise `InputError` unless ``resolution`` is one a network can have."""
    if not SMALLEST_RESOLUTION <= resolution <= LARGEST_RESOLUTION:
        raise InputError(
            f"resolution {resolution} is not between {SMALLEST_RESOLUTION} and "
            f"{LARGEST_RESOLUTION} pixels"
        )


def check_in_channels(in_channels: int) -> None:
    """Raise `InputError` unless ``in_channels`` is one a network can have."""
    if not 1 <= in_channels <= 256:
        raise InputError(f"{in_channels} input channels: a network has 1 to 256")
