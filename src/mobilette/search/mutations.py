"""Networks one change away from a given one.

The factorised search space of MnasNet (Tan et al. 2019, arXiv 1807.11626, section 4.1) and
MobileNetV3 (Howard et al. 2019, arXiv 1905.02244): the blocks of a stage are alike, and a change is
of all of them.

A stage is the rows between two changes of resolution, and the pool or strided row that begins it. A
last convolution of 1x1 (MobileNet V2's 1,280 channels) and the hidden layers belong to the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from mobilette.arch.arch import Arch
from mobilette.arch.editing import change_convs, set_channels
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer
from mobilette.arch.rows import Block, Branch, Conv, Row, SqueezeExcite, Step
from mobilette.arch.scale import make_divisible
from mobilette.errors import InputError
from mobilette.search.stage_channels import is_depthwise, row_of, scaled

Kind = Literal["kernel", "expansion", "squeeze_excite", "depth", "channels"]
KERNELS = (3, 5)
EXPANSIONS = (3, 4, 6)  # of MnasNet's space, and the 4 that MobileNetV4 has
NARROWER, WIDER = 0.75, 1.25
REDUCTION = 4  # of squeeze-and-excitation, as in MobileNetV3


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A network one change away.

    Attributes:
        arch: the changed network.
        text: the change in words: ``5x5 kernels in stage 3``.
        kind: what was changed.
        stage: where, counted from 1; 0 is the head.
    """

    arch: Arch
    text: str
    kind: Kind
    stage: int


def mutations(arch: Arch) -> Iterator[Mutation]:
    """Yield the networks one change away from ``arch``, stage after stage.

    - ``kernel``: all depthwise convolutions 3x3 or 5x5. Full convolutions keep theirs.
    - ``expansion``: inverted bottlenecks expand their input 3, 4 or 6 times.
    - ``squeeze_excite``: on or off in all inverted bottlenecks, and where separable blocks have it
      already (PP-LCNet).
    - ``depth``: one block more or less, after or of those that keep the shape of the map. Where a
      stage has none, a plain copy of its last inverted bottleneck, separable or residual block.
    - ``channels``: all of a stage or the head x0.75 or x1.25. Where halves, groups or zeros tie
      counts (ShuffleNet, ResNet for CIFAR), only narrower; not where a stage shares its channels
      with another one (ShuffleNet V1).

    What the rows do not allow is left out. Each network can be built, and is another one.
    """
    seen = {arch}
    for mutation in _all(arch):
        if mutation.arch not in seen and _fits_together(mutation.arch):
            seen.add(mutation.arch)
            yield mutation


def stages(arch: Arch) -> tuple[range, ...]:
    """Return the numbers of the rows in each stage; those of the head are in none."""
    last = len(arch.rows)
    while last and _is_pointwise(arch.rows[last - 1]):
        last -= 1
    begins = [i for i in range(1, last) if arch.rows[i].stride > 1]
    if not last:
        return ()
    return tuple(map(range, [0, *begins], [*begins, last]))


def _all(arch: Arch) -> Iterator[Mutation]:
    for number, rows in enumerate(stages(arch), 1):

        def of(kind: Kind, changed: Arch, text: str, stage: int = number) -> Mutation:
            return Mutation(arch=changed, text=f"{text} in stage {stage}", kind=kind, stage=stage)

        for kernel in KERNELS:
            yield of("kernel", _kernels(arch, rows, kernel), f"{kernel}x{kernel} kernels")
        for ratio in EXPANSIONS:
            yield of("expansion", _expanded(arch, rows, ratio), f"expansion {ratio}")
        yield of("squeeze_excite", _with_excitation(arch, rows), "squeeze-and-excite")
        yield of("squeeze_excite", _without_excitation(arch, rows), "no squeeze-and-excite")
        shallower, deeper = _shallower(arch, rows), _deeper(arch, rows)
        yield of("depth", shallower, "one block less")
        yield of("depth", deeper, "one block more")
        for factor in (NARROWER, WIDER):
            changed = scaled(arch, partial(_in_rows, rows), factor)
            yield of("channels", changed, f"{factor} times the channels")
    for factor in (NARROWER, WIDER):
        changed = scaled(arch, partial(_in_head, arch), factor)
        text = f"{factor} times the channels in the head"
        yield Mutation(arch=changed, text=text, kind="channels", stage=0)


def _fits_together(arch: Arch) -> bool:
    try:
        layers(arch)
    except InputError:
        return False
    return True


def _is_pointwise(row: Row) -> bool:
    return isinstance(row, Conv) and row.kernel == 1


def _in_rows(rows: range, name: str) -> bool:
    return row_of(name) in rows


def _in_head(arch: Arch, name: str) -> bool:
    row = row_of(name)
    ends = stages(arch)[-1].stop if stages(arch) else 0
    return name.startswith("head.") if row is None else row >= ends


# Kernels


def _kernels(arch: Arch, rows: range, kernel: int) -> Arch:
    def change(name: str, conv: Conv) -> Conv:
        # The cheap half of a ghost module is no kernel of its paper's table.
        if row_of(name) not in rows or not is_depthwise(conv) or name.endswith(".cheap"):
            return conv
        if conv.kernel == 1 or conv.padding == "valid":
            return conv
        return replace(conv, kernel=kernel)

    return change_convs(arch, change)


# Expansion and squeeze-and-excitation


