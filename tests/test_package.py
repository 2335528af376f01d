"""The public face of the package."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import mobilette


@pytest.mark.parametrize("name", mobilette.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(mobilette, name).__doc__


def test_the_version_is_that_of_the_package() -> None:
    assert mobilette.__version__ == version("mobilette")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mobilette.trian  # noqa: B018


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
