"""The constants of an ONNX file: its tensors, also in files beside it, and what follows from them.

Source: onnx.proto (TensorProto, "External Data"). Every size is checked before memory is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.numpy_helper import to_array
from onnx.reference import ReferenceEvaluator

from mobilette.errors import InputError
from mobilette.files import check_file
from mobilette.formats.onnx.nodes import Node

Array = NDArray[Any]
LARGEST_DATA = 4 * 2**30  # bytes
# Shapes and amounts of padding are computed from few numbers; weights are never spread.
MOST_SPREAD = 4096
_BITS: Mapping[int, int] = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.BOOL: 8,
}
_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Equal", "Where", "Pow", "Mod")
# Operators that are computed here when all of their inputs are constants
FOLDED = (
    *_BROADCASTING,
    *("Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "Floor", "Gather", "Identity", "Neg"),
    *("Reciprocal", "Reshape", "Slice", "Sqrt", "Squeeze", "Transpose", "Unsqueeze"),
)
_FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, MemoryError),
    *(NotImplementedError, RuntimeError, TypeError, ValueError),
)


class Constants:
    """The constants by name; methods raise `InputError`.

    Attributes:
        origins: the initialisers that a constant comes from.
    """

    def __init__(self, graph: onnx.GraphProto, path: Path, *, size: int, opset: int) -> None:
        """Take the initialisers of ``graph``, read from ``path`` of ``size`` bytes."""
        self.origins: dict[str, tuple[str, ...]] = {}
        self._path, self._opset = path, opset
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        if len(self._stored) < len(graph.initializer) or "" in self._stored:
            raise InputError("two of its initialisers have the same name, or one has none")
        self._arrays: dict[str, Array] = {}
        self._left = size  # numbers that may still be read: tensors may share bytes
        self._files: dict[Path, int] = {}
        self.origins |= {name: (name,) for name in self._stored}

    def __contains__(self, name: str) -> bool:
        return name in self._stored or name in self._arrays

    def names(self) -> tuple[str, ...]:
        """Return the initialisers' names."""
        return tuple(self._stored)

    def get(self, name: str) -> Array:
        """Return a constant as the file has it."""
        if name not in self._arrays:
            if name not in self._stored:
                raise InputError(f"{name!r:.80} is not a constant")
            self._arrays[name] = self._read(self._stored[name], name)
        return self._arrays[name]

    def weights(self, name: str) -> NDArray[np.float32]:
        """Return a constant as float32, all finite."""
        array = self.get(name)
        if array.dtype.kind != "f" or not array.size:
            raise InputError(f"{name!r:.80} is {array.dtype} of shape {array.shape}, not weights")
        with np.errstate(over="ignore", invalid="ignore"):  # checked for finite values below
            floats = array.astype(np.float32)
        if not np.isfinite(floats).all():
            raise InputError(f"{name!r:.80} has values that are not finite (NaN or inf)")
        return floats

    def integers(self, name: str) -> list[int]:
        """Return a constant of a few integers."""
        array = self.get(name)
        if array.dtype.kind not in "iu" or array.size > MOST_SPREAD:
            raise InputError(f"{name!r:.80} is not a few integers")
        return [int(number) for number in array.ravel()]

    def add(self, name: str, array: Array, origins: tuple[str, ...] = ()) -> None:
        """Record a constant that a node makes."""
        self._arrays[name] = array
        self.origins[name] = origins

    def tensor(self, tensor: onnx.TensorProto, name: str) -> Array:
        """Return the value of an attribute, which must be stored in the file itself."""
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InputError(f"{name!r:.80} is an attribute in another file")
        return self._read(tensor, name)

    def fold(self, node: Node) -> None:
        """Compute a node of `FOLDED`, all of whose inputs are constants."""
        inputs = {name: self.get(name) for name in node.inputs if name}
        _check_small(node, [inputs[name] for name in node.inputs if name])
        try:
            with np.errstate(all="ignore"):
                evaluator = ReferenceEvaluator(node.proto, opsets={"": self._opset})
                results = evaluator.run(None, inputs)
        except _FAULTS as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"its constants do not fit ({reason})") from error
        origins = tuple(dict.fromkeys(o for name in inputs for o in self.origins[name]))
        for name, result in zip(node.outputs, results, strict=True):
            self.add(name, np.asarray(result), origins)

    def _read(self, tensor: onnx.TensorProto, name: str) -> Array:
        bits = _BITS.get(tensor.data_type)
        if bits is None:
            known = onnx.TensorProto.DataType.items()
            kind = next((key for key, code in known if code == tensor.data_type), "of no type")
            raise InputError(f"tensor {name!r:.80} is {kind}; quantised weights are not supported")
        if min(tensor.dims, default=1) < 0:
            raise InputError(f"tensor {name!r:.80} has the shape {list(tensor.dims)}")
        count = math.prod(tensor.dims)
        size = count * bits // 8
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            content = self._external(tensor, name, size)
            tensor = onnx.TensorProto(
                data_type=tensor.data_type, dims=tensor.dims, raw_data=content, name=tensor.name
            )
        elif tensor.HasField("raw_data") and len(tensor.raw_data) != size:
            raise InputError(
                f"tensor {name!r:.80} of shape {list(tensor.dims)} has {len(tensor.raw_data):,} "
                f"bytes; {size:,} are expected"
            )
        self._left -= count
        if self._left < 0:
            raise InputError("its tensors together are larger than the file")
        try:
            return to_array(tensor)
        except _FAULTS as error:
            raise InputError(
                f"tensor {name!r:.80} has not the values of its shape {list(tensor.dims)}"
            ) from error

    def _external(self, tensor: onnx.TensorProto, name: str, size: int) -> bytes:
        """Return the bytes of a tensor in a file beside the model."""
        entries: Mapping[str, str] = {entry.key: entry.value for entry in tensor.external_data}
        path = self._beside(entries.get("location", ""), name)
        try:
            offset, length = (
                int(entries.get(key) or default)
                for key, default in (("offset", 0), ("length", size))
            )
        except ValueError as error:
            raise InputError(f"tensor {name!r:.80}: its offset or length is no number") from error
        if length != size or offset < 0 or offset + length > self._files[path]:
            raise InputError(
                f"tensor {name!r:.80} of shape {list(tensor.dims)} needs {size:,} bytes; its place "
                f"is {length:,} bytes at {offset:,} of the {self._files[path]:,} in {path.name!r}"
            )
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def _beside(self, location: str, name: str) -> Path:
        """Return the path of a data file in the model's folder, its size recorded."""
        folder = self._path.parent.resolve()
        as_windows = PureWindowsPath(location)  # has both kinds of slash, and drives
        leads_out = as_windows.is_absolute() or as_windows.drive or as_windows.root
        if not location or leads_out or ".." in as_windows.parts or "\0" in location:
            raise InputError(
                f"tensor {name!r:.80} is in {location!r:.80}, which is not a file in the model's "
                "folder"
            )
        path = (folder / location).resolve()
        if not path.is_relative_to(folder):
            raise InputError(
                f"tensor {name!r:.80} is in {location!r:.80}, a link that leads out of the model's "
                "folder"
            )
        if path not in self._files:
            try:
                self._files[path] = check_file(path, limit=LARGEST_DATA)
            except InputError as error:
                raise InputError(
                    f"its weights are in {location!r:.80} beside it ({error})"
                ) from None
            self._left += self._files[path]
        return path


def _check_small(node: Node, inputs: Sequence[Array]) -> None:
    """Raise `InputError` if a node would make many numbers of few."""
    given = sum(array.size for array in inputs)
    made = 0
    if node.op in _BROADCASTING:
        try:
            made = math.prod(np.broadcast_shapes(*(array.shape for array in inputs)))
        except ValueError as error:
            raise InputError(f"its constants do not fit ({error})") from error
    elif node.op == "Gather" and len(inputs) == 2:
        made = inputs[0].size * inputs[1].size
    elif node.op == "ConstantOfShape" and inputs:
        made = math.prod(map(int, inputs[0].ravel()))
    if made > max(MOST_SPREAD, given):
        raise InputError(f"it would make {made:,} numbers of {given:,}")
