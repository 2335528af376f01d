"""Every row of counts in `../shared/refs` that is of a network we have: equal, or explained here.

The rows were counted on other implementations (torchvision's and timm's models, Keras) by other
counters: nothing of this project is in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import merged
from mobilette.arch.families.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from mobilette.arch.layers import layers
from mobilette.arch.primitives import NormLayer
from mobilette.arch.scale import Settings
from mobilette.counting.cost import cost

STEM_16 = "timm keeps the stem of 16 channels below 0.75; the paper's numbers need it scaled"
GROUPS = (
    "the compressed channels (a quarter) or the first unit's new channels are no multiple of the "
    "groups: not a grouped convolution that exists; we round up and widen the stem"
)
BIASES = (
    "MLPerf Tiny gives the convolutions under batch norm biases: one for each of 2,736 channels"
)
# The rows that we count differently, by the names that `rows` gives them: our counts, and why.
DEVIATIONS = {
    "timm v3 large 0.5": (2_689_520, 69_247_600, STEM_16),
    "timm v3 large 0.35": (2_131_832, 39_472_336, STEM_16),
    "timm v3 small 0.5": (1_592_704, 21_052_560, STEM_16),
    "timm v3 small 0.35": (1_358_288, 12_815_840, STEM_16),
    "timm mobilenetv3_small_050": (1_592_704, 21_052_560, STEM_16),
    "shufflenet_v1 g2 0.5 stem 12 (paper)": (643_932, 38_570_608, GROUPS),
    "shufflenet_v1 g2 0.25 stem 6 (paper)": (267_026, 11_156_596, GROUPS),
    "shufflenet_v1 g4 0.5 stem 12 (paper)": (778_040, 37_468_832, GROUPS),
    "shufflenet_v1 g4 0.25 stem 6 (paper)": (339_252, 12_394_600, GROUPS),
    "shufflenet_v1 g8 0.5 stem 12 (paper)": (1_011_448, 40_469_760, GROUPS),
    "shufflenet_v1 g8 0.25 stem 6 (paper)": (454_504, 12_426_240, GROUPS),
    "vww_mobilenetv1_025_96": (213_586, 7_489_664, BIASES),
}

# Networks in the files that are not in the catalogue.
OTHER_FAMILIES = (
    "alexnet",
    "convnext",
    "densenet",
    "edgenext",
    "efficientnet_b",
    "fastvit",
    "ghostnetv2",
    "googlenet",
    "hardcorenas",
    "inception",
    "mixnet",
    "mobilenetv4_hybrid",
    "mobileone_s1",
    "mobileone_s2",
    "mobileone_s3",
    "mobileone_s4",
    "mobilevit",
    "regnet",
    "repvgg_a1",
    "repvgg_a2",
    "repvgg_b",
    "repvit",
    "resnext",
    "rexnet",
    "starnet",
    "tinynet",
    "wide_resnet",
)
# Relatives: another stem, head, or block in a network of a similar name.
OTHER_NETWORKS = {
    "mobilenetv1_100h": "a wider head and stem of timm's own",
    "mobilenetv3_rw": "a Large from before the authors' code: other squeeze widths, no head bias",
    "resnet50d": "stem and shortcuts of ResNet-D",
    "resnet10t": "stem of ResNet-T",
    "resnet14t": "stem of ResNet-T",
    "resnet8_f26_default_in_keras_model": "26 filters, which no width gives: channels are in 8s",
}


@dataclass(frozen=True)
class Row:
    """One row of a file: the network as we build it, and its counts."""

    name: str
    arch: Arch
    params: int | None
    madds: int


def rows(refs: Path) -> Iterator[Row]:
    """Yield every row of the files that is of a family we build."""
    computed = json.loads((refs / "computed.json").read_text())
    yield from _mobilenets(computed)
    yield from _shufflenets(computed)
    yield from _others(computed)
    for row in computed["timm"]:
        yield from _timm(row)
    for row in json.loads((refs / "computed_more.json").read_text())["rows"]:
        yield from _more(row)
    for row in json.loads((refs / "torchvision.json").read_text())["float"]:
        yield from _torchvision(row)


def _mobilenets(computed: dict[str, Any]) -> Iterator[Row]:
    for key, name in (
        ("mobilenet_v1", "mobilenet_v1"),
        ("mobilenet_v2_torchvision", "mobilenet_v2"),
    ):
        for row in computed[key]:
            arch = get_arch(name, Settings(width_mult=row["alpha"], resolution=row["res"]))
            label = f"{key} {row['alpha']} {row['res']}"
            yield Row(label, arch, row["params"], row["macs"])
    for name in ("mobilenet_v1_shallow", "mobilenet_v1_full_conv"):
        row = computed[name]
        yield Row(name, get_arch(name), row["params"], row["macs"])
    scaled_by_torchvision = {
        "mobilenet_v3_large": mobilenet_v3_large,
        "mobilenet_v3_small": mobilenet_v3_small,
    }
    for row in computed["mobilenet_v3_torchvision"]:
        settings = Settings(width_mult=row["alpha"], resolution=row["res"])
        arch = scaled_by_torchvision[row["arch"]](settings, torchvision=True)
        yield Row(
            f"torchvision {row['arch']} {row['alpha']} {row['res']}",
            arch,
            row["params"],
            row["macs"],
        )
    for row in computed["mobilenet_v3_timm_generator"]:
        arch = get_arch(f"mobilenet_v3_{row['arch']}", Settings(width_mult=row["alpha"]))
        yield Row(f"timm v3 {row['arch']} {row['alpha']}", arch, row["params"], row["macs224"])


def _shufflenets(computed: dict[str, Any]) -> Iterator[Row]:
    for row in computed["shufflenet_v1"]:
        arch = get_arch(f"shufflenet_v1_g{row['g']}", Settings(width_mult=row["scale"]))
        scaled_by = row.get("note", "paper").split()[0]
        label = f"shufflenet_v1 g{row['g']} {row['scale']} stem {row['conv1']} ({scaled_by})"
        yield Row(label, arch, row["params"], row["macs"])


def _others(computed: dict[str, Any]) -> Iterator[Row]:
    for row in computed["resnet_v1_original_stride"]:
        name = f"resnet{row['depth']}_paper"
        yield Row(name, get_arch(name), None, row["macs_stride_on_1x1"])
    tiny = computed["mlperf_tiny"]
    wake = tiny["vww_mobilenetv1_025_96"]
    settings = Settings(width_mult=0.25, resolution=96, num_classes=2)
    arch = get_arch("mobilenet_v1", settings)
    yield Row("vww_mobilenetv1_025_96", arch, wake["trainable"], wake["macs"])
    eight = Settings(resolution=32, num_classes=10)
    row = tiny["resnet8_f16"]
    yield Row("resnet8_f16", get_arch("resnet8", eight), row["trainable"], row["macs"])


def _timm(row: dict[str, Any]) -> Iterator[Row]:
    """Names are ``family_width`` with the width in percent, or ours."""
    name = row["model"]
    plain = name.removeprefix("tf_").replace("_minimal_", "_minimalistic_")
    if name in OTHER_NETWORKS or plain.startswith(OTHER_FAMILIES):
        return
    arch = get_arch(plain, Settings(resolution=row["res"]))
    yield Row(f"timm {name}", arch, row["params"], row["macs"])
    if "params_reparam" in row:
        yield Row(
            f"timm {name} merged", merged(arch), row["params_reparam"], row["macs_224_reparam"]
        )


def _more(row: dict[str, Any]) -> Iterator[Row]:
    if not row["name"].startswith(OTHER_FAMILIES):
        arch = get_arch(row["name"], Settings(resolution=row["resolution"]))
        label = f"more {row['library']} {row['name']}"
        yield Row(label, arch, row["params"], row["madds"])
        if "madds_224" in row:
            yield Row(f"{label} 224", arch.with_resolution(224), None, row["madds_224"])


def _torchvision(row: dict[str, Any]) -> Iterator[Row]:
    name = row["variant"]
    if name.startswith(OTHER_FAMILIES):
        return
    arch = get_arch(name)
    label = f"torchvision {row['variant']} {row['weights']}"
    yield Row(label, arch, row["num_params"], row["computed_conv_linear_macs"])


def test_every_row_is_equal_or_explained(shared: Path) -> None:
    read = list(rows(shared / "refs"))
    assert len(read) > 150
    assert len({row.name for row in read}) == len(read)
    different = {}
    for row in read:
        counted = cost(row.arch)
        if row.params not in (None, counted.params) or row.madds != counted.madds:
            different[row.name] = (counted.params, counted.madds)
    assert different == {name: (params, madds) for name, (params, madds, _) in DEVIATIONS.items()}


def test_what_mlperf_tiny_adds_is_the_biases(shared: Path) -> None:
    arch = get_arch("mobilenet_v1", Settings(width_mult=0.25, resolution=96, num_classes=2))
    normed = sum(layer.shape[0] for layer in layers(arch) if isinstance(layer, NormLayer))
    row = json.loads((shared / "refs" / "computed.json").read_text())["mlperf_tiny"]
    assert cost(arch).params + normed == row["vww_mobilenetv1_025_96"]["trainable"]


def test_no_key_of_the_files_is_forgotten(shared: Path) -> None:
    """A new list of rows in the file needs a line in `rows`."""
    computed = json.loads((shared / "refs" / "computed.json").read_text())
    known = {
        "mobilenet_v1",
        "mobilenet_v1_full_conv",
        "mobilenet_v1_shallow",
        "mobilenet_v2_torchvision",
        "mobilenet_v3_torchvision",
        "mobilenet_v3_timm_generator",
        "shufflenet_v1",
        "resnet_v1_original_stride",
        "mlperf_tiny",
        "timm",
    }
    assert computed.keys() == known
    tiny = {"vww_mobilenetv1_025_96", "resnet8_f16", "resnet8_f26_default_in_keras_model"}
    assert computed["mlperf_tiny"].keys() == tiny
