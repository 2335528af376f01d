from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobilette.arch.catalogue import list_models
from mobilette.arch.rows import Conv
from mobilette.counting.cost import cost
from mobilette.data.preprocess import PRESETS
from mobilette.errors import InputError
from mobilette.formats.published import PublishedWeights, find_published, list_published
from tests.parity.libraries import check_parity, library

ALL = list_published()


def test_the_committed_table_is_what_the_script_makes(shared: Path) -> None:
    library("timm")  # or skip
    from bench.published_weights import COMMITTED, table

    assert COMMITTED.read_text(encoding="utf-8") == table(shared / "refs")


def test_every_line_is_a_network_of_ours_with_a_file_of_its_size() -> None:
    assert len(ALL) > 50
    assert len({weights.name for weights in ALL}) == len(ALL)
    assert len({weights.filename.lower() for weights in ALL}) == len(ALL)
    for weights in ALL:
        arch = weights.arch()
        assert (arch.name, arch.num_classes) == (weights.model, 1000)
        least, most = weights.size_range
        assert least < 4 * cost(arch).params < most
        assert weights.url.startswith("https://")
        assert re.fullmatch(r"[\w.-]+\.(pth|safetensors)", weights.filename)
        assert re.fullmatch(r"([0-9a-f]{8}|[0-9a-f]{10})?", weights.sha256)
        assert (weights.sha256 == "") == weights.url.startswith("https://huggingface.co/")
        assert weights.sha256 in weights.url
        assert weights.top1 is None or 0.5 < weights.top1 < 0.9
        assert weights.licence
        assert weights.source.startswith(weights.library)


def test_images_are_resized_to_the_stated_side() -> None:
    """The rule is `round(resolution / crop_fraction)`, whatever the quotient of floats."""
    for weights in ALL:
        preprocess = weights.preprocess
        assert round(weights.resolution / preprocess.crop_fraction) == weights.resize
        assert preprocess.interpolation == weights.interpolation
        assert preprocess.mean == PRESETS[weights.preset].mean


@pytest.mark.parametrize(
    ("name", "width", "top1", "digits", "resize", "interpolation"),
    [
        ("torchvision/mobilenet_v2.IMAGENET1K_V2", 1.0, 0.72154, "7ebf99e0", 232, "bilinear"),
        (
            "torchvision/shufflenet_v2_x0_5.IMAGENET1K_V1",
            0.5,
            0.60552,
            "f707e7126e",
            256,
            "bilinear",
        ),
        ("timm/mobilenetv2_140.ra_in1k", 1.4, 0.76528, "21a4e913", 256, "bicubic"),
        ("timm/mobilenetv2_120d.ra_in1k", 1.0, 0.773, "5987e2ed", 256, "bicubic"),
        ("timm/tf_mobilenetv3_small_075.in1k", 0.75, 0.65706, "da427f52", 256, "bilinear"),
        ("timm/resnet50.a1_in1k", 1.0, 0.80382, "14fe96d1", 235, "bicubic"),
    ],
)
def test_known_values(
    name: str, width: float, top1: float, digits: str, resize: int, interpolation: str
) -> None:
    """Typed from the libraries' documentation."""
    found = find_published(name)
    assert (found.width_mult, found.top1, found.sha256) == (width, top1, digits)
    assert (found.resize, found.interpolation) == (resize, interpolation)
    assert (found.preset == "tf") == name.startswith("timm/tf_")


@pytest.mark.parametrize(
    "name",
    [
        "timm/mobilenetv1_125.ra4_e3600_r224_in1k",
        "timm/mobilenetv3_small_075.lamb_in1k",
        "timm/tf_mobilenetv3_large_minimal_100.in1k",
        "timm/resnet34.ra4_e3600_r224_in1k",
        "torchvision/mobilenet_v3_small.IMAGENET1K_V1",
        "torchvision/shufflenet_v2_x1_5.IMAGENET1K_V1",
    ],
)
def test_the_network_computes_what_the_publishers_does(name: str) -> None:
    """Width, padding and epsilon of the line are right: equal weights give equal logits."""
    torch.manual_seed(0)
    weights = find_published(name)
    network = name.partition("/")[2].partition(".")[0]
    if weights.library == "timm":
        theirs = library("timm").create_model(network)
    else:
        theirs = library("torchvision").models.get_model(network, weights=None)
    check_parity(weights.arch().with_resolution(128), theirs)


