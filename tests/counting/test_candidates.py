from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.scale import Settings
from mobilette.counting.budget import parse_budget
from mobilette.counting.candidates import USUAL_WIDTHS, Candidate, Shortfall, candidates
from mobilette.counting.cost import cost
from mobilette.counting.published import published_accuracy, published_points

NAMES = ["mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2", "squeezenet1_1", "resnet8"]


def fitting(budget: str, **options: object) -> list[Candidate]:
    found = candidates(NAMES, parse_budget(budget), **{"resolutions": [64, 96, 160], **options})  # type: ignore[arg-type]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_as_trying_every_point(precision: str) -> None:
    """The plain way: build each network, count it, compare."""
    expected = set()
    for name in NAMES:
        widths = {w for n, w, _ in published_points() if n == name} | set(USUAL_WIDTHS)
        for width in widths:
            for resolution in (64, 96, 160):
                counted = cost(get_arch(name, Settings(width_mult=width, resolution=resolution)))
                size = getattr(counted.size_bytes, precision)
                ram = getattr(counted.peak_activation_bytes, precision)
                if counted.madds < 60e6 and size <= 6e6 and ram <= 768 * 1024:
                    expected.add((name, width, resolution, counted.madds, counted.params))
    found = fitting("madds<60M, size<=6MB, ram<=768KiB", precision=precision)
    points = [(c.name, c.width_mult, c.resolution, c.madds, c.params) for c in found]
    assert set(points) == expected
    assert len(points) == len(expected) > 3


@given(st.sampled_from(list_models()), st.floats(0.1, 1.9), st.floats(0.01, 0.1))
@settings(max_examples=60, deadline=None)
def test_wider_networks_need_more(name: str, width: float, more: float) -> None:
    """Therefore widths above one at which nothing fits are not counted."""
    narrow, wide = (
        cost(get_arch(name, Settings(width_mult=each, resolution=96)))
        for each in (width, width + more)
    )
    assert narrow.params <= wide.params
    assert narrow.madds <= wide.madds
    assert narrow.size_bytes.int8 <= wide.size_bytes.int8


def test_the_largest_accuracy_comes_first_and_none_last() -> None:
    found = fitting("madds<=300M")
    known = [c.accuracy.top1 for c in found if c.accuracy]
    assert known == sorted(known, reverse=True)
    assert [c.accuracy is None for c in found] == sorted(c.accuracy is None for c in found)
    assert known
    assert found[-1].accuracy is None
    for each in found:
        assert each.accuracy == published_accuracy(each.name, each.width_mult, each.resolution)


def test_limits_are_inclusive_or_not() -> None:
    madds = cost(get_arch("mobilenet_v2", Settings(resolution=160))).madds
    points = [(c.name, c.width_mult) for c in fitting(f"madds<={madds}", resolutions=[160])]
    assert ("mobilenet_v2", 1.0) in points
    points = [(c.name, c.width_mult) for c in fitting(f"madds<{madds}", resolutions=[160])]
    assert ("mobilenet_v2", 1.0) not in points


def test_classes_change_the_size() -> None:
    assert fitting("params<=500K", num_classes=2, resolutions=[96])[0].accuracy
    few = {c.name for c in fitting("params<=500K", num_classes=2)}
    many = {c.name for c in fitting("params<=500K")}
    assert many < few


def test_without_a_budget_every_point_is_there() -> None:
    found = candidates(list_models(), (), resolutions=[32, 128])
    assert isinstance(found, list)
    assert {c.name for c in found} == set(list_models())
    assert len({(c.name, c.width_mult, c.resolution) for c in found}) == len(found)
    assert {(c.width_mult) for c in found if c.name == "mobilenet_v2"} == {*USUAL_WIDTHS, 1.3}


def test_why_nothing_fits() -> None:
    """resnet8 has the smallest weights; at width 0.25 its channels are 8, 8 and 16."""
    short = candidates(NAMES, parse_budget("size<=10KB, madds<=1G"), resolutions=[96, 128])
    assert isinstance(short, Shortfall)
    assert short.tightest.text == "size<=10KB"
    assert (short.smallest.name, short.smallest.width_mult) == ("resnet8", 0.25)
    assert short.smallest.size_bytes.int8 > 10_000


def test_limits_that_only_together_are_too_tight() -> None:
    text = "params<=40K, madds<=15M"
    for alone in text.split(","):
        assert fitting(alone, resolutions=[160])
    short = candidates(NAMES, parse_budget(text), resolutions=[160])
    assert isinstance(short, Shortfall)
    assert short.nearest.params > 40_000 or short.nearest.madds > 15_000_000
