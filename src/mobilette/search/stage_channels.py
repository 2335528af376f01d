"""Networks with the channels of one part scaled and all others as they were."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from mobilette.arch.arch import Arch
from mobilette.arch.editing import convs
from mobilette.arch.knobs import Knobs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer, SubsampleLayer
from mobilette.arch.rows import Conv
from mobilette.errors import InputError

MULTIPLE, SMALLEST = 8, 8


def row_of(name: str) -> int | None:
    """Return the number of the row that a layer or convolution is in, if any."""
    first, *rest = name.split(".")
    return int(rest[0]) if first == "rows" else None


def is_depthwise(conv: Conv) -> bool:
    """Whether a convolution has a group for each channel."""
    return conv.groups == conv.channels > 1


def scaled(arch: Arch, inside: Callable[[str], bool], factor: float) -> Arch:
    """Return ``arch`` with the channels that are computed ``inside`` scaled, and no others."""
    knobs = Knobs(arch)
    counts = [knob.size for knob in knobs]
    for i, names in enumerate(_computing(arch, knobs)):
        knob = knobs[i]
        if not any(map(inside, names)):
            continue
        if knob.bound and factor > 1:
            return arch
        if any(not inside(name) and not name.startswith("stem") for name in names):
            return arch
        counts[i] = _times(knob.size, factor) if len(set(knob.channels)) == 1 else counts[i]
    _keep_zeros_even(arch, knobs, counts, inside, factor)
    if any(count < 1 for count in counts):
        return arch
    try:
        changed = knobs.set(counts)
    except InputError:  # a fraction of a channel
        return arch
    before, after = convs(arch), convs(changed)
    elsewhere = [
        name
        for name, conv in after.items()
        if conv.channels != before[name].channels
        and not (inside(name) or name.startswith("stem") or is_depthwise(conv))
    ]
    return arch if elsewhere else changed


def _computing(arch: Arch, knobs: Knobs) -> list[set[str]]:
    """Return, for each knob, the layers whose outputs are its channels and no others."""
    found = [set(knob.layers) for knob in knobs]
    for layer in layers(arch):
        if isinstance(layer, ConvLayer | LinearLayer):
            parts, others = knobs.parts(layer.name)
            depthwise = isinstance(layer, ConvLayer) and layer.is_depthwise
            if len(parts) == 1 and not others and not depthwise:
                found[next(iter(parts))].add(layer.name)
    return found


def _keep_zeros_even(
    arch: Arch, knobs: Knobs, counts: list[int], inside: Callable[[str], bool], factor: float
) -> None:
    """Let zeros as new channels make up for what was cut before them."""
    for layer in layers(arch):
        if not isinstance(layer, SubsampleLayer):
            continue
        parts, others = knobs.parts(layer.inputs[0])
        new = [i for i in knobs.parts(layer.name)[0] if i not in parts]
        if len(new) != 1:
            continue
        total = layer.shape[0]
        wanted = _times(total, factor) if inside(layer.name) else total
        before = others + sum((share * counts[i] for i, share in parts.items()), Fraction(0))
        counts[new[0]] = int(wanted - before)


def _times(count: int, factor: float) -> int:
    if count <= SMALLEST and factor < 1:
        return count
    multiple = MULTIPLE if count >= 4 * MULTIPLE else MULTIPLE // 2
    return max(SMALLEST, int(count * factor / multiple + 0.5) * multiple)
