"""`read_state_dict`: the named tensors of a PyTorch or safetensors file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mobilette.errors import InputError
from mobilette.files import check_file, read_head
from mobilette.formats.torch.checkpoint import find_weights
from mobilette.formats.torch.other_files import HEAD, name_file
from mobilette.formats.torch.torch_files import DAMAGED, LEGACY, ZIP, open_torch_file

# Other types need a scale that is stored elsewhere.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Prefixes added by DataParallel, torch.compile, FSDP and activation checkpointing.
WRAPPED = re.compile(
    r"(?:^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class StateDict:
    """The tensors of a file.

    Attributes:
        tensors: by name, in memory; floating-point ones float32 and finite.
        remarks: what was unwrapped or left out, one line each, without the file's name.
        is_ordered: whether the file keeps the order of the network's modules.
    """

    tensors: dict[str, Tensor]
    remarks: tuple[str, ...] = ()
    is_ordered: bool = True


def read_state_dict(path: str | Path) -> StateDict:
    """Read ``.pth``, ``.pt``, ``.th``, ``.bin``, ``.ckpt`` and ``.safetensors``, by content.

    Only the weights of a checkpoint are read (`find_weights`), and floating-point tensors become
    float32. A zip archive's checksums are verified; PyTorch's older format and safetensors have
    none, so a changed byte within a tensor's values goes unnoticed there. No code is executed.

    Raises:
        InputError: the file has another format, is damaged, larger than 4 GiB or a pickled module,
            has no tensors or unsupported ones, or a value is not finite.
    """
    path = Path(path)
    size = check_file(path)
    head = read_head(path, HEAD)
    if head.startswith((ZIP, LEGACY)):
        with open_torch_file(path, size) as file:
            stored, remarks = find_weights(path, file)
            _check_claimed(path, size, sum(each.size_bytes for each in stored.values()))
            tensors = file.load(stored)
    elif head[8:9] == b"{":
        tensors, remarks = _load_safetensors(path), []
        _check_claimed(path, size, sum(each.nbytes for each in tensors.values()))
    else:
        known = name_file(head)
        raise InputError(
            f"{path}: neither a torch.save nor a safetensors file"
            f"{f', but {known}' if known else ''}"
        )
    if not tensors:
        raise InputError(f"{path}: no tensors in it")
    plain, removed = _without_wrappers(path, tensors)
    left_out = [f"removed the prefix {wrapper!r}" for wrapper in removed]
    read = {name: _as_float32(path, name, tensor) for name, tensor in plain.items()}
    return StateDict(
        tensors=read,
        remarks=(*remarks[:1], *left_out, *remarks[1:]),
        is_ordered=head.startswith((ZIP, LEGACY)),
    )


def _check_claimed(path: Path, size: int, claimed: int) -> None:
    if claimed > 2 * size:  # tensors may share values, but seldom do
        raise InputError(f"{path}: damaged (tensors of {claimed:,} bytes in a file of {size:,})")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, *DAMAGED) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a complete safetensors file ({first[:160]})") from error


def _without_wrappers(
    path: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by their plain names, and the removed prefixes."""
    plain: dict[str, Tensor] = {}
    removed: dict[str, None] = {}
    for full, tensor in tensors.items():
        removed |= dict.fromkeys(f"{found}." for found in WRAPPED.findall(full))
        name = WRAPPED.sub("", full)
        if name in plain:
            raise InputError(f"{path}: two tensors are called {name!r:.80} without their prefixes")
        plain[name] = tensor
    return plain, list(removed)


def _as_float32(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return a copy in memory: the file may change or vanish while the weights are in use."""
    if not tensor.is_floating_point():
        return tensor.clone(memory_format=torch.contiguous_format)
    if tensor.dtype not in FLOATS:
        listed = ", ".join(str(kind) for kind in FLOATS)
        raise InputError(f"{path}: tensor {name!r:.80} is {tensor.dtype}; supported are {listed}")
    copied = tensor.to(torch.float32, copy=True).contiguous()
    if tensor.ndim:  # a scalar is a metric, perhaps an infinite "best so far"
        check_finite(name, copied, where=str(path))
    return copied


def check_finite(name: str, tensor: Tensor, *, where: str) -> None:
    """Raise `InputError` if ``tensor`` has a NaN, an infinity or, as a variance, a negative value.

    ``where`` is the file.
    """
    if not tensor.isfinite().all():
        raise InputError(
            f"{where}: tensor {name!r:.80} has values that are not finite (NaN or inf)"
        )
    if name.endswith("running_var") and (tensor < 0).any():
        raise InputError(f"{where}: tensor {name!r:.80} has variances below zero")
