"""`Target`: a kind of artifact as data, and what its writer takes and returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilette.artifact.contract import (
    CalibrationSource,
    Contract,
    InputContract,
    Precision,
    Source,
)
from mobilette.artifact.web_runtime import runtime_files
from mobilette.compression.ranges import Ranges
from mobilette.errors import InputError
from mobilette.extras import needs, version_of
from mobilette.model.answering import Answering
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.run.subject import Subject, model_sha256

Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Images from ``source``, uint8 (N, C, H, W), that int8 activation ranges are chosen by."""

    pixels: NDArray[np.uint8]
    source: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantisation:
    """How a network becomes int8.

    Attributes:
        ranges: the rule that chooses activation ranges.
        float_layers: convolutions and linear layers that stay in float, by their names in
            `mobilette.arch.layers`, such as ``rows.3.expand.conv``.
        model: quantised instead of the run's, with batch norms folded: equalised, corrected or
            fine-tuned.
    """

    ranges: Ranges = "plain"
    float_layers: frozenset[str] = frozenset()
    model: Model | None = None


Progress = Callable[[str, int, int], None]
"""Called with the current step, the amount done and the total (0 if unknown)."""


def no_progress(what: str, done: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Written:
    """A writer's output.

    Attributes:
        files: the contract's ``model`` and ``parts``, by name.
        size_bytes: size of what the engine loads; ``None`` means all files.
        exact: int8 answers (N, classes) to the golden inputs, if every engine must match them to
            the bit.
    """

    files: Mapping[str, bytes]
    size_bytes: int | None = None
    arena_bytes: int | None = None
    operators: tuple[str, ...] = ()
    exact: NDArray[np.int8] | None = None


Writer = Callable[[Model, Contract, Calibration | None, Progress], Written]
"""Takes the model with batch norms folded; int8 is calibrated, other precisions are not."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of artifact.

    Attributes:
        name: as ``--to`` spells it.
        precisions: supported ones, the usual one first.
        packages: packages whose versions the contract records, with mobilette's and torch's.
        extra: the extra in pyproject.toml with these packages; empty if always installed.
        parts: names of the files beside the model.
        bundle: names of files that can be added, so that the artifact needs nothing else.
        batched: whether input and output have a batch dimension.
        writer: writes the files; imports its extra's packages itself.
        features: name of a second output with the features; ``None`` if there can be none.
        code: the README's Python, from ``pixels``, uint8 (1, C, H, W), to ``logits`` (classes,);
            the placeholders are those of `mobilette.exporters.readme`.
        language: language of ``code``; if not Python, it is the README's section on running.
        batch: images per call; ``None`` means any number.
        integer_answers: whether an int8 model's output is int8, if its last layer is.
        default_ranges_differ_from_minmax: whether int8 ranges are cut by default.
        notes: the end of the README; placeholders as in ``code``.
    """

    name: str
    precisions: tuple[Precision, ...]
    packages: tuple[str, ...]
    model: str
    writer: Writer
    imports: str
    code: str
    extra: str = ""
    parts: tuple[str, ...] = ()
    bundle: tuple[str, ...] = ()
    layout: Layout = "NCHW"
    dtype: Literal["uint8", "float32"] = "uint8"
    input: str = "pixels"
    output: str = "logits"
    features: str | None = "features"
    batched: bool = True
    verifiable: bool = True
    language: Literal["python", "javascript"] = "python"
    batch: int | None = None
    integer_answers: bool = False
    default_ranges_differ_from_minmax: bool = False
    notes: str = ""


class PixelsToLogits(nn.Module):
    """The network with its normalisation inside.

    Pixels are uint8 or float32, 0 to 255, (N, C, H, W) or (N, H, W, C); logits are (N, classes).
    With ``features`` the features (N, D) are a second output.
    """

    def __init__(
        self, network: Network, normalise: nn.Module, *, layout: Layout, features: bool = False
    ) -> None:
        super().__init__()
        self.normalise, self.network = normalise, network
        self.layout, self.features = layout, features

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits of ``pixels``, or logits and features."""
        if self.layout == "NHWC":
            pixels = pixels.permute(0, 3, 1, 2)
        x = self.normalise(pixels)
        if self.features:
            return self.network.with_features(x)
        logits: Tensor = self.network(x)
        return logits


def package_versions(target: Target) -> dict[str, str]:
    """Return the versions of the packages that write ``target``; `InputError` if one is missing."""
    with needs(target.extra, f"export to {target.name}"):
        return {name: version_of(name) for name in ("mobilette", "torch", *target.packages)}


def check_features(target: Target) -> None:
    """Raise `InputError` unless ``target`` can have the features as a second output."""
    if target.features is None:
        raise InputError(f"--to {target.name} has no second output for --features; use --to onnx")


def check_bundle(target: Target) -> None:
    """Raise `InputError` unless an artifact of ``target`` can have its engine in it, from here."""
    if not target.bundle:
        raise InputError(f"--bundle puts an engine into a page; --to {target.name} has none")
    runtime_files()


def make_contract(
    subject: Subject,
    target: Target,
    *,
    precision: Precision,
    calibration: Calibration | None,
    quantisation: Quantisation,
    final: Path,
    features: bool = False,
    bundle: bool = False,
) -> Contract:
    """Return the contract of an artifact that will be in ``final``, before it is written."""
    model, run = subject
    if features:
        check_features(target)
    if bundle:
        check_bundle(target)
    answering = model.answering
    if precision != "fp32":  # it may answer otherwise
        answering = Answering(temperature=answering.temperature)
    channels, height, width = model.arch.shape
    shape = (height, width, channels) if target.layout == "NHWC" else model.arch.shape
    source = None
    if calibration is not None:
        source = CalibrationSource(
            data=calibration.source, images=len(calibration.pixels), ranges=quantisation.ranges
        )
    return Contract(
        target=target.name,
        precision=precision,
        model=target.model,
        parts=(*target.parts, *target.bundle) if bundle else target.parts,
        arch=model.arch,
        preprocess=model.preprocess,
        input=InputContract(
            name=target.input,
            layout=target.layout,
            dtype=target.dtype,
            shape=shape,
            colour="grey" if model.preprocess.colour == "grey" else "rgb",
        ),
        output=target.output,
        outputs="sigmoid" if model.multi_label else "softmax",
        classes=model.classes,
        calibration=source,
        float_layers=tuple(sorted(quantisation.float_layers)),
        verifiable=target.verifiable,
        features=target.features or "" if features else "",
        temperature=answering.temperature,
        promise=answering.promise,
        known=answering.known,
        versions=package_versions(target),
        source=Source(
            run=_relative(run.path, final) if run is not None else "",
            weights_sha256=model_sha256(model, run),
        ),
    )


def _relative(run: Path, artifact: Path) -> str:
    try:
        return Path(os.path.relpath(run.resolve(), artifact.resolve())).as_posix()
    except ValueError:  # another drive (Windows)
        return run.resolve().as_posix()