def _expanded(arch: Arch, rows: range, ratio: int) -> Arch:
    before = {
        layer.name: layer.in_channels for layer in layers(arch) if isinstance(layer, ConvLayer)
    }
    channels: dict[str, int] = {}
    for row in rows:
        name = f"rows.{row}"
        steps = _steps(arch.rows[row])
        expand = steps.get("expand")
        if not isinstance(expand, Conv) or "project" not in steps:
            continue
        count = make_divisible(ratio * before[f"{name}.expand.conv"])
        channels |= {f"{name}.expand.conv": count, f"{name}.depthwise.conv": count}
        excite = steps.get("squeeze_excite")
        if isinstance(excite, SqueezeExcite):
            channels[f"{name}.squeeze_excite.expand.conv"] = count
            if excite.reduce.channels == _reduced(expand.channels):
                channels[f"{name}.squeeze_excite.reduce.conv"] = _reduced(count)
    return set_channels(arch, channels)


def _steps(row: Row) -> dict[str, object]:
    return {step.name: step.operation for step in row.steps()} if isinstance(row, Block) else {}


def _reduced(channels: int) -> int:
    return make_divisible(channels // REDUCTION)


def _with_excitation(arch: Arch, rows: range) -> Arch:
    known = any("squeeze_excite" in _steps(row) for row in arch.rows)

    def add(path: Branch) -> Branch:
        names = [step.name for step in path]
        if "depthwise" not in names or "squeeze_excite" in names:
            return path
        if "project" not in names and not (known and "pointwise" in names):
            return path
        at = names.index("depthwise")
        depthwise = path[at].operation
        assert isinstance(depthwise, Conv)
        step = Step(name="squeeze_excite", operation=excitation(depthwise.channels))
        return (*path[: at + 1], step, *path[at + 1 :])

    return _change_paths(arch, rows, add)


def excitation(channels: int) -> SqueezeExcite:
    """Return MobileNetV3's squeeze-and-excitation of ``channels``."""
    return SqueezeExcite(
        reduce=Conv(channels=_reduced(channels), bias=True, norm="none", activation="relu"),
        expand=Conv(channels=channels, bias=True, norm="none", activation="hard_sigmoid"),
    )


def _without_excitation(arch: Arch, rows: range) -> Arch:
    def remove(path: Branch) -> Branch:
        return tuple(step for step in path if step.name != "squeeze_excite")

    return _change_paths(arch, rows, remove)


def _change_paths(arch: Arch, rows: range, change: Callable[[Branch], Branch]) -> Arch:
    changed = [
        replace(row, entry=change(row.entry), paths=tuple(map(change, row.paths)))
        if number in rows and isinstance(row, Block)
        else row
        for number, row in enumerate(arch.rows)
    ]
    return replace(arch, rows=tuple(changed))


# Depth


def _shallower(arch: Arch, rows: range) -> Arch:
    keeping = _keeping_shape(arch, rows)
    if not keeping or len(rows) < 2:
        return arch
    return replace(arch, rows=arch.rows[: keeping[-1]] + arch.rows[keeping[-1] + 1 :])


def _deeper(arch: Arch, rows: range) -> Arch:
    keeping = _keeping_shape(arch, rows)
    after = keeping[-1] if keeping else rows[-1]
    row = arch.rows[after]
    more = row if keeping else _plain_copy(row)
    if more is None:
        return arch
    return replace(arch, rows=(*arch.rows[: after + 1], more, *arch.rows[after + 1 :]))


def _keeping_shape(arch: Arch, rows: range) -> list[int]:
    """Return the rows that compute a map of their input's shape."""
    shapes = _row_shapes(arch)
    return [
        row
        for row in rows
        if shapes[row] == shapes[row + 1] and isinstance(arch.rows[row], Block | Conv)
    ]


def _row_shapes(arch: Arch) -> list[tuple[int, ...]]:
    """Return the shape before each row, and after the last."""
    last: dict[int, tuple[int, ...]] = {}
    for layer in layers(arch):
        row = row_of(layer.name)
        if row is not None or layer.name.startswith("stem"):
            last[-1 if row is None else row] = layer.shape
    return [last[row] for row in range(-1, len(arch.rows))]


def _plain_copy(row: Row) -> Row | None:
    """Return a block like ``row`` that keeps the shape of its output, if there is one."""
    if not isinstance(row, Block) or row.split or row.shuffle:
        return None
    path = next((path for path in (row.entry, *row.paths) if len(path) > 1), ())
    names = [step.name for step in path]
    if names[-1:] == ["project"] or names == ["depthwise", "pointwise"]:
        again = _inverted(path)
    elif row.join == "add" and row.paths[0] == path and not row.entry:
        if any(not isinstance(step.operation, Conv) for step in path):
            return None
        again = tuple(_with_stride_1(step) for step in path)
    else:
        return None
    if names == ["depthwise", "pointwise"]:
        return replace(row, entry=again)
    return replace(row, entry=(), paths=(again, ()), join="add")


def _with_stride_1(step: Step) -> Step:
    assert isinstance(step.operation, Conv)
    return replace(step, operation=replace(step.operation, stride=1))


def _inverted(path: Branch) -> Branch:
    """Return the path with as many input channels as it has output channels, without strides."""
    convolutions = [step.operation for step in path if isinstance(step.operation, Conv)]
    out = convolutions[-1].channels
    inner = convolutions[-2].channels if path[0].name in ("expand", "depthwise_start") else out
    again = []
    for step in path:
        operation = step.operation
        if isinstance(operation, SqueezeExcite):
            operation = replace(operation, expand=replace(operation.expand, channels=inner))
        elif isinstance(operation, Conv) and step is not path[-1]:
            count = out if step.name == "depthwise_start" else inner
            groups = count if is_depthwise(operation) else operation.groups
            operation = replace(operation, channels=count, groups=groups, stride=1)
        again.append(replace(step, operation=operation))
    return tuple(again)
