"""The published numbers of the page, against the collection they were taken from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs.blocks.published import (
    GROUPS,
    HARD_SWISH,
    LARGER,
    NETWORKS,
    PIXEL_MS,
    RESNET18,
    SEARCHED,
    SHUFFLE,
    SMALL,
    SQUEEZE_EXCITE,
    SQUEEZE_EXCITE_SPEED,
    V1,
    V1_FULL_CONV,
    ZEN4_MS,
    Published,
)
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.counting.cost import cost


@pytest.fixture(scope="module")
def refs(shared: Path) -> dict[str, Any]:
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in (shared / "refs").glob("*.json")
        if path.stem != "timm"
    }


FILES = {"mobilenet_v1": "mobilenet_v1", "mobilenet_v2": "mobilenet_v2"} | {
    name: name.split("_")[0] for name in ("shufflenet_v1_g3", "shufflenet_v1_g8", "shufflenet_v2")
}


@pytest.mark.parametrize("published", [*SMALL, *LARGER], ids=lambda p: f"{p.name}-{p.width_mult:g}")
def test_accuracies_are_those_of_the_source(published: Published, refs: dict[str, Any]) -> None:
    if published is RESNET18:
        rows = [r for r in refs["torchvision"]["float"] if r["variant"] == "resnet18"]
        assert round(rows[0]["top1"], 1) == published.top1
        return
    family = re.sub(r"_g\d$", "", published.name)
    groups = re.findall(r"_g(\d)$", published.name)
    source = re.match(r"arXiv [\d.v]+ Table \d|tensorflow/models", published.source)
    assert source is not None
    named = source[0] if source[0].startswith("arXiv") else "slim/nets"
    number = named.replace(" Table ", " Table (?:5\\+)?")
    found = {
        row["top1"]
        for row in refs[FILES.get(published.name, "mobilenet_v3")]["rows"]
        if row["family"] == family
        and row.get("alpha", 1.0) == published.width_mult
        and row["resolution"] == published.resolution
        and row.get("groups", 0) == (int(groups[0]) if groups else 0)
        and row.get("precision", "float") == "float"
        and "full conv" not in row["variant"]
        and "Shallow" not in row["variant"]
        and re.search(number, row["source"])
    }
    assert published.top1 in found


def test_the_full_convolutions_are_those_of_the_paper(refs: dict[str, Any]) -> None:
    rows = {row["variant"]: row for row in refs["mobilenet_v1"]["rows"]}
    paper = rows["Conv MobileNet (full conv)"]
    assert V1_FULL_CONV.top1 == paper["top1"]
    assert cost(get_arch(V1_FULL_CONV.name)).madds == paper["macs_computed"]
    assert cost(get_arch(V1.name)).madds == rows["1.0 MobileNet-224"]["macs_computed"]


def test_ablations_are_those_of_the_papers(refs: dict[str, Any]) -> None:
    table = refs["mobilenet_v3"]["hswish_ablation_v5_table5"]
    assert [tuple(table[key]) for key in ("relu", "hs112", "base", "hs16")] == [
        *HARD_SWISH.values()
    ]
    shuffle = refs["shufflenet"]["v1_shuffle_ablation_table3"]
    assert {key: tuple(shuffle["{:g}x g{}".format(*key)]) for key in SHUFFLE} == SHUFFLE
    rows = {row["variant"]: row for row in refs["shufflenet"]["rows"]}
    assert {g: rows[f"ShuffleNet 1.0x (g={g})"]["top1"] for g in GROUPS} == GROUPS
    pairs = {
        "ShuffleNet V1 2x": ("ShuffleNet 2x (g=3)", "ShuffleNet 2x+SE (g=3)"),
        "ShuffleNet V2 2x": ("ShuffleNet v2 2.0x", "ShuffleNet v2 2x + SE"),
    }
    for name, variants in pairs.items():
        found = tuple((rows[v]["madds_million"], rows[v]["top1"]) for v in variants)
        assert found == SQUEEZE_EXCITE[name]
    speeds = tuple(rows[v]["arm_img_per_s_sd810"] for v in pairs["ShuffleNet V2 2x"])
    assert speeds == SQUEEZE_EXCITE_SPEED


def test_milliseconds_are_those_that_were_measured(refs: dict[str, Any], shared: Path) -> None:
    pixel = refs["latency"]["xnnpack"]["pixel_1thread"]
    assert {name: pixel[name.replace("mobilenet_", "")][0] for name in PIXEL_MS} == PIXEL_MS
    text = (shared / "RUNTIMES.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    table = {cells[0]: cells[1:] for cells in lines if len(cells) == 5}
    columns = ("V3-Large", "MobileNetV2", "MobileNetV1", "ResNet-18")
    order = [table["path"].index(column) for column in columns]
    assert len(order) == len(NETWORKS)
    for path, named in {
        "ONNX Runtime fp32": "ONNX Runtime fp32",
        "ONNX Runtime int8": "ONNX Runtime int8, activations uint8, weights int8",
        "LiteRT int8": "LiteRT int8",
        "OpenVINO int8": "OpenVINO int8",
    }.items():
        assert ZEN4_MS[path] == tuple(float(table[named][i]) for i in order)
    web = table["ONNX Runtime Web (Chromium, wasm, 1 thread) fp32 / int8"]
    cells = (web[i].split("/")[0].strip() for i in order)
    assert ZEN4_MS["ONNX Runtime Web fp32"] == tuple(
        float(cell) if cell[:1].isdigit() else None for cell in cells
    )


def test_the_searched_network_is_that_of_its_authors(refs: dict[str, Any]) -> None:
    rows = {row["net"]: row for row in refs["mlperf_tiny_mcunet"]["mcunet"]["repo_rows"]}
    row = rows["mcunet-in2"]
    numbers = [float(number) for number in re.findall(r"[\d.]+(?= kB|%)", SEARCHED)]
    assert numbers == [row["sram_kB"], row["flash_kB"], row["top1_int8"]]


def test_within_one_network_mult_adds_order_the_milliseconds(refs: dict[str, Any]) -> None:
    rows = [r for r in refs["mobilenet_v2"]["rows"] if "slim" in r["source"] and r["alpha"] <= 1.4]
    counted = [
        cost(
            get_arch("mobilenet_v2", Settings(width_mult=r["alpha"], resolution=r["resolution"]))
        ).madds
        for r in rows
    ]
    measured = [row["pixel1_cpu_ms"] for row in rows]
    ranks = np.corrcoef(np.argsort(np.argsort(counted)), np.argsort(np.argsort(measured)))
    assert len(rows) == 22
    assert ranks[0, 1] > 0.98
