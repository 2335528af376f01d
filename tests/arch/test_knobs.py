"""What can be made narrower, and how far."""

from __future__ import annotations

import pytest

from mobilette.arch.channels import channel_groups
from mobilette.arch.editing import convs
from mobilette.arch.knobs import Knobs
from mobilette.arch.rows import Block, Subsample
from tests.families import WIDTHS, arch_of


@pytest.mark.parametrize(("name", "width"), [(name, width) for name, width, _ in WIDTHS])
def test_every_channel_that_can_go_belongs_to_a_knob(name: str, width: float) -> None:
    arch = arch_of(name, width)
    knobs = Knobs(arch)
    assert knobs.set([knob.size for knob in knobs]) == arch
    assert all(knobs.of(group) is not None for group in channel_groups(arch))


def test_layers_that_an_addition_ties_are_one_knob() -> None:
    knobs = Knobs(arch_of("mobilenet_v2", 0.5))
    counts = [knob.size for knob in knobs]
    index = next(i for i, knob in enumerate(knobs) if knob.layers == ("rows.1.project.conv",))
    counts[index] = 8
    narrow = convs(knobs.set(counts))
    changed = {
        name for name, conv in convs(knobs.arch).items() if conv.channels != narrow[name].channels
    }
    assert changed == {"rows.1.project", "rows.2.project"}
    assert not knobs[index].bound


def test_a_depthwise_convolution_stays_one() -> None:
    knobs = Knobs(arch_of("mobilenet_v1", 0.25))
    narrow = convs(knobs.set([8, *(knob.size for knob in list(knobs)[1:])]))
    assert (narrow["rows.0.depthwise"].channels, narrow["rows.0.depthwise"].groups) == (8, 8)


def test_zeros_and_what_they_are_added_to_grow_less() -> None:
    knobs = Knobs(arch_of("resnet20", 1.0))
    counts = [knob.size for knob in knobs]
    index = next(i for i, knob in enumerate(knobs) if knob.layers == ("rows.3.conv2.conv",))
    assert (knobs[index].size, knobs[index].bound) == (16, True)
    narrow = knobs.set([*counts[:index], 8, *counts[index + 1 :]])
    row = narrow.rows[3]
    assert isinstance(row, Block)
    shortcut = row.paths[1][0].operation
    assert isinstance(shortcut, Subsample)
    assert shortcut.channels == convs(narrow)["rows.3.conv2"].channels == 24
    assert convs(narrow)["rows.6.conv2"].channels == 56


def test_shuffles_keep_proportions() -> None:
    v1, v2 = Knobs(arch_of("shufflenet_v1_g3", 1.0)), Knobs(arch_of("shufflenet_v2", 1.0))
    assert (v1[0].channels, v1[0].size) == ((24, 216, 240, 480), 24)
    assert v2[1].channels == (58,) * 5


@pytest.mark.parametrize(("name", "allowed"), [("shufflenet_v1_g3", 18), ("shufflenet_v1_g8", 16)])
def test_groups_tell_which_counts_are_allowed(name: str, allowed: int) -> None:
    knobs = Knobs(arch_of(name, 1.0))
    full = [knob.size for knob in knobs]
    assert all(knobs.allowed(full))
    assert knobs.allowed([allowed, *full[1:]])[0]
    assert not knobs.allowed([allowed + 1, *full[1:]])[0]
    assert all(knobs.allowed([allowed + 1, *full[1:]])[1:])
