"""An `Arch` in a JSON file is accepted where the name of a network is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mobilette
from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import convs
from mobilette.errors import InputError
from mobilette.run.directory import open_run


def widened(arch: dict[str, Any]) -> None:
    """Give the depthwise convolutions of the last stage 5x5 kernels."""
    for row in arch["rows"][-4:-1]:
        for path in (row["entry"], *row["paths"]):
            for step in path:
                if step["name"] == "depthwise":
                    step["operation"]["kernel"] = 5


def write(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "own") -> str:
    arch = json.loads(json.dumps(get_arch("mobilenet_v2", width_mult=0.25).to_json()))
    change(arch)
    file = folder / "own.json"
    file.write_text(json.dumps(arch | {"name": name}), encoding="utf-8")
    return str(file)


def test_it_is_counted_and_built_as_the_file_says(tmp_path: Path) -> None:
    file = write(tmp_path, widened)
    usual = mobilette.cost(get_arch("mobilenet_v2", width_mult=0.25))
    own = mobilette.cost(file)
    assert own.params - usual.params == sum(
        (25 - 9) * mine.channels
        for name, mine in convs(mobilette.get_arch(file)).items()
        if mine.kernel == 5 and name.endswith("depthwise")
    )
    assert mobilette.get_arch(file, num_classes=7, resolution=64).num_classes == 7
    network = mobilette.create_model(file, num_classes=7, resolution=64)
    assert (network.arch.name, network.arch.resolution) == ("own", 64)


def test_it_is_trained_and_trained_further(tmp_path: Path) -> None:
    file = write(tmp_path, widened)
    run = mobilette.train("digits", model=file, epochs=1, out=tmp_path / "run", workers=0)
    origin = open_run(run.path).model.origin
    assert (run.arch.name, origin.name, origin.width_mult) == ("own", "own", None)
    again = mobilette.train("digits", start=run.path, epochs=1, out=tmp_path / "again", workers=0)
    assert again.arch == run.arch


def _ungrouped(arch: dict[str, Any]) -> None:
    arch["rows"][0]["paths"][0][0]["operation"]["groups"] = 3


def _apart(arch: dict[str, Any]) -> None:
    arch["rows"][2]["paths"][0][-1]["operation"]["channels"] = 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_ungrouped, r"own\.json.*rows\.0.*groups 3 do not divide"),
        (_apart, r"own\.json: rows\.2: paths of .* cannot be joined by add"),
        (lambda arch: arch.pop("stem"), r"own\.json.*stem"),
        (lambda arch: arch.update(resolution=0), r"own\.json.*resolution"),
    ],
)
def test_rows_that_do_not_fit_are_named(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        mobilette.get_arch(write(tmp_path, change))


def test_a_width_or_a_form_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, widened)
    for options in ({"width_mult": 0.5}, {"form": "small"}):
        with pytest.raises(InputError, match="has its own widths and strides"):
            mobilette.get_arch(file, **options)
    with pytest.raises(InputError, match="no such file"):
        mobilette.get_arch(str(tmp_path / "missing.json"))
