"""The public face of the package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from pathlib import Path
from sysconfig import get_path
from typing import Any

import pytest

import mobilette
from mobilette.extras import version_of, version_or_unknown


@pytest.mark.parametrize("name", mobilette.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(mobilette, name).__doc__


def test_the_version_is_that_of_the_package() -> None:
    assert mobilette.__version__ == version("mobilette")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mobilette.trian  # noqa: B018


WRONG: tuple[Any, ...] = (
    *(3, 2.5, float("nan"), b"x", [1], object(), int),
    *("", "a\0b", "9" * 5000),
)
# Of each function: its other arguments, and those that some of `WRONG` are right for.
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, tuple[Any, ...]]]] = {
    "cost": ((), {}),
    "create_model": (
        ("resnet20",),
        {"num_classes": (3,), "width_mult": (3, 2.5), "in_channels": (3,)},
    ),
    "evaluate": ((None, "digits"), {}),
    "export": (("run",), {}),
    "list_models": ((), {"pattern": ("a\0b", "9" * 5000)}),
    "load": (("run",), {}),
    "prune": (("run", "digits"), {}),
    "quantize": (("run", "digits"), {}),
    "resume": (("run",), {}),
    "train": (("digits",), {"out": ()}),
    "verify": (("run",), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_wrong_value_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no run
    function, (others, right) = getattr(mobilette, name), CALLS[name]
    for number, (argument, described) in enumerate(signature(function).parameters.items()):
        if name == "train" and argument not in ("data", "model", "out", "start", "device"):
            continue  # with the others right it would train
        for value in (None, *WRONG):
            positional = described.kind is not described.KEYWORD_ONLY
            if value in right.get(argument, ()) or (value is None and not positional):
                continue
            given = [*others[:number], value, *others[number + 1 :]] if positional else others
            options = {} if positional else {argument: value}
            if name == "prune":
                options.setdefault("keep", 0.5)
            with pytest.raises(mobilette.InputError) as caught:
                function(*given, **options)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 1_000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "given", "options", "message"),
    [
        ("create_model", "resnet20", {"num_classes": None}, "is None, not a whole number"),
        ("create_model", "resnet20", {"pretrained": 3}, "is 3, not True or False or text or None"),
        ("create_model", "resnet20", {"form": "ful"}, "did you mean 'full'"),
        ("cost", 3, {}, "model is 3; expected a network's name, an Arch, a path, or what"),
        ("list_models", 3, {}, "list_models: pattern is 3, not text"),
        ("export", None, {}, "export: model is None, not text or a path or a Run"),
        ("load", 3, {}, "load: model is 3, not text or a path or a Run or an Artifact or a Model"),
        ("export", "x" * 5000, {}, "cannot be read"),
        ("train", "digits", {"model": ""}, "train: model is empty"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_valid(
    name: str, given: object, options: dict[str, object], message: str
) -> None:
    with pytest.raises(mobilette.InputError, match=message):
        getattr(mobilette, name)(given, **options)


@pytest.mark.parametrize(
    "module",
    [
        "mobilette",
        "mobilette.arch.catalogue",
        "mobilette.counting.cost",
        "mobilette.artifact.directory",
        "mobilette.engines.onnxruntime",
        "mobilette.cli.main",
    ],
)
def test_torch_is_not_imported_where_an_answer_is_due_at_once(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_arch_needs_the_standard_library_only() -> None:
    code = (
        "import sys, mobilette.arch.layers, mobilette.arch.catalogue\n"
        "others = {m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(m for m in others if not m.startswith('_')))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert set(eval(printed.stdout)) <= {"mobilette", "sitecustomize", "cython_runtime"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
def test_a_source_tree_works_without_being_installed(images: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    for folder in {get_path("purelib"), get_path("platlib")}:
        for path in Path(folder).iterdir():
            if "mobilette" not in path.name and not (others / path.name).exists():
                (others / path.name).symlink_to(path)
    source = tmp_path / "source"
    shutil.copytree(Path(mobilette.__file__).parent, source / "mobilette")

    def answer(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-S", "-m", "mobilette", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{others}"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert answer("--version") == f"mobilette {mobilette.__version__}\n"
    small = ("--model=mobilenet_v2", "--width-mult=0.1", "--resolution=16", "--epochs=1")
    answer("train", str(images), *small, "--from=scratch", "--out=run")
    record = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert record["versions"]["mobilette"] == mobilette.__version__
    answer("export", "run", "--to=onnx", "--out=out")
    assert json.loads(answer("verify", "out/onnx", "--json"))["passed"]


def test_a_package_may_be_another_one_in_its_place() -> None:
    """As ``onnxruntime-gpu`` brings the module ``onnxruntime``."""
    assert version_of("PIL") == version("pillow")
    with pytest.raises(PackageNotFoundError):
        version_of("no-such-package")
    assert version_or_unknown("no-such-package") == "unknown"
