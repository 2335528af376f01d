"""`Contract`: everything a program needs to run the model file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

from mobilette.arch.arch import Arch
from mobilette.compression.ranges import Ranges
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError, shown
from mobilette.limits import AMOUNT, DIFFERENCE, FRACTION, MILLISECONDS, SIDE, TEMPERATURE
from mobilette.model.answering import Answering, Known, Promise
from mobilette.model.classes import ClassLabel
from mobilette.places import named
from mobilette.records import Ranged, check_ranges

# Fields known only once the model file is written and has answered, so not embedded in it.
OUTSIDE = ("files", "measured", "sha256", "temperature", "promise", "known")
# Later additions: neither written nor hashed while they have these values.
_LATER: Mapping[str, object] = MappingProxyType(
    {
        "outputs": "softmax",
        "parts": (),
        "calibration": None,
        "float_layers": (),
        "verifiable": True,
        "features": "",
        "temperature": 1.0,
        "promise": None,
        "known": None,
    }
)
# The contract's key in the model file's metadata.
METADATA_KEY = "mobilette.contract"


Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """The model's input; ``shape`` is without the batch.

    ``colour`` is the channel order that callers provide; the graph reorders it for the network.
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
    """The run that the weights come from.

    Attributes:
        run: its directory relative to the artifact's; empty if there is none, or not here.
    """

    run: str
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class CalibrationSource(Ranged):
    """The images that int8 activation ranges were calibrated on."""

    data: str
    images: Annotated[int, AMOUNT]
    ranges: Ranges = "plain"


@dataclass(frozen=True, kw_only=True)
class Rung(Ranged):
    """One way to int8 that `mobilette quantize` tried, and its result.

    Attributes:
        top1: accuracy on the judging images, 0 to 1; ``None`` if it could not be measured.
        drop: from the run's top-1, as a fraction; negative for a gain.
        latency_ms: median for one image on one thread; ``None`` if it cannot be timed.
        reason: why it failed or was not tried.
    """

    name: str
    top1: Annotated[float, FRACTION] | None = None
    drop: Annotated[float, DIFFERENCE] | None = None
    size_bytes: Annotated[int, AMOUNT] | None = None
    latency_ms: Annotated[float, MILLISECONDS] | None = None
    float_layers: tuple[str, ...] = ()
    kept: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Numbers measured at export.

    Attributes:
        top1: the run's validation accuracy, 0 to 1; ``None`` if imported.
        arena_bytes: memory that a microcontroller's model needs for tensors.
        operators: operators that a microcontroller's interpreter needs.
        rungs: what `mobilette quantize` tried.
        chosen: index of this artifact's rung.
        latency_ms: median for one image on one thread, by precision of the target; timed in turns.
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
        parts: the names of the model's other files.
        output: name of the logits, shape (N, classes).
        outputs: ``sigmoid`` if an image may have no class or several.
        float_layers: layers of an int8 model that are computed in float.
        verifiable: whether `verify` has an engine for the model.
        features: name of the features, shape (N, D); empty if the model does not give them.
        temperature: what logits are divided by before softmax or sigmoid; like ``promise`` and
            ``known``, which say when the answer is ``unknown``, fitted on this artifact's answers.
        files: name to SHA-256 of every other file of the artifact.
        sha256: hash of this contract's canonical JSON without this field.
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
    features: str = ""
    temperature: Annotated[float, TEMPERATURE] = 1.0
    promise: Promise | None = None
    known: Known | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
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
        """Return the contract as JSON values."""
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

    @property
    def answering(self) -> Answering:
        """How the logits become answers."""
        return Answering(temperature=self.temperature, promise=self.promise, known=self.known)

    @property
    def ranges(self) -> Ranges:
        """The rule that chose int8 activation ranges."""
        return "plain" if self.calibration is None else self.calibration.ranges

    def published(self) -> Contract:
        """Return what anybody may read: without the place of the run, and of images their name."""
        source, calibration = replace(self.source, run=""), self.calibration
        if calibration is not None:
            calibration = replace(calibration, data=named(calibration.data))
        found = replace(self, source=source, calibration=calibration)
        return replace(found, sha256=found.own_sha256())

    def embedded(self) -> dict[str, Any]:
        """Return the part that is embedded in the model file, as JSON values.

        It names no folders, since a model file goes anywhere.
        """
        content = self.published().to_json()
        return {key: value for key, value in content.items() if key not in OUTSIDE}

    def to_text(self) -> str:
        """Return the content of contract.json."""
        return json.dumps(self.to_json(), indent=1) + "\n"

    def own_sha256(self) -> str:
        """Return the expected ``sha256``."""
        content = {key: value for key, value in self.to_json().items() if key != "sha256"}
        return hashlib.sha256(canonical(content).encode()).hexdigest()


def canonical(value: object) -> str:
    """Return JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
