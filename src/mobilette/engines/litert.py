"""LiteRT, and tflite-micro on the host."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.cpp import (
    HEADER,
    RESOLVER,
    SOURCE,
    model_header,
    model_source,
    resolver_header,
)
from mobilette.artifact.directory import Artifact
from mobilette.artifact.tflite import (
    ask_litert,
    ask_tflite_micro,
    check_tflite,
    contract_inside,
    litert_interpreter,
)
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.sharing import calls_at_once
from mobilette.errors import InputError
from mobilette.formats.tflite.schema import ModelRecord, Quantisation

ENGINE_ERRORS = (RuntimeError, ValueError)


class LiteRtPredictor(ArtifactPredictor):
    """A LiteRT artifact, executed by LiteRT one image at a time.

    Threads may share it: an interpreter answers one call at a time, so calls that overlap get more
    of them, as many as the cores can serve.

    Args:
        reference: use the reference kernels, which microcontrollers match exactly; XNNPACK's int8
            answers may be several steps away.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 0, reference: bool = False) -> None:
        self.reference = reference
        self.engine = f"LiteRT ({'reference' if reference else 'XNNPACK'})"
        super().__init__(artifact, threads=threads)

    @cached_property
    def file(self) -> tuple[bytes, ModelRecord]:
        """The checked model file and its record; interpreters read the weights from these bytes."""
        return read_tflite_model(self)

    def at_once(self) -> int:
        """Return how many interpreters the cores can serve."""
        return calls_at_once(self.threads)

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments that this predictor was made with."""
        return {**super().options(), "reference": self.reference}

    def open(self) -> Any:
        """Return a new interpreter."""
        model, _ = self.file
        try:
            return litert_interpreter(model, threads=self.threads, reference=self.reference)
        except ENGINE_ERRORS as error:
            raise self.refused(error) from error

    def batch_outputs(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return logits, and features if there are any, for one batch of ``pixels``."""
        _, record = self.file
        return as_floats(self.answers(pixels), record)

    def answers(self, pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Return the raw outputs, float32 or int8 (N, width), for ``pixels`` (N, C, H, W)."""
        with self.session() as interpreter:
            try:
                return ask_litert(interpreter, self.laid_out(pixels))
            except ENGINE_ERRORS as error:
                raise self.failed(error) from error


def read_tflite_model(predictor: ArtifactPredictor) -> tuple[bytes, ModelRecord]:
    """Return the artifact's ``.tflite`` file and its record, checked against the contract."""
    content = predictor.artifact.read_model()
    contract = predictor.contract
    try:
        record = check_tflite(content)
        inside = contract_inside(content)
    except InputError as error:
        raise InputError(f"{predictor.where}: {error}") from None
    given = record.tensors[record.inputs[0]]
    expected: tuple[object, ...] = ((1, *contract.input.shape), contract.input.dtype)
    found: tuple[object, ...] = (given.shape, given.kind)
    widths = [len(contract.classes), predictor.feature_count][: len(predictor.output_names)]
    for width in widths:
        expected += ((1, width), "int8" if contract.precision == "int8" else "float32")
    for answer in (record.tensors[index] for index in record.outputs):
        # With float layers perhaps the last layer, too.
        kind = "int8" if contract.float_layers and answer.kind == "float32" else answer.kind
        found += (answer.shape, kind)
    if found != expected:
        raise InputError(
            f"{predictor.where}: input and output are {found}; the contract says {expected}"
        )
    predictor.check_embedded(inside)
    return content, record


def as_floats(answers: Sequence[NDArray[Any]], record: ModelRecord) -> list[NDArray[np.float32]]:
    """Return the raw outputs as numbers: for int8, (answer - zero point) x scale."""
    return [
        _as_floats(answer, record.tensors[index].quantisation)
        for answer, index in zip(answers, record.outputs, strict=True)
    ]


def _as_floats(answers: NDArray[Any], steps: Quantisation | None) -> NDArray[np.float32]:
    if answers.dtype == np.float32:
        return answers.astype(np.float32, copy=False)
    scale, zero_point = (steps.scale[0], steps.zero_point[0]) if steps else (1, 0)
    return (answers.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


class TfliteMicroPredictor(ArtifactPredictor):
    """A microcontroller's artifact, executed by tflite-micro on one thread of this machine.

    Threads may share it: every call has its own process. Latency here says nothing about a
    microcontroller's.
    """

    engine = "tflite-micro"
    in_this_process = False

    def open(self) -> None:
        """Check the model and the C++ made from it."""
        self.model, self.record = read_tflite_model(self)
        self._check_sources()
        height, width, channels = self.contract.input.shape
        self.answers(np.zeros((1, channels, height, width), np.uint8))

    def batch_outputs(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W)."""
        return as_floats([self.answers(pixels)], self.record)

    def answers(self, pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Return the raw output, int8 (N, classes), for ``pixels`` (N, C, H, W)."""
        try:
            return ask_tflite_micro(self.model, self.laid_out(pixels).astype(np.uint8, copy=False))
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from error

    def _check_sources(self) -> None:
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
                what = f"{self.contract.model} and its labels"
                raise InputError(f"{self.artifact.path / name}: does not match {what}")
