"""Keras on its PyTorch backend, on the CPU."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobilette.arch.layers import layers
from mobilette.arch.primitives import FlattenLayer
from mobilette.artifact.contract import METADATA_KEY
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.sharing import usable_threads
from mobilette.errors import InputError
from mobilette.folders import scratch
from mobilette.formats.keras.library import check_archive, import_keras
from mobilette.nn.threads import torch_threads
from mobilette.silence import silence


class KerasPredictor(ArtifactPredictor):
    """A Keras artifact, executed by Keras in this process.

    The archive is checked before Keras reads it: nothing in it is executed but Keras' own layers.
    The weights are read by the HDF5 library, which a file with forged hashes can crash.

    Threads may share it: one model answers them in parallel. In a child of `fork` it uses one
    thread, because OpenMP's threads stay in the parent.
    """

    engine = "Keras"

    def open(self) -> Any:
        """Return Keras' model."""
        content = self.artifact.read_model()
        try:
            metadata = check_archive(content)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None
        inside = metadata.get(METADATA_KEY)
        self.check_embedded(None if inside is None else json.dumps(inside))
        self.keras = import_keras(f"{self.where}: running it with Keras")
        with scratch() as folder, silence(), self.keras.device("cpu"):
            path = folder / "model.keras"
            path.write_bytes(content)
            try:
                model = self.keras.saving.load_model(path, compile=False, safe_mode=True)
            except Exception as error:  # of any class
                raise self.refused(error) from error
        ends = [(end.name, end.shape) for end in model.inputs], model.output_shape
        height, width, channels = self.contract.input.shape
        given = [(self.contract.input.name, (None, height, width, channels))]
        if ends != (given, (None, len(self.classes))):
            raise InputError(f"{self.where}: its input or output is not the contract's")
        return model

    def batch_outputs(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W)."""
        with self.session() as model:
            return [self._answer(model, pixels)]

    def activations(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs of the layers, maps as (N, C, H, W)."""
        # A flattened map has its values in another order than ours.
        graph = [layer.name for layer in layers(self.arch) if not isinstance(layer, FlattenLayer)]
        names = {name.replace(".", "_"): name for name in ("normalise", *graph)}
        with self.session() as model:
            outputs = {
                names[layer.name]: layer.output for layer in model.layers if layer.name in names
            }
            found = self._answer(self.keras.Model(model.inputs[0], outputs), pixels)
        return {
            name: value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
            for name, value in found.items()
        }

    def _answer(self, model: Any, pixels: NDArray[np.uint8]) -> Any:
        """Return the output or outputs of ``model`` as arrays."""
        threads = torch_threads(usable_threads("torch", self.threads))
        with threads, torch.no_grad(), self.keras.device("cpu"):
            try:
                answer = model(self.laid_out(pixels), training=False)
            except Exception as error:
                raise self.failed(error) from error
        return self.keras.tree.map_structure(lambda tensor: tensor.numpy(), answer)
