"""Write the table of weights that can be downloaded, src/mobilette/formats/published.csv.

Run by hand when the collected reference numbers or the pinned timm change; a test holds the
committed table equal to what this makes. timm and torchvision must be installed.

torchvision: every line of its collected table for a network of the catalogue, complete with its
classifier. URL, size (MiB to three decimals) and top-1 are torchvision's statements; the file's
name has the first 8 or 10 hexadecimal digits of its SHA-256. Its code is BSD-3-Clause; no licence
is stated for the weights themselves.

timm: its own configuration of each of `TIMM` states the URL, the preparation of images and the
licence, its results table the top-1 at that resolution and crop. The older files, at GitHub, have 8
digits of their SHA-256 in their names; those that are only on the Hugging Face Hub have none. Sizes
are not stated and are computed from the network's tensors.

Left out: networks that the catalogue does not have (timm's mobilenetv1_100h and mobilenetv3_rw
have other heads), weights under non-commercial licences, torchvision's files that timm lists again,
and tags that are neither the best nor the best known. Also mobilenetv3_small_050: its stem has 16
channels, that of the catalogue's network of width 0.5 has 8, so that `create_model` would slice
what is to be the published network. `mobilette weights import` reads its file as it is.

    python bench/published_weights.py [--refs ../shared/refs]
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from mobilette.arch.catalogue import list_models, resolve_name
from mobilette.counting.cost import cost
from mobilette.data.preprocess import PRESETS
from mobilette.formats.published import PublishedWeights

COMMITTED = Path(__file__).parents[1] / "src" / "mobilette" / "formats" / "published.csv"

# timm's network: ours, the width multiplier, tags
TIMM: dict[str, tuple[str, float, tuple[str, ...]]] = {
    "mobilenetv1_100": ("mobilenet_v1", 1.0, ("ra4_e3600_r224_in1k",)),
    "mobilenetv1_125": ("mobilenet_v1", 1.25, ("ra4_e3600_r224_in1k",)),
    "mobilenetv2_050": ("mobilenet_v2", 0.5, ("lamb_in1k",)),
    "mobilenetv2_100": ("mobilenet_v2", 1.0, ("ra_in1k",)),
    "mobilenetv2_140": ("mobilenet_v2", 1.4, ("ra_in1k",)),
    "mobilenetv2_110d": ("mobilenet_v2_110d", 1.0, ("ra_in1k",)),
    "mobilenetv2_120d": ("mobilenet_v2_120d", 1.0, ("ra_in1k",)),
    "mobilenetv3_large_100": (
        "mobilenet_v3_large",
        1.0,
        ("ra_in1k", "ra4_e3600_r224_in1k", "miil_in21k_ft_in1k"),
    ),
    "mobilenetv3_small_075": ("mobilenet_v3_small", 0.75, ("lamb_in1k",)),
    "mobilenetv3_small_100": ("mobilenet_v3_small", 1.0, ("lamb_in1k",)),
    "tf_mobilenetv3_large_075": ("mobilenet_v3_large", 0.75, ("in1k",)),
    "tf_mobilenetv3_large_100": ("mobilenet_v3_large", 1.0, ("in1k",)),
    "tf_mobilenetv3_large_minimal_100": ("mobilenet_v3_large_minimalistic", 1.0, ("in1k",)),
    "tf_mobilenetv3_small_075": ("mobilenet_v3_small", 0.75, ("in1k",)),
    "tf_mobilenetv3_small_100": ("mobilenet_v3_small", 1.0, ("in1k",)),
    "tf_mobilenetv3_small_minimal_100": ("mobilenet_v3_small_minimalistic", 1.0, ("in1k",)),
    "mobilenetv4_conv_small_050": ("mobilenet_v4_conv_small", 0.5, ("e3000_r224_in1k",)),
    "mobilenetv4_conv_small": (
        "mobilenet_v4_conv_small",
        1.0,
        ("e2400_r224_in1k", "e1200_r224_in1k", "e3600_r256_in1k"),
    ),
    "mobilenetv4_conv_medium": (
        "mobilenet_v4_conv_medium",
        1.0,
        ("e500_r256_in1k", "e500_r224_in1k", "e250_r384_in12k_ft_in1k"),
    ),
    "mobilenetv4_conv_large": (
        "mobilenet_v4_conv_large",
        1.0,
        ("e600_r384_in1k", "e500_r256_in1k"),
    ),
    "mnasnet_100": ("mnasnet_b1", 1.0, ("rmsp_in1k",)),
    "semnasnet_075": ("mnasnet_a1", 0.75, ("rmsp_in1k",)),
    "semnasnet_100": ("mnasnet_a1", 1.0, ("rmsp_in1k",)),
    "mnasnet_small": ("mnasnet_small", 1.0, ("lamb_in1k",)),
    "fbnetc_100": ("fbnet_c", 1.0, ("rmsp_in1k",)),
    "spnasnet_100": ("single_path_nas", 1.0, ("rmsp_in1k",)),
    "efficientnet_lite0": ("efficientnet_lite0", 1.0, ("ra_in1k",)),
    **{f"tf_efficientnet_lite{i}": (f"efficientnet_lite{i}", 1.0, ("in1k",)) for i in range(5)},
    "lcnet_050": ("pp_lcnet", 0.5, ("ra2_in1k",)),
    "lcnet_075": ("pp_lcnet", 0.75, ("ra2_in1k",)),
    "lcnet_100": ("pp_lcnet", 1.0, ("ra2_in1k",)),
    "ghostnet_100": ("ghostnet", 1.0, ("in1k",)),
    "repvgg_a0": ("repvgg_a0", 1.0, ("rvgg_in1k",)),
    "mobileone_s0": ("mobileone_s0", 1.0, ("apple_in1k",)),
    "resnet18": ("resnet18", 1.0, ("a1_in1k", "a2_in1k", "a3_in1k")),
    "resnet34": ("resnet34", 1.0, ("a1_in1k", "a2_in1k", "a3_in1k", "ra4_e3600_r224_in1k")),
    "resnet50": ("resnet50", 1.0, ("a1_in1k", "a2_in1k", "a3_in1k", "ram_in1k")),
    "resnet101": ("resnet101", 1.0, ("a1_in1k",)),
    "resnet152": ("resnet152", 1.0, ("a1_in1k",)),
}
LICENCES = {
    "apache-2.0": "Apache-2.0",
    "bsd-3-clause": "BSD-3-Clause",
    "mit": "MIT",
    "mobileone-license": "Apple's, github.com/apple/ml-mobileone",
    None: "not stated",
}
DIGITS = re.compile(r"-([0-9a-f]{8,10})\.pth$")
# A header of names, shapes and places takes this much a tensor.
HEADER_BYTES = 100


def lines(refs: Path) -> list[PublishedWeights]:
    """Return the table: in the catalogue's order, the best claimed accuracy first."""
    names = list_models()
    found = [*_of_torchvision(refs), *_of_timm(refs)]
    for line in found:
        theirs = sum(
            parameter.numel() for parameter in _network(line.name.partition(".")[0]).parameters()
        )
        assert cost(line.arch()).params == theirs, line.name
    return sorted(
        found,
        key=lambda line: (names.index(line.model), -(line.top1 or 0.0), line.name),
    )


