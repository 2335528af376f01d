"""onnxruntime-web: its files, their hashes, and where npm has put it on this machine."""

from __future__ import annotations

import json
import os
import shlex
import sys
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha384
from pathlib import Path

from mobilette.errors import InputError
from mobilette.files import read_bytes

NODE_MODULES = "MOBILETTE_NODE_MODULES"
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# Where npm's files are served to everybody, byte for byte.
ADDRESS = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist/"
# Of a bundle: a page keeps what has a version in its address.
FOLDER = f"{PACKAGE}-{VERSION}"
BUNDLED = f"./{FOLDER}/"
RUNTIME = "runtime.json"
KINDS: Mapping[str, Mapping[str, str]] = {
    "webgpu": {
        "module": "ort.webgpu.bundle.min.mjs",
        "binary": "ort-wasm-simd-threaded.asyncify.wasm",
    },
    "wasm": {"module": "ort.wasm.bundle.min.mjs", "binary": "ort-wasm-simd-threaded.wasm"},
}
# As in npm's package, in the form that browsers compare.
INTEGRITY: Mapping[str, str] = {
    "ort.webgpu.bundle.min.mjs": (
        "sha384-1ntMeyj+z5diX6vBR5h+zlJBPc4iNvhCxE6nlammh8daBYcLBZkzrwDkuJjhwI+f"
    ),
    "ort-wasm-simd-threaded.asyncify.wasm": (
        "sha384-EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR"
    ),
    "ort.wasm.bundle.min.mjs": (
        "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM"
    ),
}


def find_package(name: str, version: str, *, artifact: Path | None = None) -> Path:
    """Return the folder of the npm package ``name``; `InputError` says how to install ``version``.

    It is looked for in the folder that ``MOBILETTE_NODE_MODULES`` names or, without that variable,
    in ``node_modules`` of the working directory and beside this Python's packages, where
    ``make engines`` puts it; never in ``artifact``, which would supply its own engine.
    """
    named, own = os.environ.get(NODE_MODULES), Path(sys.prefix) / "node" / "node_modules"
    places = [Path(named)] if named else [Path("node_modules"), own]
    inside = []
    for place in places:
        found = (place / name).resolve()
        if artifact is not None and found.is_relative_to(artifact.resolve()):
            inside.append(place)
        elif (found / "package.json").is_file():
            return found
    install = f"npm install --ignore-scripts {name}@{version}"
    if not named:
        install += f" --prefix {shlex.quote(str(own.parent))}"
    message = f"{name} is not in {' or '.join(map(str, places))}; {install} installs it"
    if inside:
        message += f"; {inside[0]} is inside the artifact, which cannot supply its own engine"
    raise InputError(f"{message} ({NODE_MODULES} selects another node_modules)")


def runtime_record(address: str) -> bytes:
    """Return the content of ``runtime.json``: what the page loads from ``address``."""
    record = {
        "package": PACKAGE,
        "version": VERSION,
        "address": address,
        "kinds": KINDS,
        "integrity": INTEGRITY,
    }
    return (json.dumps(record, indent=2) + "\n").encode()


def runtime_files() -> dict[str, bytes]:
    """Return the files that pages need, by name; `InputError` if npm's are missing or differ."""
    folder = find_package(PACKAGE, VERSION) / "dist"
    files = {name: read_bytes(folder / name) for name in INTEGRITY}
    if wrong := differing(files):
        raise InputError(
            f"{folder / wrong}: not that of {PACKAGE} {VERSION}; npm install --ignore-scripts "
            f"{PACKAGE}@{VERSION} --prefix {shlex.quote(str(folder.parents[2]))} installs it"
        )
    return files


def differing(files: Mapping[str, bytes]) -> str | None:
    """Return the first of ``files`` that is not npm's, or ``None``."""
    return next((name for name in files if _integrity(files[name]) != INTEGRITY.get(name)), None)


def _integrity(content: bytes) -> str:
    return f"sha384-{b64encode(sha384(content).digest()).decode()}"
