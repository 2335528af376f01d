"""tflite-micro on the host: the microcontroller's own kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.c_array import model_in_source
from mobilette.artifact.tflite_kernels import ask_tflite_micro
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.litert import as_logits, read_tflite_model
from mobilette.errors import InputError


class TfliteMicroPredictor(ArtifactPredictor):
    """A microcontroller's artifact, executed by tflite-micro; it has one thread.

    How long it takes here says nothing about a microcontroller.
    """

    engine = "tflite-micro"

    def open(self) -> None:
        """Check the model, and that ``model.cc`` is the same one."""
        self.model, self.record = read_tflite_model(self)
        for name in self.contract.parts:
            if name.endswith(".cc"):
                self._check_source(name)
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

    def _check_source(self, name: str) -> None:
        where = self.artifact.path / name
        try:
            inside = model_in_source(self.artifact.read(name).decode(errors="replace"))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if inside != self.model:
            raise InputError(
                f"{where}: the model in it is not {self.contract.model}; microcontrollers would "
                "execute another one"
            )
