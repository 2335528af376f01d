"""Every public callable refuses what is wrong in one line, and never with another error."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mobilette
from mobilette.errors import InputError

HUGE = 10**30
NUMBERS = (None, "", "x", 0, -1, HUGE, float("nan"), float("inf"))
PLACES = (None, "", 0, "no such place", "a\0b", "x" * 5000)
NAMES = (None, "", 0, "no_such_network", "a\0b", "x" * 5000)
# Of each callable: what else it is given, and wrong values by argument.
WRONG: dict[str, tuple[dict[str, object], dict[str, tuple[object, ...]]]] = {
    "bench": (
        {"models": ["no such place"]},
        {
            "models": ("no such place", ["no such place"], []),
            "threads": NUMBERS,
            "rounds": NUMBERS,
        },
    ),
    "build_latency_table": (
        {"engine": "onnx"},
        {
            "engine": NAMES,
            "precision": (None, "", 0, "int4"),
            "threads": NUMBERS,
            "networks": ("x", 0, [0], []),
            "seconds": ("x", None, -1.0, float("nan"), 1e30),
        },
    ),
    "predicted_latency": (
        {"arch": "resnet8", "table": "pi4.json"},
        {"arch": (None, 0, "resnet8"), "table": (None, 0, "pi4.json")},
    ),
    "read_latency_table": ({}, {"path": PLACES}),
    "audit": (
        {"data": "digits"},
        {
            "data": PLACES,
            "run": ("", 0, "no such place"),
            "start": ("", 0, None, "no such place"),
            "model": NAMES[1:],
            "width_mult": NUMBERS[1:],
            "resolution": NUMBERS[1:],
            "device": ("", 0, None, "tpu"),
            "workers": ("x", 0.5),
        },
    ),
    "cost": ({}, {"model": (*NAMES, "no such place/run", Path("no such place"))}),
    "create_model": (
        {"name": "resnet20"},
        {
            "name": NAMES,
            "num_classes": NUMBERS,
            "width_mult": NUMBERS,
            "resolution": NUMBERS,
            "in_channels": NUMBERS,
            "form": ("", 0, "ful"),
            "pretrained": ("", 0, 1.5, "nobody/none", "x" * 5000),
        },
    ),
    "evaluate": (
        {"model": "no such place", "data": "digits"},
        {"model": PLACES, "data": PLACES, "workers": ("x", 0.5), "max_unusable": ("x", None)},
    ),
    "evaluate_shifts": (
        {"model": "no such place", "data": "digits"},
        {"model": PLACES, "data": PLACES, "workers": ("x", 0.5), "max_unusable": ("x", None)},
    ),
    "explain": (
        {"model": "no such place", "images": []},
        {
            "model": PLACES,
            "label": ("", 0),
            "method": ("", 0, "gradcam"),
            "device": (None, 0, ""),
            "seed": ("x", None),
        },
    ),
    "export": (
        {"model": "no such place"},
        {"model": PLACES, "to": NAMES, "precision": ("", 0, "fp31"), "out": (0, "")},
    ),
    "fit": (
        {"data": "digits", "budget": "size<=1MB"},
        {
            "data": PLACES,
            "budget": (None, "", 0, "size", "size<=0"),
            "time": ("", "x", 0, -1, HUGE, float("nan")),
            "scene": ("", 0, "phne"),
            "to": NAMES[1:],
            "precision": ("", 0, "int4"),
            "models": ("", 0, "no such network"),
            "starts": (0, ["no such place"]),
            "max_drop": (None, "x"),
        },
    ),
    "get_arch": (
        {"name": "resnet20"},
        {
            "name": NAMES,
            "width_mult": NUMBERS[1:],
            "resolution": NUMBERS[1:],
            "num_classes": NUMBERS[1:],
            "in_channels": NUMBERS[1:],
            "form": ("", 0, "ful"),
            "settings": (0, "x"),
        },
    ),
    "import_weights": (
        {"file": "no such file", "model": "resnet20"},
        {"file": PLACES, "model": NAMES, "width_mult": NUMBERS, "resolution": ("x", 0.5)},
    ),
    "list_models": ({}, {"pattern": (None, "", 0)}),
    "load": (
        {"model": "no such place"},
        {"model": PLACES, "device": (None, 0, ""), "threads": ("x", -1, None)},
    ),
    "prune": (
        {"run": "no such place", "data": "digits", "keep": 0.5},
        {
            "run": PLACES,
            "data": PLACES,
            "keep": NUMBERS,
            "steps": NUMBERS,
            "epochs": NUMBERS[1:],
            "time": NUMBERS[1:],
            "callbacks": (None, 0, "x", [None]),
        },
    ),
    "quantize": (
        {"run": "no such place", "data": "digits"},
        {"run": PLACES, "data": PLACES, "to": NAMES, "max_drop": (None, "x")},
    ),
    "report": (
        {"subject": "no such place"},
        {
            "subject": PLACES,
            "data": ("", 0),
            "out": (0, "", "page.txt"),
            "artifacts": ("x", 0, None),
            "audit": ("", 0),
            "workers": ("x", 0.5),
            "max_unusable": ("x", None),
            "threads": ("x", -1, None),
        },
    ),
    "resume": (
        {"path": "no such place"},
        {"path": PLACES, "data": (0, ""), "epochs": ("x", ""), "device": (0, "")},
    ),
    "resume_fit": ({"path": "no such place"}, {"path": PLACES, "on_line": (0, "x")}),
    "train": (
        {"data": "digits"},
        {
            "data": PLACES,
            "model": NAMES[1:],
            "epochs": NUMBERS[1:],
            "batch_size": NUMBERS[1:],
            "lr": (*NUMBERS[1:3], -1, HUGE, float("nan")),
            "time": ("", "x", 0, -1, HUGE, float("nan")),
            "width_mult": NUMBERS[1:],
            "resolution": NUMBERS[1:],
            "start": ("", 0, None, "no such place"),
            "device": ("", 0, None, "tpu"),
            "recipe": ("", 0, "no such recipe"),
            "overrides": (0, "x", {"no_such_key": 1}, {"epochs": "x"}),
        },
    ),
    "verify": ({"artifact": "no such place"}, {"artifact": PLACES, "max_drop": (None, "x")}),
}


def refused(name: str, options: dict[str, object]) -> str:
    with pytest.raises(InputError) as caught:
        getattr(mobilette, name)(**options)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert len(text) < 1_000
    return text


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name in WRONG for argument in WRONG[name][1]]
)
def test_wrong_values_are_refused(name: str, argument: str) -> None:
    others, wrong = WRONG[name]
    for value in wrong[argument]:
        refused(name, others | {argument: value})


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_keyword_names_the_nearest(name: str) -> None:
    function: Callable[..., object] = getattr(mobilette, name)
    for argument in signature(function).parameters:
        if len(argument) > 4:
            assert f"did you mean {argument}" in refused(name, WRONG[name][0] | {f"{argument}z": 1})
    refused(name, WRONG[name][0] | {"qqqq": 1})


@pytest.mark.parametrize("name", WRONG)
def test_what_must_be_given_is_named(name: str) -> None:
    needed = [
        each.name
        for each in signature(getattr(mobilette, name)).parameters.values()
        if each.default is Parameter.empty
    ]
    if needed:
        assert all(argument in refused(name, {}) for argument in needed)


def test_every_public_callable_has_wrong_values() -> None:
    values = {"Arch", "ImageClassifier", "InputError", "LatencyTable", "Model"}
    values |= {"TrainingProgress", "__version__"}
    assert set(mobilette.__all__) == {*WRONG, *values}


@given(st.text(max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_gives_a_network_or_one_line(name: str) -> None:
    text = ""
    try:
        assert mobilette.cost(mobilette.get_arch(name)).params > 0
    except InputError as error:
        text = str(error)
    assert "\n" not in text


@pytest.mark.parametrize("path", [None, 0, "", "no such place", "a\0b"])
def test_a_model_is_loaded_from_a_run_alone(path: Any) -> None:
    with pytest.raises(InputError) as caught:
        mobilette.Model.load(path)
    assert "\n" not in str(caught.value)
