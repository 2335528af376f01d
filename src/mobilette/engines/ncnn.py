"""ncnn on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.contract import METADATA_KEY
from mobilette.artifact.ncnn_layers import NcnnLayer, find_weights, read_layers
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.sharing import usable_threads
from mobilette.errors import InputError
from mobilette.extras import needs
from mobilette.folders import scratch
from mobilette.silence import silence

WEIGHTS = "model.ncnn.bin"


class NcnnPredictor(ArtifactPredictor):
    """An ncnn artifact, executed by ncnn one image at a time.

    Layers and numbers of weights are checked first, because ncnn trusts them. Whether the sizes of
    successive layers fit is not, so a model with forged hashes can still crash the process.

    Threads may share it: one network answers them in parallel. In a child of `fork` it uses one
    thread, because OpenMP's threads stay in the parent.

    Arithmetic is float32; the numbers of an fp16 artifact are stored in 16 bits.
    """

    engine = "ncnn"

    def open(self) -> Any:
        """Return ncnn's network."""
        with needs("ncnn", f"{self.where}: running it with ncnn"):
            import ncnn
        text = self.artifact.read_model().decode("ascii", errors="replace")
        weights = self.artifact.read(WEIGHTS)
        try:
            layers = read_layers(text)
            find_weights(layers, weights)
        except ValueError as error:
            raise InputError(f"{self.where}: not a complete ncnn model ({error})") from error
        ends = {layer.kind: layer.outputs for layer in layers}
        known = {name for layer in layers for name in layer.outputs}
        if ends.get("Input") != (self.contract.input.name,) or not known.issuperset(
            self.output_names
        ):
            raise InputError(f"{self.where}: its input or output is not the contract's")
        self.check_embedded(_contract(layers[-1], weights))
        self.mat = ncnn.Mat
        network, half = ncnn.Net(), self.contract.precision == "fp16"
        _set_options(network.opt, half=half, threads=usable_threads("ncnn", self.threads))
        with scratch() as folder:
            # A file, because ncnn reads past the end of memory.
            path = folder / WEIGHTS
            path.write_bytes(weights)
            with silence():
                status = network.load_param_mem(text) or network.load_model(str(path))
            if status:
                raise InputError(f"{self.where}: ncnn does not accept it (status {status})")
        return network

    def batch_outputs(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return logits, and features if there are any, for one batch of ``pixels``."""
        with self.session() as network:
            answers = [self._outputs(network, image) for image in self.laid_out(pixels)]
        return [np.stack(rows) for rows in zip(*answers, strict=True)]

    def _outputs(
        self, network: Any, image: NDArray[np.uint8] | NDArray[np.float32]
    ) -> list[NDArray[np.float32]]:
        borrowed = np.ascontiguousarray(image, np.float32)  # by the Mat, while it lives
        extractor = network.create_extractor()
        extractor.input(self.contract.input.name, self.mat(borrowed))
        outputs = []
        widths = (len(self.classes), self.feature_count)
        for name, width in zip(self.output_names, widths, strict=False):
            status, values = extractor.extract(name)
            if status or (values.dims, values.w) != (1, width):
                raise InputError(f"{self.where}: ncnn failed (status {status})")
            outputs.append(np.array(values, np.float32))
        return outputs


def _contract(layer: NcnnLayer, weights: bytes) -> bytes | None:
    if (layer.kind, layer.name) != ("MemoryData", METADATA_KEY) or not layer.number(0):
        return None
    return weights[-4 * layer.number(0) :]


def _set_options(options: Any, *, half: bool, threads: int) -> None:
    options.use_fp16_packed = options.use_fp16_storage = half
    options.use_fp16_arithmetic = options.use_bf16_storage = False
    options.use_vulkan_compute = False
    if threads:
        options.num_threads = threads
