"""The wheel has every file of the package, and works from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mobilette

ROOT = Path(__file__).parents[1]
BUILD = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def test_the_wheel_has_every_file_of_the_source(wheel: Path) -> None:
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in (source / "mobilette").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {Path(name).suffix for name in expected} >= {".toml", ".csv", ".html", ".mjs", ".cpp"}
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name
        }
        entry_points = next(name for name in archive.namelist() if name.endswith("points.txt"))
        assert b"mobilette = mobilette.cli.main:main" in archive.read(entry_points)
    assert packed == expected


def test_the_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    """Beside the packages of these tests; training from it is tried by `make wheel`."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import mobilette, pathlib\n"
        "from mobilette.cli.main import run\n"
        "from mobilette.training.recipe import load_recipe\n"
        "print(pathlib.Path(mobilette.__file__).parents[1])\n"
        "assert load_recipe('quick').epochs > 0\n"
        "assert run(['cost', 'mobilenet_v2']) == 0\n"
        "assert run(['models', '--budget', 'madds<=20M', '--resolution', '96']) == 0\n"
        "assert run(['weights', 'list', 'mobilenetv1_100']) == 0\n"
        "assert run(['--version']) == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[0] == str(tmp_path / "installed")
    assert printed[-1] == f"mobilette {mobilette.__version__}"
    assert not list((tmp_path / "elsewhere").iterdir())
