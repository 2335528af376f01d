"""A trained network's weights in a network that was changed a little (`search.mutations`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from mobilette.arch.arch import Arch
from mobilette.arch.editing import change_convs, convs, set_channels
from mobilette.arch.layers import layers
from mobilette.arch.primitives import INPUT, ConvLayer, LinearLayer, SubsampleLayer
from mobilette.arch.rows import Block, Branch, Conv, Row
from mobilette.arguments import checked
from mobilette.compression.new_layers import (
    open_excitation,
    rows_as_identity,
    without_excitation,
)
from mobilette.compression.row_pairs import EXCITE, row_pairs
from mobilette.compression.widening import fresh_weights, widen_weights
from mobilette.errors import InputError
from mobilette.formats.importance import Moments, estimated_moments
from mobilette.formats.slicing import slice_weights
from mobilette.model.answering import PLAIN
from mobilette.model.model import Model


@checked
def inherit(model: Model, arch: Arch, *, seed: int = 0) -> Model:
    """Return ``arch`` with the weights of ``model``, as far as they fit.

    Rows are paired in order, so that as few as possible have no counterpart. Of each pair:

    - Layers of equal shape take the weights.
    - Larger kernels have zeros around the old ones, and compute the same; of smaller ones the
      middle is taken.
    - Narrower layers keep the most important channels (`mobilette.formats.slicing`).
    - Wider layers keep theirs, and get new ones that nothing reads yet.
    - A new squeeze-and-excitation lets everything pass; where one is left out, its mean factors
      stay.

    A new row passes on what it reads, where its layers can: a block with a residual adds zero,
    plain convolutions are the identity; else it starts with random weights.

    The function stays the same, apart from rounding, unless channels, kernels, rows or excitations
    are cut. The result is a start for training: batch norms keep their statistics until
    `mobilette.formats.fitting.measure_batch_norm` measures them again.

    Args:
        model: the trained network.
        arch: the network to be given its weights, with the same classes and input channels.
        seed: of random weights.

    Raises:
        InputError: the networks differ in more than that.
    """
    pairing = _pair(model.arch, arch)
    weights = pairing.kept(dict(model.weights))
    weights = _other_widths(pairing, weights, seed=seed)
    weights = pairing.completed(weights, seed=seed)
    origin = replace(model.origin, width_mult=None)
    return replace(model, arch=arch, weights=weights, origin=origin, answering=PLAIN)


@dataclass(frozen=True, kw_only=True)
class _Pairing:
    """Two networks, and their rows in pairs (source, target).

    ``before`` is what the target has of the source, in the source's widths; ``after`` in its own.
    Both have the same layers: a row for each pair.
    """

    source: Arch
    target: Arch
    rows: tuple[tuple[int, int], ...]
    before: Arch
    after: Arch

    @torch.no_grad()
    def kept(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights for ``before``."""
        names = {f"rows.{old}": f"rows.{new}" for new, (old, _) in enumerate(self.rows)}
        kernels = {f"{name}.conv": conv.kernel for name, conv in convs(self.before).items()}
        for old, new in self.rows:
            if _has(self.source.rows[old]) and not _has(self.target.rows[new]):
                without_excitation(self.source, f"rows.{old}.{EXCITE}", weights)
        wanted = {layer.name for layer in layers(self.before)}
        found = {}
        for name, tensor in weights.items():
            renamed = _renamed(name, names)
            layer, _, _ = (renamed or "").rpartition(".")
            if renamed is not None and layer in wanted:
                found[renamed] = _with_kernel(tensor, kernels.get(layer))
        return found

    @torch.no_grad()
    def completed(self, weights: dict[str, Tensor], *, seed: int) -> dict[str, Tensor]:
        """Return the weights for the target, of those for ``after`` and new ones."""
        names = {f"rows.{i}": f"rows.{new}" for i, (_, new) in enumerate(self.rows)}
        renamed = {_renamed(name, names): tensor for name, tensor in weights.items()}
        whole = fresh_weights(self.target, seed=seed)
        if any(name not in whole for name in renamed):
            raise _misfit(self.source, self.target)
        whole |= {name: tensor for name, tensor in renamed.items() if name is not None}
        for old, new in self.rows:
            if _has(self.target.rows[new]) and not _has(self.source.rows[old]):
                open_excitation(self.target, f"rows.{new}.{EXCITE}", whole)
        paired = {new: number for number, (_, new) in enumerate(self.rows)}
        if len(paired) < len(self.target.rows):
            rows_as_identity(self.target, whole, self._read_by_new(paired, weights))
        return whole

    def _read_by_new(
        self, paired: Mapping[int, int], weights: Mapping[str, Tensor]
    ) -> dict[int, Moments]:
        """Return the moments of what each new row reads: those after the last row in a pair."""
        moments = estimated_moments(self.after, weights)
        outputs = _outputs(self.after)
        found, last = {}, outputs[0]
        for row in range(len(self.target.rows)):
            if row in paired:
                last = outputs[paired[row] + 1]
            else:
                found[row] = moments[last]
        return found


