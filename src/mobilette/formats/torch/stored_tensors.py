"""Tensors in PyTorch's files: as a pickle describes them, and their values once read.

The calls are those of ``torch/_utils.py`` and ``torch/serialization.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from mobilette.formats.torch.pickles import Inert, Named

MOST_DIMENSIONS = 8
MOST_VALUES = 2**40
STORAGES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
PARAMETERS = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
)
WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"


@dataclass(frozen=True, kw_only=True)
class Storage:
    """``count`` values of ``dtype`` in a file, from number ``start`` of those under ``key``."""

    key: str
    dtype: torch.dtype
    count: int
    start: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredTensor:
    """A tensor within its storage whose values have not been read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """The size of its values, repeated ones included."""
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def load(self, content: bytearray) -> Tensor:
        """Return a copy of its values from ``content``, the bytes under its storage's key."""
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.storage.dtype)
        values = torch.frombuffer(content, dtype=self.storage.dtype)
        first = self.storage.start + self.offset
        return values.as_strided(self.shape, self.strides, first).clone(
            memory_format=torch.contiguous_format
        )


def find_storage(key: object) -> object:
    """Return the storage of a persistent id; `Inert` for an unsupported type.

    The id is ("storage", type, key, device, number of values), in the older format followed by a
    view (key, start, count) or ``None``.
    """
    kind, *rest = key if isinstance(key, tuple) and key else (None,)
    if kind == "module":  # older format: a class, its file and its source
        return rest[0] if rest else None
    if kind != "storage" or len(rest) not in (4, 5):
        raise ValueError("a persistent id that is no storage")
    named, name, _, count, *more = rest
    if not (isinstance(named, Named) and isinstance(name, str) and _is_count(count)):
        raise TypeError("a storage without type, key and size")
    module, _, storage = named.name.rpartition(".")
    if module not in ("torch", "torch.cuda") or storage not in STORAGES:
        return Inert(named.name)
    whole = Storage(key=name, dtype=STORAGES[storage], count=count)
    if not more or more[0] is None:
        return whole
    _, start, length = more[0] if isinstance(more[0], tuple) else ()
    if not (_is_count(start) and _is_count(length) and start + length <= count):
        raise ValueError("a view that lies outside its storage")
    return Storage(key=name, dtype=whole.dtype, count=length, start=start)


def rebuild(name: str, args: tuple[object, ...]) -> object:
    """Return the tensor or shape that a call stands for; ``None`` for unknown calls."""
    if name == WITH_ATTRIBUTES and len(args) == 4:
        made, given = args[0], args[2]
        if isinstance(made, Named) and made.name != name and isinstance(given, tuple):
            return rebuild(made.name, given)
    if name in PARAMETERS and args and isinstance(args[0], StoredTensor):
        return args[0]
    if name == "torch.Size" and len(args) == 1 and _are_counts(args[0]):
        return args[0]
    if name not in TENSORS or not args or not isinstance(storage := args[0], Storage):
        return None
    _, offset, shape, strides, *_ = args
    if not (_is_count(offset) and _are_counts(shape) and _are_counts(strides)):
        raise TypeError("a tensor without offset, shape and strides")
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.count:
        raise ValueError("a tensor that lies outside its storage")
    return StoredTensor(storage=storage, offset=offset, shape=shape, strides=strides)


def _is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a plausible count in a file."""
    return type(value) is int and 0 <= value < MOST_VALUES


def _are_counts(values: object) -> TypeGuard[tuple[int, ...]]:
    """Whether values are a plausible shape or strides."""
    return (
        isinstance(values, tuple) and len(values) <= MOST_DIMENSIONS and all(map(_is_count, values))
    )
