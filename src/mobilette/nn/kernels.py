"""Kernels in C++, compiled on first use for this machine.

Without a compiler, `why_no_kernels` says so and PyTorch's own layers run.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch  # loads the OpenMP library that the kernels need
from torch import Tensor

from mobilette.errors import InputError
from mobilette.files import cache_root
from mobilette.folders import scratch

SOURCES = ("batch_norm.cpp", "depthwise.cpp", "excite.cpp", "max_pool.cpp", "shuffle.cpp")
HEADERS = ("maps.h", "depthwise_rows.h")
COMPILERS = ("g++", "c++")
COMPILE = ("-O3", "-march=native", "-fPIC", "-fopenmp", "-std=c++17")
TIME_LIMIT = 120.0  # seconds for a compiler


class NoKernels(Exception):
    """The kernels are unavailable here; the message says why."""


def kernels_folder() -> Path:
    """Return where compiled kernels are kept; it need not exist."""
    return cache_root() / "kernels"


def why_no_kernels() -> str | None:
    """Return why the kernels are unavailable, or ``None`` if they compile and load."""
    try:
        load_kernels()
    except NoKernels as reason:
        return str(reason)
    return None


def call_kernel(name: str, *arguments: Tensor | int | float | str | None) -> None:
    """Call a function of the kernels; it takes the number of threads after ``arguments``.

    Raises:
        MemoryError: there is no memory for it.
        NoKernels: see `load_kernels`.
    """
    function = getattr(_library(), name)
    if function(*map(_for_c, arguments), ctypes.c_int(torch.get_num_threads())):
        raise MemoryError(f"{name} has no memory to work in")


def kernels_name() -> str | None:
    """Return the name of the library that runs here, a hash of all it was made of; or ``None``."""
    return None if why_no_kernels() else Path(load_kernels()._name).stem


@cache
def _library() -> ctypes.CDLL:
    return load_kernels()


def _for_c(argument: Tensor | int | float | str | None) -> object:
    match argument:
        case Tensor():
            return ctypes.c_void_p(argument.data_ptr())
        case int():
            return ctypes.c_int64(argument)
        case float():
            return ctypes.c_float(argument)
        case str():
            return ctypes.c_char_p(argument.encode())
        case _:
            return None


def load_kernels() -> ctypes.CDLL:
    """Return the functions of `SOURCES`, compiled by ``CXX`` or the system's GCC.

    The library is cached in `kernels_folder` by source, compiler and processor. A compiler with
    another OpenMP than PyTorch's (clang with PyTorch's wheels) makes one that cannot be loaded.

    Raises:
        NoKernels: there is no compiler, or it fails; or the cache cannot be written, or is writable
            by other users.
    """
    try:
        found = _load(os.environ.get("CXX"), kernels_folder())
    except InputError as error:  # there is no folder
        raise NoKernels(str(error)) from error
    if isinstance(found, str):
        raise NoKernels(found)
    return found


@cache
def _load(asked: str | None, folder: Path) -> ctypes.CDLL | str:
    """Return the library, or why there is none; computed once per process."""
    try:
        return _compiled(asked, folder)
    except (NoKernels, InputError) as reason:
        return str(reason)
    except OSError as error:
        return f"kernels cannot be loaded from {folder} ({error})"


def _compiled(asked: str | None, folder: Path) -> ctypes.CDLL:
    if sys.platform != "linux":
        raise NoKernels("kernels are for Linux")
    compiler = _compiler(asked)
    package = files(__package__)
    sources = {name: package.joinpath(name).read_bytes() for name in SOURCES + HEADERS}
    version = _run(*compiler, "--version")
    about = [*compiler, version, *COMPILE, platform.machine(), _processor()]
    everything = b"\0".join([*sources.values(), *(each.encode() for each in about)])
    name = hashlib.sha256(everything).hexdigest()[:32]
    library = folder / f"{name}.so"
    if library.exists():
        with suppress(OSError):  # a damaged library is compiled again
            return _own(library)
    _compile(compiler, sources, library)
    return _own(library)


def _compile(compiler: list[str], sources: dict[str, bytes], library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with scratch(library.parent) as folder, ThreadPoolExecutor() as pool:
        for name, source in sources.items():
            (folder / name).write_bytes(source)
        codes = [str(folder / name) for name in SOURCES]
        list(pool.map(lambda code: _run(*compiler, *COMPILE, "-c", code, "-o", f"{code}.o"), codes))
        built = folder / library.name
        # Without -fopenmp: the process has PyTorch's OpenMP, and two would fight for cores.
        _run(*compiler, "-shared", *(f"{code}.o" for code in codes), "-o", str(built))
        built.chmod(0o700)
        built.replace(library)


def _compiler(asked: str | None) -> list[str]:
    """Return the words of the compiler's command, such as ``ccache g++``."""
    try:
        named = [[name] for name in COMPILERS] if asked is None else [shlex.split(asked)]
    except ValueError as error:  # a quote that is not closed
        raise NoKernels(f"CXX={asked} cannot be read ({error})") from None
    for words in named:
        if words and (found := shutil.which(words[0])):
            return [found, *words[1:]]
    wanted = f"CXX={asked}" if asked is not None else f"none of {', '.join(COMPILERS)}"
    raise NoKernels(f"no C++ compiler ({wanted})")


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernels(f"{command[0]} does not run ({error})") from None
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise NoKernels(f"{command[0]} does not compile the kernels ({said.strip()[:200]})")
    return done.stdout


def _processor() -> str:
    """Return a text that differs between processors for which ``-march=native`` differs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _own(library: Path) -> ctypes.CDLL:
    """Load a library, or raise `NoKernels` if another user could have written it."""
    for path in (library.parent, library):
        status = path.stat()
        if status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise NoKernels(f"{path}: writable by others, so it is not loaded")
    return ctypes.CDLL(str(library))
