"""`Contract`: everything a program needs to run the model file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from mobilette.arch.arch import Arch
from mobilette.compression.ranges import Ranges
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError, shown
from mobilette.limits import AMOUNT, DIFFERENCE, FRACTION, MILLISECONDS, SIDE
from mobilette.model.classes import ClassLabel
from mobilette.records import check_ranges

# Fields known only once the model file is written, so not embedded in it.
OUTSIDE = ("files", "measured", "sha256")
# Fields that were added later: neither written nor hashed while they have these values.
_LATER: Mapping[str, object] = MappingProxyType(
    {
        "outputs": "softmax",
        "parts": (),
        "calibration": None,
        "float_layers": (),
        "verifiable": True,
    }
)
# The contract's name in a model file's own metadata.
METADATA_KEY = "mobilette.contract"


Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """The model's input: its name, layout, dtype and shape without the batch.

    ``colour`` is the order of the channels that the caller provides; whatever order the network
    was trained with, the graph rearranges them.
    """

    name: str
    layout: Literal["NCHW", "NHWC"]
    dtype: Literal["uint8", "float32"]
    shape: Annotated[tuple[int, ...], SIDE]
    colour: Literal["rgb", "grey"]

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(self.shape) != 3:
            raise InputError(f"shape {shown(self.shape)} is not 3 numbers")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the weights come from: the run's directory, relative to the artifact's."""

    run: str
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class CalibrationSource:
    """The images by which the ranges of int8 activations were chosen."""

    data: str
    images: Annotated[int, AMOUNT]
    ranges: Ranges = "plain"

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way to int8 that `mobilette quantize` tried, and what came of it.

    Attributes:
        top1: of the artifact on the images that judged it, 0 to 1; ``None`` where the engine
            could not have it.
        drop: how much less that is than the run's own, 0 to 1; negative where it is more.
        latency_ms: median of one image, one thread; ``None`` where it cannot be timed.
        reason: why it was not tried, or failed.
    """

    name: str
    top1: Annotated[float, FRACTION] | None = None
    drop: Annotated[float, DIFFERENCE] | None = None
    size_bytes: Annotated[int, AMOUNT] | None = None
    latency_ms: Annotated[float, MILLISECONDS] | None = None
    float_layers: tuple[str, ...] = ()
    kept: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Numbers measured at export.

    Attributes:
        top1: of the run's weights on its validation images, 0 to 1; ``None`` where they were
            imported.
        arena_bytes: of a microcontroller's model: what its tensors need.
        operators: of a microcontroller's model: what its interpreter has to know.
        rungs: what `mobilette quantize` tried on the way to this artifact.
        chosen: the index among them of the one that this artifact is of.
        latency_ms: median of one image, one thread, by precision of the target; timed in turns.
    """

    size_bytes: Annotated[int, AMOUNT]
    top1: Annotated[float, FRACTION] | None
    arena_bytes: Annotated[int, AMOUNT] | None = None
    operators: tuple[str, ...] = ()
    rungs: tuple[Rung, ...] = ()
    chosen: Annotated[int, AMOUNT] | None = None
    latency_ms: Annotated[Mapping[str, float], MILLISECONDS] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.chosen is not None and self.chosen >= len(self.rungs):
            raise InputError(f"chosen {self.chosen} is none of the {len(self.rungs)} rungs")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The content of contract.json.

    Attributes:
        parts: names of the files that belong to the model besides.
        output: name of the model's output, logits of shape (N, classes).
        outputs: how logits become probabilities: ``softmax``, or ``sigmoid`` where an image
            may be of none or of several classes.
        float_layers: of an int8 model, those that it computes in float.
        verifiable: whether an engine that `verify` has can execute the model.
        files: name to SHA-256 of every other file of the artifact.
        sha256: of this contract's canonical JSON without this field.
    """

    target: str
    precision: Precision
    model: str
    arch: Arch
    preprocess: Preprocess
    input: InputContract
    output: str
    classes: tuple[ClassLabel, ...]
    versions: Mapping[str, str]
    source: Source
    measured: Measured | None = None
    files: Mapping[str, str] | None = None
    sha256: str = ""
    schema: Literal[1] = 1
    outputs: Literal["softmax", "sigmoid"] = "softmax"
    parts: tuple[str, ...] = ()
    calibration: CalibrationSource | None = None
    float_layers: tuple[str, ...] = ()
    verifiable: bool = True

    def __post_init__(self) -> None:
        if len(self.classes) != self.arch.num_classes:
            raise InputError(
                f"{len(self.classes)} classes for a network with {self.arch.num_classes}"
            )
        if self.preprocess.channels != self.arch.in_channels:
            raise InputError("preprocess and arch have different numbers of channels")
        self.preprocess.check_resolution(self.arch.resolution)
        for name in (self.model, *self.parts, *(self.files or {})):
            steps = name.split("/")
            if any(step in ("", ".", "..") for step in steps) or any(x in name for x in '\\:"\0'):
                raise InputError(f"file name {name!r} would lie outside the artifact")

    def to_json(self) -> dict[str, Any]:
        """Return the whole contract as JSON values."""
        content = asdict(self)
        for name, nothing in _LATER.items():
            if getattr(self, name) == nothing:
                del content[name]
        measured = content["measured"]
        if measured is not None and measured["arena_bytes"] is None:
            del measured["arena_bytes"], measured["operators"]
        if measured is not None and not measured["rungs"]:
            del measured["rungs"], measured["chosen"], measured["latency_ms"]
        if self.calibration is not None and self.calibration.ranges == "plain":
            del content["calibration"]["ranges"]
        return content

    def embedded(self) -> dict[str, Any]:
        """Return the part that also stands inside the model file, as JSON values."""
        return {key: value for key, value in self.to_json().items() if key not in OUTSIDE}

    def own_sha256(self) -> str:
        """Return what ``sha256`` must be."""
        content = {key: value for key, value in self.to_json().items() if key != "sha256"}
        return hashlib.sha256(canonical(content).encode()).hexdigest()


def canonical(value: object) -> str:
    """Return JSON that is the same text for the same value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
