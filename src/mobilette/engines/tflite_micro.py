"""tflite-micro on the host: the microcontroller's own kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.c_array import HEADER, SOURCE, model_header, model_source
from mobilette.artifact.resolver import RESOLVER, resolver_header
from mobilette.artifact.tflite_kernels import ask_tflite_micro
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.litert import as_logits, read_tflite_model
from mobilette.errors import InputError


class TfliteMicroPredictor(ArtifactPredictor):
    """A microcontroller's artifact, executed by tflite-micro; it has one thread.

    Any number of threads may ask it: every call has a process of its own.

    How long it takes here says nothing about a microcontroller.
    """

    engine = "tflite-micro"
    in_this_process = False

    def open(self) -> None:
        """Check the model, and that the C++ is made of it."""
        self.model, self.record = read_tflite_model(self)
        self._check_sources()
        self.answers(np.zeros((1, *self._planes()), np.uint8))

    def batch_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W)."""
        return as_logits(self.answers(pixels), self.record)

    def answers(self, pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Return what leaves the model, int8 (N, classes), for ``pixels`` (N, C, H, W)."""
        try:
            return ask_tflite_micro(self.model, self.laid_out(pixels).astype(np.uint8, copy=False))
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from error

    def _planes(self) -> tuple[int, int, int]:
        height, width, channels = self.contract.input.shape
        return channels, height, width

    def _check_sources(self) -> None:
        """Raise `InputError` unless what is compiled is made of this model and its labels."""
        labels, measured = [each.name for each in self.classes], self.contract.measured
        operators = tuple(sorted({each.name for each in self.record.operators}))
        expected = {
            SOURCE: model_source(self.model, labels),
            HEADER: model_header(
                labels=len(labels), arena_bytes=measured.arena_bytes or 0 if measured else 0
            ),
            RESOLVER: resolver_header(operators),
        }
        for name, text in expected.items():
            if name not in self.contract.parts or self.artifact.read(name) != text.encode():
                raise InputError(
                    f"{self.artifact.path / name}: not {self.contract.model} and its labels; "
                    "microcontrollers would execute or say something else"
                )
