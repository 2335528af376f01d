"""`mobilette weights` as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mobilette.formats.published import find_published, list_published
from tests.cli.test_cli import assert_refused, mobilette


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path))
    return tmp_path / "weights"


def test_json_is_the_whole_table_and_what_is_cached(cache: Path) -> None:
    chosen = find_published("torchvision/mobilenet_v2.IMAGENET1K_V2")
    cache.mkdir()
    (cache / chosen.filename).write_bytes(b"")
    result = mobilette("weights", "list", "--json")
    assert result.returncode == 0
    rows = json.loads(result.stdout)
    assert [row["name"] for row in rows] == [weights.name for weights in list_published()]
    assert [row["name"] for row in rows if row["cached"]] == [chosen.name]
    (row,) = (row for row in rows if row["name"] == chosen.name)
    assert row["path"] == str(cache / chosen.filename)
    assert (row["url"], row["sha256"], row["top1"]) == (chosen.url, chosen.sha256, chosen.top1)
    assert (row["model"], row["width_mult"]) == ("mobilenet_v2", 1.0)


def test_the_table_says_what_is_known(cache: Path) -> None:
    result = mobilette("weights", "list", "mobilenet_v[12]")
    assert result.returncode == 0
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    assert lines["torchvision/mobilenet_v2.IMAGENET1K_V2"][1:] == [
        *("mobilenet_v2", "1", "224", "72.2", "%", "14.26", "MB", "8"),
        *("download.pytorch.org", "BSD-3-Clause*", "-"),
    ]
    hub = lines["timm/mobilenetv1_100.ra4_e3600_r224_in1k"]
    assert hub[8:] == ["none", "huggingface.co", "Apache-2.0", "-"]
    assert not any("resnet" in name for name in lines)
    assert f"cached: in {cache}" in result.stdout


def test_a_pattern_is_part_of_either_name() -> None:
    for pattern in ("mobilenetv2_100", "shufflenet_v2"):
        result = mobilette("weights", "list", pattern, "--json")
        names = {(row["name"], row["model"]) for row in json.loads(result.stdout)}
        assert names
        assert all(pattern in name or pattern in model for name, model in names)


def test_nothing_matches() -> None:
    assert_refused(mobilette("weights", "list", "resnet51"), "did you mean 'resnet50'")
    assert_refused(mobilette("weights", "lst"), "No such command 'lst'")
