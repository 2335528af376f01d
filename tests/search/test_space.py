"""What `fit` chooses from: networks that fit, and a few of them that differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.scale import Settings
from mobilette.counting.budget import parse_budget
from mobilette.counting.candidates import Shortfall
from mobilette.counting.cost import cost
from mobilette.errors import InputError
from mobilette.formats.pretrained import create_model
from mobilette.model.model import Model
from mobilette.run.directory import Run
from mobilette.search.contender import Contender
from mobilette.search.prior import Setting, prior, shortlist
from mobilette.search.scenes import SCENES, wanted
from mobilette.search.space import within

SETTING = Setting(own=64, images=1000, seconds=600.0, first=12.0, madds_per_second=2e10)
SOME = ("mobilenet_v1", "mobilenet_v2", "resnet8", "shufflenet_v2", "mobilenet_v3_small")


def space(
    budget: str, *, starts: dict[str, Model] | None = None, setting: Setting = SETTING
) -> list[Contender]:
    found = within(
        parse_budget(budget),
        starts or {},
        names=SOME,
        setting=setting,
        target="onnx",
        precision="int8",
        num_classes=10,
        tables={},
    )
    assert not isinstance(found, Shortfall)
    return found


def test_every_contender_fits_by_counting_it_alone() -> None:
    for each in space("size<=300KB, ram<=100KB, madds<=20M"):
        assert each.width_mult is not None
        settings = Settings(width_mult=each.width_mult, resolution=each.resolution, num_classes=10)
        counted = cost(get_arch(each.name, settings))
        assert (counted.params, counted.madds) == (each.params, each.madds)
        assert counted.size_bytes.int8 == each.size_bytes <= 300_000
        assert counted.peak_activation_bytes.int8 == each.ram_bytes <= 100_000
        assert counted.madds <= 20_000_000


def test_keys_name_one_contender_each() -> None:
    keys = [each.key for each in space("madds<=100M")]
    assert len(keys) == len(set(keys))


def test_starts_are_sliced_to_narrower_networks_of_their_family(trained: Run) -> None:
    model = replace(
        trained.model, origin=replace(trained.model.origin, name="mobilenet_v1", width_mult=0.5)
    )
    path = str(trained.path)
    everything = space("madds<=100M", starts={path: model}, setting=replace(SETTING, own=16))
    found = [each for each in everything if each.start == path]
    assert {each.name for each in found} == {"mobilenet_v1"}
    assert {each.width_mult for each in found} >= {0.25, 0.5}
    assert all((each.width_mult or 0) <= 0.5 for each in found)
    wide = next(each for each in found if each.width_mult == 0.5)
    narrow = replace(wide, width_mult=0.25)
    assert prior(wide, {path: model}, SETTING) > prior(narrow, {path: model}, SETTING)


def test_a_shortlist_has_several_families() -> None:
    found = shortlist(space("madds<=100M"), 8)
    assert len({each.key for each in found}) == 8
    families = Counter(each.family for each in found)
    assert len(families) >= 3


def test_little_time_prefers_smaller_networks() -> None:
    contenders = space("madds<=1G")

    def best(seconds: float) -> Contender:
        setting = replace(SETTING, seconds=seconds)
        return max(contenders, key=lambda each: prior(each, {}, setting))

    assert best(30.0).madds < best(36_000.0).madds


def test_of_few_parameters_more_are_better_until_the_images_are_few() -> None:
    [small, *_] = space("size<=100KB")
    lean, full = (replace(small, params=params) for params in (5_000, 50_000))
    assert prior(full, {}, SETTING) > prior(lean, {}, SETTING)
    few = replace(SETTING, images=50)
    assert prior(full, {}, few) == prior(lean, {}, few)


def test_weights_want_images_as_large_as_they_were_trained_with(trained: Run) -> None:
    network = create_model("mobilenet_v1", num_classes=3, width_mult=0.25, resolution=160)
    model = replace(
        trained.model,
        arch=network.arch,
        weights=network.state_dict(),
        origin=replace(trained.model.origin, name="mobilenet_v1", width_mult=0.25),
    )
    starts, setting = {"run": model}, replace(SETTING, own=32)
    found = space("madds<=100M", starts=starts, setting=setting)
    mine = [each for each in found if each.start == "run" and each.width_mult == 0.25]
    by_side = {each.resolution: prior(each, starts, setting) for each in mine}
    assert by_side[128] > by_side[64] > by_side[32]
    scratch = {each.resolution for each in found if each.start != "run"}
    assert scratch <= {16, 24, 32, 40, 48}  # nothing is gained by enlarging these


def test_resolutions_are_shared_where_reading_takes_long() -> None:
    contenders = space("madds<=1G")
    alike = {each.resolution for each in shortlist(contenders, 6, reading=0.5)}
    assert len(alike) < len({each.resolution for each in shortlist(contenders, 6)})


def test_a_first_training_that_cannot_be_one_is_put_back() -> None:
    contenders = space("madds<=1G")
    largest = max(contenders, key=lambda each: each.madds)
    short = replace(SETTING, first=4.0, madds_per_second=1e9)
    assert prior(largest, {}, short) < prior(largest, {}, replace(short, first=400.0))


def test_scenes_are_as_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "fit.md"
    for name, scene in SCENES.items():
        row = f"| `{name}` | {scene.target}, {scene.precision} | `{scene.budget}` |"
        assert row in page.read_text(encoding="utf-8")


def test_a_term_takes_the_place_of_the_scenes() -> None:
    want = wanted("size<=100KB", scene="mcu", to=None, precision=None)
    assert [each.text for each in want.terms] == ["size<=100KB", "ram<=256KB"]
    assert (want.target, want.precision) == ("mcu", "int8")


@pytest.mark.parametrize(
    ("budget", "to", "target", "precision"),
    [
        ("madds<=10M", None, "onnx", "fp32"),
        ("size<=1MB", None, "onnx", "int8"),
        ("latency<=1ms@litert:2", None, "litert", "fp32"),
        ("latency<=1ms@pi4.json", "ncnn", "ncnn", "fp32"),
        ("size<=1MB", "mcu", "mcu", "int8"),
    ],
)
def test_the_budget_says_target_and_precision(
    budget: str, to: str | None, target: str, precision: str
) -> None:
    want = wanted(budget, scene=None, to=to, precision=None)
    assert (want.target, want.precision) == (target, precision)


def test_latencies_on_two_engines_cannot_both_be_measured() -> None:
    with pytest.raises(InputError, match="the target is litert; only that is measured"):
        wanted("latency<=1ms@litert, latency<=1ms@onnx", scene=None, to="litert", precision=None)


def test_the_whole_catalogue_is_searched() -> None:
    found = within(
        parse_budget("madds<=30M"),
        {},
        names=list_models(),
        setting=SETTING,
        target="onnx",
        precision="fp32",
        num_classes=10,
        tables={},
    )
    assert not isinstance(found, Shortfall)
    assert len({each.family for each in found}) >= 12
