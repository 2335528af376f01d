"""An `Arch` with some of its convolutions changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import zip_longest

from mobilette.arch.arch import Arch
from mobilette.arch.rows import (
    Block,
    Branch,
    Conv,
    ConvPool,
    Operation,
    PoolLinear,
    Row,
    SqueezeExcite,
    Subsample,
)
from mobilette.errors import InputError

Change = Callable[[str, Conv], Conv]


def change_convs(arch: Arch, change: Change) -> Arch:
    """Return ``arch`` with every convolution replaced by ``change(name, convolution)``.

    The names are those of `mobilette.arch.layers.layers` without the last part: ``stem``,
    ``rows.3.expand``, ``rows.3.squeeze_excite.reduce``, ``head.classifier``.

    Raises:
        InputError: SqueezeNet's classifier became one that its head cannot have.
    """
    head = arch.head
    if isinstance(head, ConvPool):
        classifier = change("head.classifier", head.classifier)
        head = replace(head, classes=classifier.channels, norm=classifier.norm)
        if head.classifier != classifier:
            raise InputError(f"head.classifier: {arch.name}'s head has no such convolution")
    return replace(
        arch,
        stem=change("stem", arch.stem),
        rows=tuple(_row(f"rows.{i}", row, change) for i, row in enumerate(arch.rows)),
        head=head,
    )


def set_channels(arch: Arch, channels: Mapping[str, int]) -> Arch:
    """Return ``arch`` with other numbers of channels.

    Args:
        arch: the network.
        channels: for layers of `mobilette.arch.layers.layers` by name the channels or features that
            they give: convolutions, hidden linear layers and shortcuts without weights. What is not
            in it stays; a depthwise convolution stays one.
    """

    def conv(name: str, conv: Conv) -> Conv:
        count = channels.get(f"{name}.conv", conv.channels)
        depthwise = conv.groups == conv.channels > 1
        return replace(conv, channels=count, groups=count if depthwise else conv.groups)

    def shortcut(name: str, row: Row) -> Row:
        if not isinstance(row, Block):
            return row
        return replace(
            row, paths=tuple(_resized_shortcuts(name, path, channels) for path in row.paths)
        )

    changed = change_convs(arch, conv)
    rows = tuple(shortcut(f"rows.{i}", row) for i, row in enumerate(changed.rows))
    head = changed.head
    if isinstance(head, PoolLinear):
        hidden = (
            channels.get(f"head.hidden.{i}.linear", features)
            for i, features in enumerate(head.hidden)
        )
        head = replace(head, hidden=tuple(hidden))
    return replace(changed, rows=rows, head=head)


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

    Convolutions are paired by name. Where one gets its batch norm, it has a bias or none as there.
    """
    theirs = convs(source)

    def change(name: str, conv: Conv) -> Conv:
        other = theirs.get(name, conv)
        if conv.norm == "none" and other.norm == "batch":
            return replace(conv, norm=other.norm, bias=other.bias)
        return conv

    return change_convs(arch, change)


def convs(arch: Arch) -> dict[str, Conv]:
    """Return the convolutions of ``arch`` by name, as `change_convs` calls them."""
    found: dict[str, Conv] = {}

    def note(name: str, conv: Conv) -> Conv:
        found[name] = conv
        return conv

    change_convs(arch, note)
    return found


def _row(name: str, row: Row, change: Change) -> Row:
    if isinstance(row, Conv):
        return change(name, row)
    if not isinstance(row, Block):
        return row
    return replace(
        row,
        entry=_path(name, row.entry, change),
        paths=tuple(_path(name, path, change) for path in row.paths),
    )


def _path(name: str, path: Branch, change: Change) -> Branch:
    return tuple(
        replace(step, operation=_operation(f"{name}.{step.name}", step.operation, change))
        for step in path
    )


def _resized_shortcuts(name: str, path: Branch, channels: Mapping[str, int]) -> Branch:
    return tuple(
        replace(
            step,
            operation=replace(
                operation, channels=channels.get(f"{name}.{step.name}", operation.channels)
            ),
        )
        if isinstance(operation := step.operation, Subsample)
        else step
        for step in path
    )


def _operation(name: str, operation: Operation, change: Change) -> Operation:
    if isinstance(operation, Conv):
        return change(name, operation)
    if isinstance(operation, SqueezeExcite):
        return replace(
            operation,
            reduce=change(f"{name}.reduce", operation.reduce),
            expand=change(f"{name}.expand", operation.expand),
        )
    return operation
