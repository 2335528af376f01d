"""OpenVINO on the CPU."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.contract import METADATA_KEY, Precision
from mobilette.data.machine import usable_cores
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.sharing import calls_at_once, inherited
from mobilette.errors import InputError
from mobilette.extras import hidden, needs

# Without a hint OpenVINO chooses the precision of floats itself.
_HINTS: Mapping[Precision, str] = MappingProxyType({"fp32": "f32", "bf16": "bf16", "int8": "f32"})
_LARGEST_XML = 64 * 2**20


class OpenVinoPredictor(ArtifactPredictor):
    """An OpenVINO artifact, executed by OpenVINO.

    Threads may share it: a request answers one call at a time, so calls that overlap get more of
    them, as many as the cores can serve, each with its own compiled model.
    """

    engine = "OpenVINO"

    def at_once(self) -> int:
        """Return how many requests the cores can serve; with 0 threads one takes all cores."""
        return calls_at_once(self.threads or usable_cores())

    def open(self) -> Any:
        """Return a request with its own compiled model."""
        return self._compile(self._read_model()).create_infer_request()

    def batch_outputs(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return logits, and features if there are any, for one batch of ``pixels``."""
        inputs = {self.contract.input.name: self.laid_out(pixels)}
        with self.session() as request:
            try:
                # a copy, because the next call overwrites it
                answer = request.infer(inputs, share_outputs=False)
            except RuntimeError as error:
                raise self.failed(error) from error
        return [answer[name] for name in self.output_names]

    def activations(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every named float32 tensor in order of execution."""
        model = self._read_model()
        names = {}
        for operation in model.get_ordered_ops():
            if operation.get_type_name() in ("Constant", "Parameter", "Result", "FakeQuantize"):
                continue
            for name in operation.output(0).get_names() if operation.get_output_size() else ():
                if operation.output(0).get_element_type().to_string() == "f32":
                    names[name] = operation.output(0)
        known = self.output_names
        model.add_outputs([port for name, port in names.items() if name not in known])
        try:
            request = self._compile(model).create_infer_request()
            answer = request.infer({self.contract.input.name: self.laid_out(pixels)})
            return {name: answer[name] for name in names}
        except RuntimeError as error:
            raise self.failed(error) from error

    def _read_model(self) -> Any:
        xml = self.artifact.read_model()
        if len(self.contract.parts) != 1:
            raise InputError(f"{self.where}: one file of weights is expected beside it")
        weights = self.artifact.read(self.contract.parts[0])
        check_ir(xml, len(weights), where=self.where)
        core = _core(os.getpid())
        import openvino

        try:
            model = core.read_model(
                model=xml, weights=openvino.Tensor(np.frombuffer(weights, np.uint8))
            )
        except RuntimeError as error:
            raise self.refused(error) from error
        has = model.has_rt_info([METADATA_KEY])
        self.check_embedded(model.get_rt_info([METADATA_KEY]).astype(str) if has else None)
        shape = openvino.PartialShape([-1, *self.contract.input.shape])
        ports = [(port.any_name, port.partial_shape) for port in model.inputs]
        if ports != [(self.contract.input.name, shape)]:
            raise InputError(f"{self.where}: its inputs are not the contract's")
        if [port.any_name for port in model.outputs] != self.output_names:
            raise InputError(f"{self.where}: its outputs are not the contract's")
        return model

    def _compile(self, model: Any) -> Any:
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.contract.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self.threads:
            options["INFERENCE_NUM_THREADS"] = self.threads
            # Pinning would put all requests on the same cores.
            options["ENABLE_CPU_PINNING"] = False
        if inherited("openvino"):
            options["NUM_STREAMS"] = 0  # in the calling thread: it keeps threads that are gone
        try:
            return _core(os.getpid()).compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise self.refused(error) from error


@cache
def _core(process: int) -> Any:
    """Return this process's OpenVINO core, which is never freed.

    Its CPU plugin gives the thread that first compiles a model a stack for signal handlers and
    frees it with the core (openvinotoolkit/openvino pull request 11894). If another thread frees
    it, the next signal that Python handles, such as Ctrl-C, ends the process.
    """
    with hidden("openvino_telemetry"), needs("openvino", "executing an openvino artifact"):
        import openvino
    return openvino.Core()


def check_ir(xml: bytes, weights: int, *, where: str) -> None:
    """Raise `InputError` unless ``xml`` is a network whose constants lie in ``weights`` bytes.

    OpenVINO itself trusts their offsets.
    """
    if len(xml) > _LARGEST_XML:
        raise InputError(f"{where}: larger than {_LARGEST_XML:,} bytes")
    # No declarations: entities may expand without end.
    if b"<!" in xml or not xml.lstrip().startswith((b"<?xml", b"<net")):
        raise InputError(f"{where}: not an OpenVINO network")
    try:
        network = ElementTree.fromstring(xml)
        places = [
            (int(data.get("offset", "0")), int(data.get("size", "0")))
            for layer in network.iter("layer")  # in nested graphs, too
            if layer.get("type") == "Const"
            for data in layer.iterfind("data")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{where}: damaged ({error})") from error
    if network.tag != "net" or not places:
        raise InputError(f"{where}: not an OpenVINO network")
    if any("weights_path" in element.tag for element in network.iter()):
        raise InputError(f"{where}: refers to another file of weights")
    for offset, size in places:
        if offset < 0 or size < 0 or offset + size > weights:
            raise InputError(
                f"{where}: a constant lies at {offset:,} to {offset + size:,}, the file of weights "
                f"has {weights:,} bytes"
            )