def table(refs: Path) -> str:
    """Return the text of the table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [field.name for field in fields(PublishedWeights)]
    writer.writerow(columns)
    for line in lines(refs):
        writer.writerow([_cell(getattr(line, column)) for column in columns])
    return text.getvalue()


def _cell(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value


def _of_torchvision(refs: Path) -> Iterator[PublishedWeights]:
    for row in json.loads((refs / "torchvision.json").read_text(encoding="utf-8"))["float"]:
        variant, tag = row["variant"], row["weights"]
        model, width_mult = resolve_name(variant)
        if model not in list_models() or row["top1"] is None:
            continue
        yield PublishedWeights(
            name=f"torchvision/{variant}.{tag}",
            model=model,
            width_mult=width_mult or 1.0,
            padding="symmetric",
            norm_epsilon=_norm_epsilon(f"torchvision/{variant}"),
            url=row["url"],
            sha256=_digits(row["url"]),
            size_bytes=round(row["file_size_mb"] * 2**20),
            licence="BSD-3-Clause (code; not stated for the weights)",
            top1=round(row["top1"] / 100, 5),
            preset=_preset(row["mean"], row["std"]),
            resize=row["resize"],
            resolution=row["crop"],
            interpolation=row["interpolation"],
            source=row["source"].partition(",")[0].partition("+")[0],
        )


def _of_timm(refs: Path) -> Iterator[PublishedWeights]:
    from timm import __version__
    from timm.models import get_pretrained_cfg

    measured = json.loads((refs / "timm.json").read_text(encoding="utf-8"))["accuracy"]
    for network, (model, width_mult, tags) in TIMM.items():
        for tag in tags:
            name = f"{network}.{tag}"
            config: Any = get_pretrained_cfg(name)
            assert config.num_classes == 1000
            assert config.crop_mode == "center"
            resolution = config.input_size[-1]
            top1 = [
                row["top1"]
                for row in measured
                if (row["variant"], row["resolution"], row["crop_pct"])
                == (name, resolution, config.crop_pct)
            ]
            hub = f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
            url = config.url if config.url and DIGITS.search(config.url) else hub
            yield PublishedWeights(
                name=f"timm/{name}",
                model=model,
                width_mult=width_mult,
                padding="tf_same" if network.startswith("tf_") else "symmetric",
                norm_epsilon=_norm_epsilon(f"timm/{network}"),
                url=url,
                sha256=_digits(url),
                size_bytes=_size(f"timm/{network}"),
                licence=LICENCES[config.license],
                top1=round(top1[0] / 100, 5) if top1 else None,
                preset=_preset(config.mean, config.std),
                resize=math.floor(resolution / config.crop_pct),
                resolution=resolution,
                interpolation=config.interpolation,
                source=f"timm {__version__}" + (", results-imagenet.csv" if top1 else ""),
            )


def _digits(url: str) -> str:
    found = DIGITS.search(url)
    return found[1] if found else ""


def _preset(mean: Sequence[float], std: Sequence[float]) -> str:
    for name, preset in PRESETS.items():
        theirs = [255 * value for value in (*mean, *std)]
        ours = (*preset.mean, *preset.std)
        if all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(theirs, ours, strict=True)):
            return name
    raise ValueError(f"no preset has mean {mean} and std {std}")


@cache
def _network(name: str) -> nn.Module:
    """Return ``library/network``, without memory for weights."""
    library, _, network = name.partition("/")
    with torch.device("meta"):
        if library == "timm":
            import timm

            theirs: nn.Module = timm.create_model(network)
        else:
            import torchvision

            theirs = torchvision.models.get_model(network, weights=None)
    return theirs


def _norm_epsilon(name: str) -> float:
    found = {m.eps for m in _network(name).modules() if isinstance(m, nn.BatchNorm2d)}
    (epsilon,) = found or {1e-5}
    return float(epsilon)


def _size(name: str) -> int:
    tensors = _network(name).state_dict().values()
    return sum(t.numel() * t.element_size() + HEADER_BYTES for t in tensors)


def main(
    refs: Annotated[Path, typer.Option(help="The folder of collected reference numbers.")] = Path(
        "../shared/refs"
    ),
) -> None:
    """Write the table."""
    COMMITTED.write_text(table(refs), encoding="utf-8", newline="\n")
    print(f"{COMMITTED}: {len(lines(refs))} lines")


if __name__ == "__main__":
    typer.run(main)