def test_only_tensorflows_weights_are_padded_as_tensorflow_pads() -> None:
    for weights in ALL:
        stem = weights.arch().stem
        assert (isinstance(stem, Conv) and stem.padding == "tf_same") == weights.name.startswith(
            "timm/tf_"
        )


@given(weights=st.sampled_from(ALL))
def test_every_name_is_found(weights: PublishedWeights) -> None:
    model, width = weights.model, weights.width_mult
    assert find_published(weights.name) is weights
    assert find_published(weights.name, model=model) is weights
    assert find_published(weights.name, model=model, width_mult=width) is weights
    short = find_published(f"{weights.library}/{weights.tag}", model=model, width_mult=width)
    assert (short.library, short.tag) == (weights.library, weights.tag)
    assert (short.model, short.width_mult) == (model, width)


def test_the_best_comes_first_and_auto_takes_it() -> None:
    for model in list_models():
        known = [math.nan if w.top1 is None else w.top1 for w in list_published(model)]
        stated = [top1 for top1 in known if top1 == top1]
        assert stated == sorted(stated, reverse=True)
        assert all(top1 == top1 for top1 in known[: len(stated)])
    assert find_published("auto", model="resnet50").name == "torchvision/resnet50.IMAGENET1K_V2"
    assert find_published("timm", model="resnet50").name == "timm/resnet50.a1_in1k"
    assert find_published("auto", model="mobilenet_v2", width_mult=0.5).width_mult == 0.5


def test_torchvisions_spelling_of_a_network_is_known() -> None:
    found = find_published("torchvision/IMAGENET1K_V1", model="shufflenet_v2_x1_5")
    assert found.name == "torchvision/shufflenet_v2_x1_5.IMAGENET1K_V1"


@pytest.mark.parametrize(
    ("name", "model", "width", "message"),
    [
        (
            "timm/mobilenetv2_100.ra_in2k",
            None,
            None,
            r"no published weights are called .*did you mean 'timm/mobilenetv2_100.ra_in1k'",
        ),
        (
            "torchvision/IMAGENET1K_V3",
            "mobilenet_v2",
            None,
            r"mobilenet_v2 has no weights .*only torchvision/IMAGENET1K_V2, "
            r"torchvision/IMAGENET1K_V1; did you mean 'torchvision/IMAGENET1K_V\d'",
        ),
        ("tim", "resnet50", None, r"'tim' is not one of auto, .*did you mean 'timm'"),
        (
            "auto",
            "mobilenet_v2",
            0.35,
            r"mobilenet_v2 has no published weights of width 0.35, only of 0.5, 1, 1.4; "
            r"timm/mobilenetv2_050.lamb_in1k, of width 0.5, can be sliced to it",
        ),
        ("torchvision", "mobilenet_v2", 1.4, r"of width 1.4, only of 1$"),
        (
            "timm/resnet18.a1_in1k",
            "resnet18",
            0.5,
            r"has width 1, not 0.5; timm/resnet18.a1_in1k, of width 1, can be sliced to it",
        ),
        ("timm/resnet18.a1_in1k", "resnet34", None, r"is for resnet18, not resnet34"),
        ("timm", "vgg11", None, r"timm has no weights for vgg11; torchvision has"),
        ("auto", "resnet20", None, r"resnet20 has no published weights"),
        ("auto", "resnet21", None, r"no network is called 'resnet21'.*did you mean"),
    ],
)
def test_what_there_is_not(name: str, model: str | None, width: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_published(name, model=model, width_mult=width)
