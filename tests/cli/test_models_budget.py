"""`mobilette models --budget` as a person uses it."""

from __future__ import annotations

import json

import pytest

from mobilette.arch.scale import Resolution
from mobilette.cli.options import parse_resolutions
from mobilette.counting.published import published_accuracy
from mobilette.errors import InputError
from tests.cli.test_cli import assert_refused, mobilette

BUDGET = "madds<=60M, size<=1MB, ram<=256KB"
KEYS = {
    "name",
    "family",
    "params",
    "madds",
    "resolution",
    "width_mult",
    "top1",
    "top1_interpolated",
    "source",
    "size_bytes",
    "peak_activation_bytes",
}


def test_json_has_every_point_and_its_source() -> None:
    result = mobilette("models", "--budget", BUDGET, "--resolution=96..224", "--json")
    assert result.returncode == 0
    rows = json.loads(result.stdout)
    assert len(rows) > 20
    for row in rows:
        assert row.keys() == KEYS
        assert row["madds"] <= 60_000_000
        assert row["size_bytes"]["int8"] <= 1_000_000
        assert row["peak_activation_bytes"]["int8"] <= 256_000
        assert row["resolution"] in (96, 128, 160, 192, 224)
        assert (row["top1"] is None) == (row["source"] is None)
    top1 = [row["top1"] or 0.0 for row in rows]
    assert top1 == sorted(top1, reverse=True)
    limited = mobilette("models", "--budget", BUDGET, "--limit=2", "--json")
    assert json.loads(limited.stdout) == rows[:2]


def test_the_table_shows_twenty_and_says_what_it_counts() -> None:
    result = mobilette("models", "--budget", BUDGET, "--resolution=96..224")
    assert result.returncode == 0
    rows = [line for line in result.stdout.splitlines() if " B" in line or "kB" in line]
    assert len(rows) == 20
    assert "more fit (--limit)" in result.stdout
    assert "in int8, 1,000 classes" in result.stdout
    known = published_accuracy("mobilenet_v1", 0.25, 192)
    assert known is not None
    (row,) = (r.split() for r in rows if r.split()[:3] == ["mobilenet_v1", "0.25", "192"])
    assert row[3:5] == [f"{100 * known.top1:.1f}", "%"]
    assert f"{row[5]} {known.source}" in result.stdout
    (between,) = (r.split() for r in rows if r.split()[:3] == ["mobilenet_v1", "0.35", "160"])
    assert between[3].startswith("~")


def test_pattern_precision_and_classes() -> None:
    options = ("--precision=fp32", "--num-classes=10", "--limit=3", "--resolution=160,192")
    result = mobilette("models", "v3", "--budget=size<=8MB", *options, "--json")
    rows = json.loads(result.stdout)
    assert all("v3" in row["name"] for row in rows)
    assert {row["resolution"] for row in rows} <= {160, 192}
    assert all(row["size_bytes"]["fp32"] <= 8_000_000 for row in rows)
    # The 990 classes that are missing have 1,025 parameters each in the classifier of V3 Small.
    assert rows[0]["name"] == "mobilenet_v3_small"
    assert rows[0]["params"] < 2_000_000
    table = mobilette("models", "v3", "--budget=size<=8MB", *options).stdout
    assert "in fp32, 10 classes" in table


def test_a_budget_that_nothing_meets_is_status_1() -> None:
    result = mobilette("models", "--budget=size<10KB, madds<=1G")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "its tightest limit is size<10KB" in result.stderr
    assert "resnet8 at width 0.25 and 96 pixels (size 26.55 kB in int8)" in result.stderr
    result = mobilette("models", "--budget=size<10KB", "--json")
    assert (result.returncode, result.stdout) == (1, "[]\n")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--budget=madds<60Q"], "unit 'Q' of madds is not one of K, M, G"),
        (["--budget=madd<60M"], "did you mean 'madds'?"),
        (["--budget="], "--budget is empty; give it a value"),
        (["--budget=madds<=M"], "'M' is not a positive number"),
        (["--budget=madds<=-5"], "'-5' is not a positive number"),
        (["--budget=madds<=60M", "--resolution=8x96"], "resolution 8 is not between 16 and 4096"),
        (["--budget=madds<=60M", "--resolution=96x160..192"], "'96x160..192' is neither a side"),
        (["--budget=madds<=60M", "--resolution=8"], "resolution 8 is not between 16 and 4096"),
        (["--budget=madds<=60M", "--resolution=96..9000"], "resolution 9000 is not between"),
        (["--budget=madds<=60M", "--resolution=224..96"], "reversed; write 96..224"),
        (["--budget=madds<=60M", "--resolution=96..224:0"], "step of 0"),
        (["--budget=madds<=60M", "--resolution=big"], "'big' is neither a resolution nor a range"),
        (["--budget=madds<=60M", "--precision=int4"], "int4"),
        (["--budget=madds<=60M", "--limit=0"], "--limit"),
        (["--budget=madds<=60M", "--num-classes=0"], "--num-classes 0 is not"),
        (["--resolution=96"], "--resolution needs --budget"),
        (["--limit=3"], "--limit needs --budget"),
        (["nothing", "--budget=madds<=60M"], "no network matches 'nothing'"),
    ],
)
def test_requests_that_are_wrong(arguments: list[str], part: str) -> None:
    assert_refused(mobilette("models", *arguments), part)


def test_oblong_candidates_have_no_published_accuracy() -> None:
    options = ("mobilenet_v2", "--budget=madds<=60M", "--resolution=96x160,96")
    rows = json.loads(mobilette("models", *options, "--json").stdout)
    oblong = [row for row in rows if row["resolution"] != 96]
    assert {(*row["resolution"], row["top1"]) for row in oblong} == {(96, 160, None)}
    assert " 96x160 " in mobilette("models", *options).stdout


@pytest.mark.parametrize(
    ("text", "resolutions"),
    [
        ("160", [160]),
        ("96..224", [96, 128, 160, 192, 224]),
        ("96..120:8", [96, 104, 112, 120]),
        ("96..100", [96]),
        ("224, 32,96..128", [32, 96, 128, 224]),
        ("96,96..96", [96]),
        ("160x224,160x160, 96", [96, 160, (160, 224)]),
    ],
)
def test_resolutions(text: str, resolutions: list[Resolution]) -> None:
    assert parse_resolutions(text) == resolutions


@pytest.mark.parametrize("text", ["", "96..", "..96", "96:8", "96...224", "1e2", "-96", "96;128"])
def test_what_is_no_resolution(text: str) -> None:
    with pytest.raises(InputError, match="is neither a resolution nor a range"):
        parse_resolutions(text)
