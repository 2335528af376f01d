"""Kernels are compiled once, for this machine, and never taken from strangers."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from mobilette.nn.kernels import (
    COMPILE,
    COMPILERS,
    SOURCES,
    kernels_folder,
    load_kernels,
    why_no_kernels,
)
from tests.conftest import needs_compiler


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "cache" / "kernels"


def ask(**environment: str) -> str | None:
    """Return what another process says of its kernels."""
    code = (
        "import json; from mobilette.nn.kernels import why_no_kernels as w; print(json.dumps(w()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, check=True
    )
    answer: str | None = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A compiler that does not optimise: a fifth of the time."""
    script = tmp_path_factory.mktemp("compiler") / "quick++"
    script.write_text('#!/bin/sh\nexec g++ "$@" -O0\n')
    script.chmod(0o755)
    return str(script)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory, quick: str) -> Path:
    """What another process has kept."""
    cache = tmp_path_factory.mktemp("compiled")
    assert ask(MOBILETTE_CACHE=str(cache), CXX=quick) is None
    return cache / "kernels"


@pytest.fixture
def library(compiled: Path, own_cache: Path, quick: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CXX", quick)
    shutil.copytree(compiled, own_cache)
    (only,) = own_cache.iterdir()  # no scratch was left
    return only


@needs_compiler
def test_compiled_once_and_kept(library: Path, own_cache: Path) -> None:
    assert kernels_folder() == own_cache
    made = library.stat().st_mtime_ns
    assert why_no_kernels() is None
    assert hasattr(load_kernels(), "depthwise_forward_float32")
    assert [path.stat().st_mtime_ns for path in own_cache.iterdir()] == [made]


@needs_compiler
def test_what_others_can_write_is_not_run(library: Path, own_cache: Path) -> None:
    for path in (library, own_cache):
        before = path.stat().st_mode
        path.chmod(0o777)
        said = ask()
        assert said is not None
        assert str(path) in said
        assert "writable by others" in said
        path.chmod(before)


@needs_compiler
def test_a_damaged_library_is_compiled_again(library: Path) -> None:
    library.write_bytes(b"not a library")
    assert ask() is None
    assert library.read_bytes().startswith(b"\x7fELF")


@needs_compiler
def test_a_compiler_may_be_several_words(own_cache: Path, quick: str) -> None:
    """It is given our options alone."""
    assert ask(CXX=f"env {quick}", CXXFLAGS="--no-such-option") is None
    assert len(list(own_cache.iterdir())) == 1


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86's registers")
@pytest.mark.parametrize("processor", ["x86-64", "haswell", "skylake-avx512"])
@pytest.mark.parametrize("source", SOURCES)
def test_older_processors_registers_are_enough(source: str, processor: str) -> None:
    """Before AVX vectors have four floats, before AVX-512 eight."""
    code = files("mobilette.nn").joinpath(source)
    command = [
        "g++",
        *COMPILE,
        f"-march={processor}",
        "-O0",
        "-w",
        "-S",
        str(code),
        "-o",
        os.devnull,
    ]
    subprocess.run(command, check=True)


@needs_compiler
def test_another_processor_of_a_shared_cache_has_a_library_of_its_own(
    library: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = library.read_bytes()
    monkeypatch.setattr("mobilette.nn.kernels._processor", lambda: "flags: another")
    assert why_no_kernels() is None
    (other,) = set(own_cache.iterdir()) - {library}
    assert library.read_bytes() == before
    assert load_kernels()._name == str(other)


def test_without_a_compiler_it_says_so(own_cache: Path, tmp_path: Path) -> None:
    assert ask(PATH=str(tmp_path)) == f"no C++ compiler (none of {', '.join(COMPILERS)})"
    assert ask(CXX="no-such-compiler") == "no C++ compiler (CXX=no-such-compiler)"
    assert ask(CXX="") == "no C++ compiler (CXX=)"
    assert ask(CXX="g++ '") == "CXX=g++ ' cannot be read (No closing quotation)"
    assert not own_cache.exists()


def test_a_compiler_that_fails_leaves_nothing(own_cache: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "strict++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "x.cpp: error: no" >&2; exit 1\n'
    )
    compiler.chmod(0o755)
    said = ask(CXX=str(compiler))
    assert said is not None
    assert said.endswith("does not compile the kernels (x.cpp: error: no)")
    assert list(own_cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told(own_cache: Path) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text("a file is in the way")
    if any(map(shutil.which, COMPILERS)):
        said = ask()
        assert said is not None
        assert str(own_cache) in said
