"""Checks that an artifact's README prepares images like Mobilette."""

from __future__ import annotations

import io
import json
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

import mobilette
from mobilette.artifact.contract import Contract
from mobilette.artifact.directory import README, Artifact
from mobilette.data.decoding import decode
from mobilette.data.formats import UnusableImage
from mobilette.data.images import LabelledImage
from mobilette.engines.onnxruntime_web import NodeError, NodeProcess
from mobilette.exporters.export import TARGETS
from mobilette.exporters.readme import image_code
from mobilette.exporters.web import MODULE, PAGE

SCRIPT = Path(__file__).with_name("prepare.mjs")
SAMPLE = 16
# Pillow before 13 resizes tall images in another order than the module, so it rounds differently.
JAVASCRIPT_STEPS = 1
# What Pillow raises for readable pixels with an unreadable EXIF block.
ODD = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    NodeError,
)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The result for the ``images`` files that could be compared."""

    images: int
    failures: tuple[str, ...]
    notes: tuple[str, ...]


def check_readme(artifact: Artifact, images: Sequence[LabelledImage]) -> Compared:
    """Prepare up to 16 of ``images`` by the README's code, and compare the pixels.

    Code from the artifact is never executed: this version's code for the contract is, and the
    artifact must contain the same. Another version's may differ; a note says so.
    """
    contract = artifact.contract
    python = TARGETS[contract.target].language == "python"
    name = README if python else MODULE
    known = [(PAGE / MODULE).read_bytes()]
    if python:  # version 0.1.0 wrote picture.jpg
        known = [
            image_code(contract, source=source).encode()
            for source in ('"image.jpg"', '"picture.jpg"')
        ]
    if not any(code in artifact.read(name) for code in known):
        what = f"{name}: its image code differs from what Mobilette"
        if contract.versions.get("mobilette") == mobilette.__version__:
            return Compared(images=0, failures=(f"{what} writes",), notes=())
        return Compared(images=0, failures=(), notes=(f"{what} {mobilette.__version__} writes",))
    prepare = partial(readme_pixels, contract) if python else JavaScriptGeometry(contract)
    compared, failures, notes = 0, [], []
    for image, encoded, expected in _sample(contract, images):
        try:
            given = prepare(encoded)
        except ODD as error:
            notes.append(f"{name}: cannot read {image} ({error})")
            continue
        compared += 1
        difference = np.abs(given.astype(np.int16) - expected).max()
        if difference > (0 if python else JAVASCRIPT_STEPS):
            failures.append(f"{name}: {image} gets different pixels (by up to {difference})")
    return Compared(images=compared, failures=tuple(failures[:1]), notes=tuple(notes[:1]))


def readme_pixels(contract: Contract, encoded: bytes) -> NDArray[np.uint8]:
    """Return the pixels that the README's code makes of an image file: uint8 (C, H, W)."""
    code = image_code(contract, source="io.BytesIO(encoded)")
    names: dict[str, Any] = {
        "Image": Image,
        "ImageOps": ImageOps,
        "np": np,
        "io": io,
        "encoded": encoded,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, names)
    pixels: NDArray[np.uint8] = names["pixels"][0]
    return pixels


def _sample(
    contract: Contract, images: Sequence[LabelledImage]
) -> Iterator[tuple[str, bytes, NDArray[np.uint8]]]:
    """Yield name, bytes and expected pixels of files spread evenly over ``images``.

    Skips 16-bit grey and very long strips, which the README's code does not handle.
    """
    count = min(SAMPLE, len(images))
    for image in (images[index * len(images) // count] for index in range(count)):
        try:
            encoded = image.read()
            if encoded is None:
                continue
            decoded = decode(encoded)
        except UnusableImage:
            continue
        if _is_ordinary(contract, encoded):
            pixels = contract.preprocess.geometry(decoded, contract.arch.resolution)
            yield image.name, encoded, pixels


def _is_ordinary(contract: Contract, encoded: bytes) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(encoded)) as image:
            is_strip = contract.preprocess.is_strip(image.size, contract.arch.resolution)
            return not image.mode.startswith(("I", "F")) and not is_strip


class JavaScriptGeometry:
    """`prepare` of this version's ``mobilette.js``, under node."""

    def __init__(self, contract: Contract) -> None:
        self.shape = contract.input.shape
        known = {
            "preprocess": asdict(contract.preprocess),
            "arch": {"resolution": contract.arch.resolution},
        }
        self.node = NodeProcess(SCRIPT, [(PAGE / MODULE).as_uri(), json.dumps(known)])

    def __call__(self, encoded: bytes) -> NDArray[np.uint8]:
        """Return the input for an image file, uint8 (C, H, W); `NodeError` if the module fails."""
        return self.prepare(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the input for ``image``, uint8 (C, H, W); `NodeError` if the module fails."""
        size = struct.pack("<II", *image.size)
        pixels = self.node.ask(size, image.convert("RGBA").tobytes())
        return np.frombuffer(pixels, np.uint8).reshape(self.shape)
