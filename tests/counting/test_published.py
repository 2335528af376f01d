from __future__ import annotations

import json
from itertools import product
from math import log
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.published import COMMITTED, lines, table
from mobilette.arch.catalogue import family_of, list_models
from mobilette.counting.published import published_accuracy, published_points, published_widths

POINTS = published_points()
NAMES = st.sampled_from(sorted({name for name, _, _ in POINTS}))
WIDTHS = st.floats(0.1, 3.0)
RESOLUTIONS = st.integers(16, 512)


def test_the_committed_table_is_what_the_script_makes(shared: Path) -> None:
    assert COMMITTED.read_text(encoding="utf-8") == table(shared / "refs")
    assert len(lines(shared / "refs")) == len(POINTS)


def test_every_line_is_a_network_with_a_source() -> None:
    for (name, _, resolution), known in POINTS.items():
        assert family_of(name) != "ResNet for CIFAR"
        assert 96 <= resolution <= 448
        assert 0.4 < known.top1 < 0.85
        assert known.source
        assert "in12k" not in known.source, "pre-trained on more images"
        assert not known.interpolated


@pytest.mark.parametrize(
    ("name", "width", "resolution", "top1"),
    [
        ("mobilenet_v1", 0.25, 128, 0.415),
        ("mobilenet_v2", 1.4, 224, 0.75),
        ("mobilenet_v2_120d", 1.0, 224, 0.773),
        ("mobilenet_v3_small", 0.75, 224, 0.654),
        ("mobilenet_v3_large", 1.0, 96, 0.633),
        ("mobilenet_v4_conv_small", 1.0, 224, 0.73756),
        ("mnasnet_a1", 1.0, 224, 0.752),
        ("mnasnet_a1", 0.5, 96, 0.547),
        ("mnasnet_b1", 1.0, 224, 0.73456),
        ("efficientnet_lite2", 1.0, 260, 0.776),
        ("efficientnet_lite4", 1.0, 300, 0.815),
        ("pp_lcnet", 0.5, 224, 0.63138),
        ("shufflenet_v1_g8", 0.25, 224, 0.473),
        ("shufflenet_v2", 0.5, 224, 0.611),
        ("resnet50_paper", 1.0, 224, 0.753),
        ("resnet50", 1.0, 224, 0.7613),
    ],
)
def test_known_values(name: str, width: float, resolution: int, top1: float) -> None:
    """Typed from the papers and repositories, not from the collected numbers."""
    known = published_accuracy(name, width, resolution)
    assert known is not None
    assert (known.top1, known.interpolated) == (top1, False)


def test_the_grids_are_whole(shared: Path) -> None:
    """Every line of the authors' three full grids is there, and no quantised one."""
    for name, file, source, lines_of_grid in (
        ("mobilenet_v1", "mobilenet_v1.json", "research/slim", 16),
        ("mobilenet_v2", "mobilenet_v2.json", "research/slim", 22),
        ("mnasnet_a1", "squeezenet_resnet_vgg_mnasnet_efflite.json", "official/mnasnet", 25),
    ):
        rows = json.loads((shared / "refs" / file).read_text())["rows"]
        of_authors = [row for row in rows if source in row["source"]]
        in_float = [row for row in of_authors if row.get("precision", "float") == "float"]
        assert len(in_float) == lines_of_grid
        for row in in_float:
            known = POINTS[name, row["alpha"], row["resolution"]]
            assert known.top1 == pytest.approx(row["top1"] / 100)


def test_published_values_rise_with_width_and_resolution() -> None:
    """So what is interpolated between them does, too."""
    for (name, width, side), (other, wider, larger) in product(POINTS, POINTS):
        if name == other and width <= wider and side <= larger:
            assert POINTS[name, width, side].top1 <= POINTS[other, wider, larger].top1


@given(name=NAMES, width=WIDTHS, resolution=RESOLUTIONS)
def test_interpolated_values_lie_between_published_ones(
    name: str, width: float, resolution: int
) -> None:
    known = published_accuracy(name, width, resolution)
    if known is None:
        return
    own = {(w, r): value.top1 for (n, w, r), value in POINTS.items() if n == name}
    assert min(w for w, _ in own) <= width <= max(w for w, _ in own)
    assert min(r for _, r in own) <= resolution <= max(r for _, r in own)
    less = [top1 for (w, r), top1 in own.items() if w <= width and r <= resolution]
    more = [top1 for (w, r), top1 in own.items() if w >= width and r >= resolution]
    assert max(less) - 1e-5 <= known.top1 <= min(more) + 1e-5


@given(
    width=st.floats(0.35, 1.0),
    wider=st.floats(0.35, 1.0),
    sides=st.tuples(*[st.integers(96, 224)] * 2),
)
def test_interpolation_is_monotone_on_a_grid(
    width: float, wider: float, sides: tuple[int, int]
) -> None:
    smaller = published_accuracy("mobilenet_v2", min(width, wider), min(sides))
    larger = published_accuracy("mobilenet_v2", max(width, wider), max(sides))
    assert smaller is not None
    assert larger is not None
    assert smaller.top1 <= larger.top1


def test_no_accuracy_beyond_what_is_published() -> None:
    for point in (
        ("mobilenet_v2", 1.0, 95),
        ("mobilenet_v2", 1.0, 225),
        ("mobilenet_v2", 1.5, 224),
        ("mobilenet_v2", 1.2, 160),  # above 1.0 only 224 pixels are published
        ("mobilenet_v3_small", 0.6, 160),  # a cross, no grid
        ("resnet20", 1.0, 32),
        ("squeezenet1_1_bn", 1.0, 224),
    ):
        assert published_accuracy(*point) is None
    assert published_widths("resnet20") == []
    assert published_widths("shufflenet_v2") == [0.5, 1.0, 1.5, 2.0]


def test_interpolation_is_within_two_points_where_the_truth_is_known() -> None:
    """Leave out an inner published point and interpolate it from its neighbours on a line."""
    errors = []
    for (name, width, side), known in POINTS.items():
        own = sorted({r for n, w, r in POINTS if (n, w) == (name, width)})
        place = own.index(side)
        if 0 < place < len(own) - 1:
            low, high = own[place - 1], own[place + 1]
            share = log(side / low) / log(high / low)
            below, above = POINTS[name, width, low].top1, POINTS[name, width, high].top1
            errors.append(abs((1 - share) * below + share * above - known.top1))
    assert len(errors) > 20
    assert max(errors) < 0.02


def test_names_are_the_catalogues() -> None:
    assert {name for name, _, _ in POINTS} <= set(list_models())