def _other_widths(pairing: _Pairing, weights: dict[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Return the weights for ``after``: narrowed first, then widened."""
    before, after = _widths(pairing.before), _widths(pairing.after)
    if before.keys() != after.keys():
        raise _misfit(pairing.source, pairing.target)
    least = {name: min(before[name], width) for name, width in after.items()}
    narrow = set_channels(pairing.after, least)
    if least != before:
        weights = slice_weights(pairing.before, weights, narrow)
    if least != after:
        weights = widen_weights(narrow, weights, pairing.after, seed=seed)
    return weights


def _widths(arch: Arch) -> dict[str, int]:
    return {
        layer.name: layer.shape[0]
        for layer in layers(arch)
        if isinstance(layer, ConvLayer | LinearLayer | SubsampleLayer)
    }


def _pair(source: Arch, target: Arch) -> _Pairing:
    """Return the pairing; `InputError` if the networks differ too much."""
    if (source.num_classes, source.in_channels) != (target.num_classes, target.in_channels):
        raise _misfit(source, target)
    rows = row_pairs(source.rows, target.rows)
    kept = [
        (source.rows[old], target.rows[new], _has(source.rows[old]) and _has(target.rows[new]))
        for old, new in rows
    ]
    before = replace(
        source,
        resolution=target.resolution,
        rows=tuple(old if both else _without(old) for old, _, both in kept),
    )
    after = replace(target, rows=tuple(new if both else _without(new) for _, new, both in kept))
    kernels = convs(after)

    def change(name: str, conv: Conv) -> Conv:
        if name not in kernels:
            raise _misfit(source, target)
        return replace(conv, kernel=kernels[name].kernel)

    try:
        before = change_convs(before, change)
        fits = _reads_alike(source, before, [old for old, _ in rows])
        fits = fits and _reads_alike(target, after, [new for _, new in rows])
    except InputError:
        fits = False
    if not fits:
        raise _misfit(source, target)
    return _Pairing(source=source, target=target, rows=rows, before=before, after=after)


def _reads_alike(whole: Arch, part: Arch, rows: Sequence[int]) -> bool:
    """Whether layers of ``part``, the ``rows`` of ``whole``, still read as many channels."""
    names = {f"rows.{number}": f"rows.{row}" for number, row in enumerate(rows)}
    inputs = _inputs(whole)
    return all(
        inputs[_renamed(name, names) or ""] == width for name, width in _inputs(part).items()
    )


def _inputs(arch: Arch) -> dict[str | None, int]:
    found: dict[str | None, int] = {}
    for layer in layers(arch):
        if isinstance(layer, ConvLayer):
            found[layer.name] = layer.in_channels
        elif isinstance(layer, LinearLayer):
            found[layer.name] = layer.in_features
    return found


def _misfit(source: Arch, target: Arch) -> InputError:
    return InputError(
        f"{target.name} cannot inherit the weights of {source.name}: they differ in more than "
        "channels, kernels, squeeze-and-excitation and rows that keep the shape of their input"
    )


def _has(row: Row) -> bool:
    return isinstance(row, Block) and any(step.name == EXCITE for step in row.steps())


def _without(row: Row) -> Row:
    if not isinstance(row, Block):
        return row

    def left(path: Branch) -> Branch:
        return tuple(step for step in path if step.name != EXCITE)

    return replace(row, entry=left(row.entry), paths=tuple(map(left, row.paths)))


def _renamed(name: str | None, rows: Mapping[str, str]) -> str | None:
    """Return the tensor's name with another row, or ``None`` if that row has none."""
    if name is None or not name.startswith("rows."):
        return name
    _, number, rest = name.split(".", 2)
    row = rows.get(f"rows.{number}")
    return None if row is None else f"{row}.{rest}"


def _with_kernel(tensor: Tensor, kernel: int | None) -> Tensor:
    """Return a convolution's weight with another kernel: zeros around, or the middle."""
    if kernel is None or tensor.dim() != 4:
        return tensor
    more = (kernel - tensor.shape[-1]) // 2
    return functional.pad(tensor, (more,) * 4) if more else tensor


def _outputs(arch: Arch) -> list[str]:
    """Return the last layer of the stem and of each row."""
    last: dict[str, str] = {}
    for layer in layers(arch):
        first, *rest = layer.name.split(".")
        last[f"rows.{rest[0]}" if first == "rows" else first] = layer.name
    return [last.get("stem", INPUT), *(last[f"rows.{i}"] for i in range(len(arch.rows)))]
