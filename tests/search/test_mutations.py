"""Networks one change away: each is a network, and differs in exactly what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilette.arch.arch import Arch
from mobilette.arch.editing import convs
from mobilette.arch.layers import layers
from mobilette.arch.rows import Conv
from mobilette.counting.cost import cost
from mobilette.nn.network import build_empty
from mobilette.records import parse
from mobilette.search.mutations import Mutation, mutations, stages
from tests.families import WIDTHS, arch_of

ALL = {"kernel", "expansion", "squeeze_excite", "depth", "channels"}


@cache
def mutated(name: str, width: float) -> tuple[Arch, tuple[Mutation, ...]]:
    arch = arch_of(name, width)
    return arch, tuple(mutations(arch))


any_mutation = st.sampled_from(WIDTHS).flatmap(
    lambda network: st.tuples(
        st.just(mutated(*network[:2])[0]), st.sampled_from(mutated(*network[:2])[1])
    )
)


@settings(max_examples=20)
@given(any_mutation)
def test_each_is_a_network_of_its_own(pair: tuple[Arch, Mutation]) -> None:
    arch, mutation = pair
    changed = mutation.arch
    assert changed != arch
    counted = cost(changed)
    assert counted.params == sum(each.numel() for each in build_empty(changed).parameters())
    assert parse(Arch, json.loads(json.dumps(changed.to_json())), where="arch") == changed
    kept = (changed.num_classes, changed.shape, layers(changed)[-1].shape)
    assert kept == (arch.num_classes, arch.shape, layers(arch)[-1].shape)


def is_in(mutation: Mutation, arch: Arch, name: str) -> bool:
    """Whether the convolution ``name`` is in the stage that was changed."""
    first, *rest = name.split(".")
    found = stages(arch)
    if mutation.stage:
        return first == "rows" and int(rest[0]) in found[mutation.stage - 1]
    return first == "head" or (first == "rows" and int(rest[0]) >= found[-1].stop)


def is_depthwise(conv: Conv) -> bool:
    return conv.groups == conv.channels > 1


@settings(max_examples=40)
@given(any_mutation)
def test_each_differs_in_exactly_what_it_says(pair: tuple[Arch, Mutation]) -> None:
    arch, mutation = pair
    changed, before, after = mutation.arch, convs(arch), convs(mutation.arch)
    if mutation.kind == "depth":
        more, less = sorted((arch.rows, changed.rows), key=len, reverse=True)
        assert len(more) == len(less) + 1
        assert less in [more[:i] + more[i + 1 :] for i in range(len(more))]
        assert ("more" in mutation.text) == (changed.rows == more)
        assert replace(changed, rows=arch.rows) == arch
        return
    assert len(changed.rows) == len(arch.rows)
    if mutation.kind == "squeeze_excite":
        both = before.keys() & after.keys()
        assert all(before[name] == after[name] for name in both)
        others = before.keys() ^ after.keys()
        assert all("squeeze_excite" in name and is_in(mutation, arch, name) for name in others)
        assert (len(after) < len(before)) == mutation.text.startswith("no ")
        return
    assert before.keys() == after.keys()
    different = {name for name in before if before[name] != after[name]}
    for name in different:
        old, new = before[name], after[name]
        if mutation.kind == "kernel":
            assert is_depthwise(old)
            assert is_in(mutation, arch, name)
            assert replace(new, kernel=old.kernel) == old
            assert f"{new.kernel}x{new.kernel}" in mutation.text
        else:
            assert replace(new, channels=old.channels, groups=old.groups) == old
            read = is_depthwise(old) and is_depthwise(new)  # as many as its input has
            assert read or name.startswith("stem") or is_in(mutation, arch, name)
            if mutation.kind == "expansion":
                assert not name.endswith("project")
            else:
                assert (new.channels < old.channels) == mutation.text.startswith("0.75 ")
    assert different or changed.head != arch.head


@pytest.mark.parametrize(
    ("name", "width", "kinds"),
    [
        ("mobilenet_v1", 0.5, {"kernel", "depth", "channels"}),
        (
            "mobilenet_v2",
            0.75,
            {"kernel", "expansion", "squeeze_excite", "depth", "channels"},
        ),
        (
            "mobilenet_v3_large",
            0.75,
            {"kernel", "expansion", "squeeze_excite", "depth", "channels"},
        ),
        ("shufflenet_v1_g3", 1.0, {"kernel", "depth"}),
        ("resnet20", 1.0, {"depth", "channels"}),
        ("vgg11", 0.25, {"depth", "channels"}),
    ],
)
def test_what_the_rows_allow(name: str, width: float, kinds: set[str]) -> None:
    assert {mutation.kind for mutation in mutated(name, width)[1]} == kinds


def test_v3_from_the_papers_point_of_view() -> None:
    arch = arch_of("mobilenet_v3_large", 1.0, resolution=224)
    ends = [(rows.start, rows.stop) for rows in stages(arch)]
    assert ends == [(0, 1), (1, 3), (3, 6), (6, 12), (12, 15)]
    found = {mutation.text: mutation.arch for mutation in mutations(arch)}
    assert len(set(found.values())) == len(found)
    assert "3x3 kernels in stage 3" in found
    assert "5x5 kernels in stage 3" not in found  # it has them
    wide = convs(found["expansion 6 in stage 3"])
    assert [wide[f"rows.{row}.expand"].channels for row in (3, 4, 5)] == [144, 240, 240]
    assert wide["rows.4.squeeze_excite.reduce"].channels == 64  # a quarter, in eights
    assert len(found["one block less in stage 4"].rows) == 15


def test_stages_of_a_cifar_resnet_change_alone() -> None:
    arch = arch_of("resnet20", 1.0)
    found = {mutation.text: mutation.arch for mutation in mutations(arch)}
    narrow = found["0.75 times the channels in stage 1"]
    shapes = {layer.name: layer.shape[0] for layer in layers(narrow)}
    assert [shapes[f"rows.{row}.add"] for row in range(9)] == [12] * 3 + [32] * 3 + [64] * 3
    assert shapes["stem.conv"] == 12  # it is added to them
    narrow = found["0.75 times the channels in stage 2"]
    shapes = {layer.name: layer.shape[0] for layer in layers(narrow)}
    assert [shapes[f"rows.{row}.add"] for row in range(9)] == [16] * 3 + [24] * 3 + [64] * 3
