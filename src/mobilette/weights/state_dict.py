"""`read_state_dict`: the named tensors of a PyTorch or safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mobilette.errors import InputError
from mobilette.files import check_file
from mobilette.weights.tensors import check_finite
from mobilette.weights.torch_files import DAMAGED, LEGACY, ZIP, load_legacy, load_zip

# Where training scripts put the state dict; averaged weights first, as timm and torchvision do.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
# Others mean nothing without a scale, which stands elsewhere.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What DataParallel and torch.compile put before every name.
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True, kw_only=True, eq=False)
class StateDict:
    """The tensors of a file.

    Attributes:
        tensors: by name, in memory; floating-point ones float32 and finite.
        remarks: one line each about what was unwrapped or left out, without the file's name.
    """

    tensors: dict[str, Tensor]
    remarks: tuple[str, ...] = ()


def read_state_dict(path: str | Path) -> StateDict:
    """Read ``.pth``, ``.pt``, ``.th``, ``.bin`` and ``.safetensors``, told apart by content.

    Floating-point tensors become float32, whatever they were. A zip archive is checked against its
    checksums; PyTorch's older format and safetensors have none, so a changed byte within a
    tensor's values goes unnoticed there. No code in a file is run.

    Raises:
        InputError: the file is of another format, damaged, larger than 4 GiB, names code, has no
            tensors or some of other types, or a value in it is not finite.
    """
    path = Path(path)
    size = check_file(path)
    tensors, remarks = _unwrapped(path, _load(path, size))
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > 2 * size:  # tensors may share values, but seldom do
        raise InputError(f"{path}: damaged (tensors of {claimed:,} bytes in a file of {size:,})")
    plain, removed = _without_prefixes(path, tensors)
    remarks += [f"left out {prefix!r} before the names" for prefix in removed]
    read = {name: _as_float32(path, name, tensor) for name, tensor in plain.items()}
    return StateDict(tensors=read, remarks=tuple(remarks))


def _load(path: Path, size: int) -> object:
    try:
        with path.open("rb") as file:
            head = file.read(max(len(LEGACY), 9))
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if head.startswith(ZIP):
        return load_zip(path, size)
    if head.startswith(LEGACY):
        return load_legacy(path)
    if head[8:9] == b"{":
        return _load_safetensors(path)
    raise InputError(
        f"{path}: neither a file of torch.save nor of safetensors, to judge by its first bytes"
    )


def _load_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, *DAMAGED) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a complete safetensors file ({first[:160]})") from error


def _unwrapped(path: Path, content: object) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of ``content``, or of what one of `WRAPPERS` in it holds."""
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    for wrapper in WRAPPERS:
        tensors = _tensors(content.get(wrapper))
        if tensors:
            return tensors, [f"took the weights under {wrapper!r}"]
    tensors = _tensors(content)
    if not tensors:
        raise InputError(
            f"{path}: no tensors in it, neither at the top nor under {', '.join(WRAPPERS)}"
        )
    return tensors, []


def _tensors(content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {
        name: tensor.detach()
        for name, tensor in content.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }


def _without_prefixes(
    path: Path, tensors: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by their plain names, and the prefixes that were removed."""
    plain: dict[str, Tensor] = {}
    removed: dict[str, None] = {}
    for full, tensor in tensors.items():
        name = full
        while name.startswith(PREFIXES):
            prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
            name = name.removeprefix(prefix)
            removed[prefix] = None
        if name in plain:
            raise InputError(
                f"{path}: two tensors are called {name!r:.80}, apart from their prefixes"
            )
        plain[name] = tensor
    return plain, list(removed)


def _as_float32(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return a copy in memory: the file may change or go while the weights are in use."""
    if not tensor.is_floating_point():
        return tensor.clone(memory_format=torch.contiguous_format)
    if tensor.dtype not in FLOATS:
        listed = ", ".join(str(kind) for kind in FLOATS)
        raise InputError(f"{path}: tensor {name!r:.80} is {tensor.dtype}; read are {listed}")
    copied = tensor.to(torch.float32, copy=True).contiguous()
    check_finite(name, copied, where=str(path))
    return copied
