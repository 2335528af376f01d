"""``mobilette cost``: what a person types, in real processes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from mobilette.arch.catalogue import list_models
from mobilette.arch.layers import layers
from mobilette.cli.main import run
from mobilette.counting.cost import cost
from mobilette.run.directory import Run
from tests.cli.test_cli import assert_refused, mobilette

CONVOLUTION = ("conv", "--kernel=3", "--in=64", "--out=128", "--size=112")


def _csv(*arguments: str) -> list[dict[str, str]]:
    result = mobilette("cost", *arguments, "--csv")
    assert result.returncode == 0, result.stderr
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_one_convolution_is_explained() -> None:
    text = mobilette("cost", *CONVOLUTION).stdout
    for part in ("924,844,032", "109,985,792", "0.1189 = 1/N + 1/K²", "K²·M·N·D²"):
        assert part in text
    value = json.loads(mobilette("cost", *CONVOLUTION, "--json").stdout)
    assert value["standard_madds"] == 924_844_032
    assert value["separable_madds"] == 109_985_792


def test_several_are_compared_and_sorted() -> None:
    names = ("mobilenet_v2", "vgg16", "squeezenet1_1")
    assert [row["network"] for row in _csv(*names)] == list(names)
    by_madds = [row["network"] for row in _csv(*names, "--sort=madds")]
    assert by_madds == ["vgg16", "squeezenet1_1", "mobilenet_v2"]
    by_activations = [row["network"] for row in _csv(*names, "--sort=activations")]
    assert by_activations == ["vgg16", "mobilenet_v2", "squeezenet1_1"]
    table = mobilette("cost", *names, "--sort=params").stdout.splitlines()
    assert [line.split()[0] for line in table[1:]] == ["vgg16", "mobilenet_v2", "squeezenet1_1"]


def test_layers_of_several_and_their_order() -> None:
    text = mobilette("cost", "resnet8", "mobilenet_v2", "--by-layer").stdout
    assert "rows.2.shortcut" in text
    assert "rows.16.project" in text
    rows = _csv("resnet8", "mobilenet_v2", "--by-layer", "--sort=params")
    assert {row["network"] for row in rows} == {"resnet8", "mobilenet_v2"}
    params = [int(row["params"]) for row in rows if row["network"] == "mobilenet_v2"]
    assert params == sorted(params, reverse=True)
    assert sum(params) == 3_504_872


def test_every_network_in_one_call_is_expanded_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it quick, not how quick it is; `bench/budget.py` has the seconds."""
    result = mobilette("cost", *list_models())
    assert len(result.stdout.splitlines()) == 1 + len(list_models())
    layers.cache_clear()
    assert run(["cost", *list_models()]) == 0
    with_branches = ("repvgg_a0", "mobileone_s0")  # and as deployed
    assert layers.cache_info().misses <= len(list_models()) + len(with_branches)
    patterns = mobilette("cost", "*").stdout
    assert patterns == result.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["conv", "--kernel=3"], "'cost conv' needs --kernel, --in, --out and --size"),
        (["conv", "--kernel=4", "--in=8", "--out=8", "--size=8"], "kernel 4 is even"),
        (["conv", "--kernel=3", "--in=8", "--out=8", "--size=0"], "size 0 is not between"),
        (["mobilenet_v2", "--kernel=3"], "belong to 'cost conv'"),
        (["mobilenet_v2", "--csv", "--json"], "give one of them"),
        (["mobilenet_v2", "--sort=latency"], "latency"),
        (["mobilenet_v9*"], "no network matches 'mobilenet_v9*'"),
        (["shufflenet_v1_g5"], "did you mean 'shufflenet_v1_g"),
        (["shufflenet_v2_x0_5", "--width-mult=2"], "has width 0.5"),
        (["squeezenet1_0", "--resolution=16", "--form=full"], "use a larger resolution"),
        (["vgg16", "--resolution=20", "--form=full"], "use a larger resolution"),
    ],
)
def test_requests_that_are_wrong(arguments: list[str], part: str) -> None:
    assert_refused(mobilette("cost", *arguments), part)


def _set(value: Any, *path: str | int) -> Any:
    def change(arch: dict[str, Any]) -> None:
        place: Any = arch
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (_set(7, "rows", 3, "entry", 0, "operation", "groups"), "groups 7 do not divide"),
        (_set("deepwise", "rows", 3, "entry", 0, "name"), "rows.3.entry.0.name is 'deepwise'"),
        (_set("forward", "rows", 3, "entry", 0, "name"), "rows.3.entry.0.name is 'forward'"),
        (_set("add", "rows", 3, "join"), "join 'add' with 0 paths"),
        (_set("blok", "rows", 3, "kind"), "did you mean 'block'"),
        (_set(2.5, "stem", "channels"), "stem.channels is 2.5, not a whole number"),
        (_set(10**9, "stem", "channels"), "channels 1000000000 is not between"),
        (_set([], "rows", 0, "entry", 0), "rows.0.entry.0"),
        (_set("x", "rows"), "rows is 'x', not a list"),
        (_set(1, "unknown"), "unknown key 'unknown'"),
        (_set(10**6, "resolution"), "resolution 1000000"),
        (_set([0, 160], "resolution"), "resolution 0 is not between 16 and 4096"),
        (_set([160], "resolution"), "resolution is [160], not a list of 2 values"),
    ],
)
def test_an_arch_edited_into_nonsense(run_copy: Path, change: Any, part: str) -> None:
    path = run_copy / "arch.json"
    arch = json.loads(path.read_text())
    change(arch)
    path.write_text(json.dumps(arch))
    assert_refused(mobilette("cost", run_copy), "arch.json", part)


def test_a_run_keeps_its_own_shape(trained: Run) -> None:
    assert_refused(mobilette("cost", trained.path, "--width-mult=0.5"), "has its own width")


def test_an_artifact_costs_what_its_run_does(capsys: pytest.CaptureFixture[str]) -> None:
    fixtures = Path("tests/fixtures/version_0_1_0")
    for folder in (fixtures / "finished", fixtures / "exports" / "onnx"):
        assert run(["cost", str(folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["params"] == cost(folder).params
        assert run(["cost", str(folder), "--resolution=64"]) == 2
        assert "has its own width, resolution" in capsys.readouterr().err
