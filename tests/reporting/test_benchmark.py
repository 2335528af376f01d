"""The table and the image of a benchmark."""

from __future__ import annotations

import io
import itertools
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from mobilette.reporting.benchmark import (
    COLUMNS,
    conclusion,
    draw,
    moved_apart,
    short_names,
    to_markdown,
    write_benchmark,
)
from mobilette.reporting.labels import place_labels
from mobilette.verification.benchmark import Benchmark, BestBatch, Latency, Row, first_places


def make_row(
    name: str, precision: str, ms: float, top1: float, *, verified: bool | None = True
) -> Row:
    latency = Latency(median=ms, p10=0.97 * ms, p90=1.15 * ms, n=60)
    return Row(
        artifact=f"exports/v2/{name}" if verified is not None else f"runs/{name}",
        target=name.split("-")[0] if verified is not None else None,
        engine=name.title(),
        precision=precision,
        sha256=name,
        size_bytes=3_500_000,
        verified=verified,
        reasons=() if verified is not False else ("accuracy drops",),
        top1=top1,
        images=500,
        latency_ms=latency,
        best_batch=BestBatch(size=8, latency_ms=latency, images_per_second=8e3 / ms),
        load_ms=400.0,
        memory_bytes=50_000_000,
    )


ROWS = (
    make_row("onnx", "fp32", 8.0, 0.71),
    make_row("openvino", "fp32", 7.9, 0.71),
    make_row("litert", "fp32", 8.3, 0.71),
    make_row("ncnn", "fp32", 9.2, 0.71),
    make_row("openvino-bf16", "bf16", 4.7, 0.708),
    make_row("onnx-int8", "int8", 3.9, 0.70),
    make_row("openvino-int8", "int8", 3.5, 0.70),
    make_row("litert-int8", "int8", 3.4, 0.31, verified=False),
    make_row("v2", "fp32", 19.3, 0.71, verified=None),
)
BENCHMARK = Benchmark(
    machine="a machine",
    threads=1,
    rounds=3,
    data="images",
    fastest=None,
    level=tuple(row.artifact for row in first_places(ROWS)),
    rows=ROWS,
)


def test_the_fastest_is_verified() -> None:
    name = "exports/v2/openvino-int8"
    assert [row.artifact for row in first_places((*ROWS[:5], *ROWS[6:]))] == [name]
    clear = replace(BENCHMARK, fastest=name, level=())
    assert conclusion(clear) == "fastest verified artifact: openvino-int8, 3.50 ms"
    assert first_places(ROWS[-2:]) == []


def test_where_latencies_overlap_none_is_the_fastest() -> None:
    assert BENCHMARK.level == ("exports/v2/openvino-int8", "exports/v2/onnx-int8")
    said = "openvino-int8 and onnx-int8 are level: their latencies overlap"
    assert conclusion(BENCHMARK) == said
    assert said in to_markdown(BENCHMARK)
    assert f"<!-- {said} -->" in draw(BENCHMARK, "svg").decode()
    many = replace(BENCHMARK, level=tuple(row.artifact for row in ROWS[:7]))
    assert conclusion(many).startswith("onnx, openvino, litert, ncnn and 3 more are level")


def test_intervals_that_coincide_are_drawn_apart_and_others_where_they_are() -> None:
    same = [replace(ROWS[0], artifact=str(index)) for index in range(15)]
    heights = [y for _, y in moved_apart(same)]
    assert min(b - a for a, b in itertools.pairwise(sorted(heights))) > 0.08
    assert heights[0] == 71.0
    assert moved_apart(ROWS[5:7]) != moved_apart([ROWS[5], ROWS[8]])
    assert [y for _, y in moved_apart([ROWS[0], ROWS[8]])] == [71.0, 71.0]


def test_what_failed_or_could_not_run_is_in_the_image() -> None:
    dead = Row(
        artifact="exports/v2/dead",
        target="onnx",
        precision="fp32",
        sha256="dead",
        size_bytes=1,
        verified=False,
        reasons=("died",),
    )
    web = replace(dead, artifact="exports/v2/web", verified=None, reasons=("no Node",))
    drawn = draw(replace(BENCHMARK, rows=(*ROWS, dead, web)), "svg").decode()
    assert "dead: failed: died" in drawn
    assert "web: not run: no Node" in drawn


def test_the_markdown_table_has_every_row_and_every_reason() -> None:
    lines = to_markdown(BENCHMARK).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == list(COLUMNS)
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(ROWS)
    assert "- litert-int8: accuracy drops" in lines
    assert "| litert-int8 | Litert-Int8 | int8 | NO | 31.00% | 3.40 |" in "\n".join(lines)
    assert short_names(ROWS)[-1] == "v2"


def test_no_label_lies_over_another() -> None:
    axes = Figure(figsize=(9, 5.5), dpi=120).add_subplot()
    points = [(row.latency_ms.median, 100 * (row.top1 or 0)) for row in ROWS if row.latency_ms]
    axes.set_xscale("log")
    axes.set_xlim(2, 40)
    axes.set_ylim(25, 80)
    spreads = [(0.97 * x, 1.15 * x) for x, _ in points]
    boxes = place_labels(axes, points, short_names(ROWS), spreads)
    assert len(boxes) == len(ROWS)
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))


def test_the_image_is_the_same_every_time_and_names_every_artifact(tmp_path: Path) -> None:
    assert draw(BENCHMARK, "svg") == draw(BENCHMARK, "svg")
    files = write_benchmark(BENCHMARK, tmp_path)
    assert [file.name for file in files] == ["bench.json", "bench.md", "bench.svg", "bench.png"]
    text = (tmp_path / "bench.svg").read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    assert all(f"<!-- {name}" in text for name in short_names(ROWS))
    assert Image.open(io.BytesIO((tmp_path / "bench.png").read_bytes())).width > 800


@pytest.mark.parametrize("rows", [(), (make_row("onnx", "fp32", 8.0, 0.71),)])
def test_few_artifacts(rows: tuple[Row, ...], tmp_path: Path) -> None:
    few = Benchmark(machine="a", threads=2, rounds=1, data=None, fastest=None, rows=rows)
    assert len(write_benchmark(few, tmp_path)) == (4 if rows else 2)
    assert "no artifact is both verified and timed" in conclusion(few)
