"""Write the table of published ImageNet accuracies, src/mobilette/counting/published.csv.

Run by hand when the collected reference numbers change; a test holds the committed table equal to
what this makes. One value is kept for each (network, width, resolution), from the first of these
that has one, all of them of a single crop and in floating point:

1. the authors' own released models (tensorflow/models slim, tensorflow/tpu,
   megvii-model/ShuffleNet-Series, KaimingHe/deep-residual-networks);
2. the tables of the paper itself (MobileNet V1, V3, ShuffleNet V1, V2);
3. torchvision's first weights (IMAGENET1K_V1: the plain recipe, as old as the papers, but for
   MnasNet 0.75 and 1.3, trained with a recipe of 2022);
4. d-li14/mobilenetv2.pytorch, for a width that nobody else has published;
5. timm, for the networks of `OF_TIMM`: the best of its weights at each resolution.

Left out: quantised models, evaluation with ten crops, weights that were pre-trained on more images
than ImageNet's 1.28 million, and networks trained with much later recipes (timm's of other
networks, torchvision's IMAGENET1K_V2), which would rank recipes and not networks. MobileNet V4 is
itself so recent that only such recipes (up to 3,600 epochs) exist. The networks for CIFAR have no
ImageNet accuracy and no line.

    python bench/published.py [--refs ../shared/refs]
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from mobilette.arch.catalogue import list_models, resolve_name

COMMITTED = Path(__file__).parents[1] / "src" / "mobilette" / "counting" / "published.csv"
FILES = (
    "mobilenet_v1.json",
    "mobilenet_v2.json",
    "mobilenet_v3.json",
    "shufflenet.json",
    "squeezenet_resnet_vgg_mnasnet_efflite.json",
)
# The beginnings of the sources, the one that is preferred first.
PREFERENCE = (
    "tensorflow/models research/slim",
    "tensorflow/tpu",
    "megvii-model/ShuffleNet-Series",
    "KaimingHe/deep-residual-networks",
    "arXiv 1704.04861",
    "arXiv 1905.02244v5 Table 9",
    "arXiv 1905.02244v1 Table 9",  # one line that the text of version 5 lacks
    "arXiv 1707.01083",
    "arXiv 1807.11164 Table 5",
    "torchvision",
    "d-li14/mobilenetv2.pytorch",
    "timm",
)
# Networks whose only measured weights here are timm's: its own training (MobileNet V4, FBNet-C,
# Single-Path NAS, MnasNet-small, PP-LCNet, V2's 1.1d and 1.2d) or the authors' weights, converted
# (GhostNet, RepVGG, MobileOne, and EfficientNet-Lite, which it evaluates at larger sizes, too).
OF_TIMM = {
    "mobilenet_v2_110d",
    "mobilenet_v2_120d",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_conv_medium",
    "mobilenet_v4_conv_large",
    "mnasnet_small",
    "fbnet_c",
    "single_path_nas",
    *(f"efficientnet_lite{i}" for i in range(5)),
    "pp_lcnet",
    "ghostnet",
    "repvgg_a0",
    "mobileone_s0",
}
MORE_IMAGES = re.compile(r"in(?:12|21|22)k")
# Lines of those tables about other networks than the catalogue's, or trained otherwise.
OTHERS = (
    "shallow (g=3)",  # ShuffleNet V1 with fewer units
    "+SE",
    "mobilenetv2_0.1_",  # rounds channels to multiples of 4
    "250 ep",
    "VGG",  # ported from Caffe; torchvision's are ours
    "GoogleNet",
)


class Line(NamedTuple):
    """One line of the table: ``top1`` is a fraction."""

    name: str
    width_mult: float
    resolution: int
    top1: float
    source: str


def lines(refs: Path) -> list[Line]:
    """Return the lines of the table, in the catalogue's order, largest networks first."""
    kept: dict[tuple[str, float, int], Line] = {}
    found = [*_from_tables(refs), *_from_torchvision(refs), *_from_timm(refs)]
    for line in sorted((line for line in found if _rank(line) >= 0), key=_rank):
        kept.setdefault(line[:3], line)
    names = list_models()
    return sorted(
        kept.values(), key=lambda line: (names.index(line.name), -line.width_mult, -line.resolution)
    )


def table(refs: Path) -> str:
    """Return the text of the table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Line._fields)
    for line in lines(refs):
        name, width_mult, *others = line
        writer.writerow([name, f"{width_mult:g}", *others])
    return text.getvalue()


def _rank(line: Line) -> int:
    """Return the place of the line's source in the order of preference, -1 for none."""
    ranks = (rank for rank, begin in enumerate(PREFERENCE) if line.source.startswith(begin))
    return next(ranks, -1)


def _from_tables(refs: Path) -> Iterator[Line]:
    for file in FILES:
        for row in json.loads((refs / file).read_text(encoding="utf-8"))["rows"]:
            name = _name(row)
            in_float = row.get("precision", "float") == "float"
            one_crop = "10-crop" not in row.get("eval", "")
            other = any(part in row.get("variant", "") for part in OTHERS)
            if name and row.get("top1") and in_float and one_crop and not other:
                width = row.get("alpha") or 1.0
                # Where our copy of the source came from says nothing about the number.
                source = re.sub(r" \(.*", "", row["source"])
                yield Line(name, width, row["resolution"], round(row["top1"] / 100, 5), source)


def _name(row: dict[str, Any]) -> str | None:
    """Return the catalogue's name for a row's network, if it has one."""
    family, variant = str(row["family"]), str(row["variant"])
    if family == "mobilenet_v1":
        if "Shallow" in variant:
            return "mobilenet_v1_shallow"
        return "mobilenet_v1_full_conv" if "full conv" in variant else family
    if family.startswith("mobilenet_v3") and "minimalistic" in variant:
        return f"{family}_minimalistic"
    if family == "shufflenet_v1":
        return f"{family}_g{row['groups']}" if "groups" in row else None
    if family == "resnet" and row["source"].startswith("KaimingHe"):
        # The original has the stride on the first 1x1 convolution.
        return variant.lower().replace("-", "") + "_paper"
    if family == "efficientnet_lite":
        return resolve_name(variant)[0]
    return family if family in list_models() else None


def _from_torchvision(refs: Path) -> Iterator[Line]:
    for row in json.loads((refs / "torchvision.json").read_text(encoding="utf-8"))["float"]:
        if row["weights"] != "IMAGENET1K_V1":
            continue
        name, width = resolve_name(row["variant"])
        if name in list_models():
            source = f"torchvision {row['weights']}"
            yield Line(name, width or 1.0, row["resolution"], round(row["top1"] / 100, 5), source)


def _from_timm(refs: Path) -> Iterator[Line]:
    rows = json.loads((refs / "timm.json").read_text(encoding="utf-8"))["accuracy"]
    for row in sorted(rows, key=lambda row: row["top1"], reverse=True):
        network, _, tag = row["variant"].partition(".")
        name, width = resolve_name(network.removeprefix("tf_"))
        if name in OF_TIMM and not MORE_IMAGES.search(tag):
            source = f"timm {row['variant']}, results-imagenet.csv"
            yield Line(name, width or 1.0, row["resolution"], round(row["top1"] / 100, 5), source)


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
