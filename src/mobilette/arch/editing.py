"""Change the convolutions of an `Arch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import zip_longest

from mobilette.arch.arch import Arch
from mobilette.arch.rows import (
    BatchNorm,
    Block,
    Branch,
    Conv,
    ConvPool,
    Ghost,
    Operation,
    PoolConvLinear,
    PoolLinear,
    Row,
    SqueezeExcite,
    Subsample,
)
from mobilette.errors import InputError

Change = Callable[[str, Conv], Conv]


def change_convs(arch: Arch, change: Change) -> Arch:
    """Return ``arch`` with every convolution replaced by ``change(name, convolution)``.

    Names are as in `mobilette.arch.layers.layers`, without the last part: ``stem``,
    ``rows.3.expand``, ``rows.3.squeeze_excite.reduce``, ``head.classifier``.

    Raises:
        InputError: SqueezeNet's head cannot have the new classifier.
    """
    return _changed(arch, change, lambda _, operation: operation)


def set_channels(arch: Arch, channels: Mapping[str, int]) -> Arch:
    """Return ``arch`` with other channel counts; layers not in ``channels`` stay.

    ``channels`` gives the outputs, by name in `mobilette.arch.layers.layers`, of convolutions,
    hidden linear layers and shortcuts without weights. A depthwise convolution stays one.
    """

    def conv(name: str, conv: Conv) -> Conv:
        count = channels.get(f"{name}.conv", conv.channels)
        depthwise = conv.groups == conv.channels > 1
        return replace(conv, channels=count, groups=count if depthwise else conv.groups)

    def shortcut(name: str, operation: Subsample) -> Subsample:
        return replace(operation, channels=channels.get(name, operation.channels))

    changed = _changed(arch, conv, shortcut)
    head = changed.head
    if isinstance(head, PoolLinear):
        names = (f"head.hidden.{i}.linear" for i in range(len(head.hidden)))
        hidden = map(channels.get, names, head.hidden)
        head = replace(head, hidden=tuple(hidden))
    return replace(changed, head=head)


def adopt_details(arch: Arch, source: Arch) -> Arch:
    """Return ``arch`` with the padding, activations, biases and batch norms of ``source``.

    Convolutions are paired by name; channels, kernels and strides stay. Where ``source`` has its
    batch norm folded into the convolution, ``arch`` keeps its own.
    """
    theirs = convs(source)

    def change(name: str, conv: Conv) -> Conv:
        other = theirs.get(name, conv)
        conv = replace(conv, padding=other.padding, activation=other.activation)
        if conv.norm == "batch" and other.norm == "none":
            return conv
        return replace(conv, norm=other.norm, bias=other.bias)

    rows = tuple(
        replace(row, activation=other.activation)
        if isinstance(row, Block) and isinstance(other, Block)
        else row
        for row, other in zip_longest(arch.rows, source.rows[: len(arch.rows)])
    )
    head = arch.head
    if isinstance(head, PoolLinear) and isinstance(source.head, PoolLinear):
        head = replace(head, activation=source.head.activation)
    adopted = change_convs(replace(arch, rows=rows, head=head), change)
    return replace(adopted, norm_epsilon=source.norm_epsilon, norm_momentum=source.norm_momentum)


def adopt_norms(arch: Arch, source: Arch) -> Arch:
    """Return ``arch`` with the batch norms that ``source`` has and ``arch`` lacks.

    Convolutions are paired by name. One that gains a batch norm also takes over whether it has a
    bias.
    """
    theirs = convs(source)

    def change(name: str, conv: Conv) -> Conv:
        other = theirs.get(name, conv)
        if conv.norm == "none" and other.norm == "batch":
            return replace(conv, norm=other.norm, bias=other.bias)
        return conv

    return change_convs(arch, change)


def merged(arch: Arch) -> Arch:
    """Return ``arch`` as deployed: parallel branches (RepVGG, MobileOne) are one convolution."""
    return replace(
        arch,
        stem=arch.stem if isinstance(arch.stem, Conv) else merged_row(arch.stem) or arch.stem,
        rows=tuple(merged_row(row) or row for row in arch.rows),
    )


def merged_row(row: Row) -> Conv | None:
    """Return the convolution that the branches of ``row`` make, if they make one."""
    if not isinstance(row, Block) or row.entry or row.join != "add" or row.split or row.shuffle:
        return None
    if any(len(path) != 1 for path in row.paths):
        return None
    operations = [path[0].operation for path in row.paths]
    branches = [operation for operation in operations if isinstance(operation, Conv)]
    if not branches or not all(isinstance(each, Conv | BatchNorm) for each in operations):
        return None
    largest = max(branches, key=lambda conv: conv.kernel)
    alike = {
        (conv.stride, conv.groups, conv.activation, conv.padding, conv.norm) for conv in branches
    }
    if alike != {(largest.stride, largest.groups, "none", "symmetric", "batch")}:
        return None
    return replace(largest, bias=True, norm="none", activation=row.activation)


def convs(arch: Arch) -> dict[str, Conv]:
    """Return the convolutions of ``arch`` by name, as in `change_convs`."""
    found: dict[str, Conv] = {}

    def note(name: str, conv: Conv) -> Conv:
        found[name] = conv
        return conv

    change_convs(arch, note)
    return found


def _changed(arch: Arch, conv: Change, subsample: Callable[[str, Subsample], Subsample]) -> Arch:
    def operation(name: str, given: Operation) -> Operation:
        match given:
            case Conv():
                return conv(name, given)
            case Subsample():
                return subsample(name, given)
            case SqueezeExcite():
                reduce = conv(f"{name}.reduce", given.reduce)
                return replace(given, reduce=reduce, expand=conv(f"{name}.expand", given.expand))
            case Ghost():
                primary = conv(f"{name}.primary", given.primary)
                return replace(given, primary=primary, cheap=conv(f"{name}.cheap", given.cheap))
            case _:
                return given

    def branch(name: str, steps: Branch) -> Branch:
        return tuple(
            replace(step, operation=operation(f"{name}.{step.name}", step.operation))
            for step in steps
        )

    def row(name: str, given: Row) -> Row:
        if isinstance(given, Block):
            entry = branch(name, given.entry)
            return replace(given, entry=entry, paths=tuple(branch(name, p) for p in given.paths))
        return conv(name, given) if isinstance(given, Conv) else given

    head = arch.head
    if isinstance(head, ConvPool):
        classifier = conv("head.classifier", head.classifier)
        head = replace(head, classes=classifier.channels, norm=classifier.norm)
        if head.classifier != classifier:
            raise InputError(f"head.classifier: {arch.name}'s head has no such convolution")
    if isinstance(head, PoolConvLinear):
        head = replace(head, conv=conv("head.conv", head.conv))
    stem = row("stem", arch.stem)
    assert isinstance(stem, Conv | Block)  # as before
    return replace(
        arch,
        stem=stem,
        rows=tuple(row(f"rows.{i}", each) for i, each in enumerate(arch.rows)),
        head=head,
    )
