"""onnxruntime-web under node, and scripts under node in general."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.contract import METADATA_KEY
from mobilette.artifact.web_runtime import PACKAGE, VERSION, find_package
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.sharing import CALLS
from mobilette.errors import InputError
from mobilette.files import read_json


class NodeError(Exception):
    """A script's error message, or that it ended."""


class NodeProcess:
    """A node script that answers messages one at a time, until this object is gone.

    Messages are framed as in node_messages.mjs. A child of `fork` cannot use it.
    """

    def __init__(self, script: Path, arguments: Sequence[str]) -> None:
        node = find_node()
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `_stop`
        self.process = subprocess.Popen(
            [node, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        self.stop = weakref.finalize(self, _stop, self.process, self.errors)
        _RUNNING.add(self)

    def ask(self, *parts: bytes | memoryview) -> bytes:
        """Return the answer to the message ``parts``; `NodeError` if the script fails or ends."""
        try:
            with CALLS.one():
                answer = self._exchange(parts)
        except (OSError, EOFError, ValueError) as error:
            raise NodeError(self._last_words()) from error
        if answer[:1] != b"\0":
            raise NodeError(answer[1:].decode(errors="replace"))
        return answer[1:]

    def _exchange(self, parts: Sequence[bytes | memoryview]) -> bytes:
        assert self.process.stdin is not None
        self.process.stdin.write(struct.pack("<I", sum(len(part) for part in parts)))
        for part in parts:
            self.process.stdin.write(part)
        self.process.stdin.flush()
        (length,) = struct.unpack("<I", self._read(4))
        return self._read(length)

    def leave(self) -> None:
        """Close the pipes in a child of `fork`; the script belongs to the parent."""
        self.stop.detach()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.returncode = 0  # not ours to wait for

    def _read(self, count: int) -> bytes:
        assert self.process.stdout is not None
        content = self.process.stdout.read(count)
        if len(content) < count:
            raise EOFError
        return content

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        self.errors.seek(0)
        lines = self.errors.read(65536).decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if "Error" in line]
        return f"node ended with status {self.process.poll()}{': ' + said[0] if said else ''}"


_RUNNING: weakref.WeakSet[NodeProcess] = weakref.WeakSet()


def _leave_all() -> None:
    for node in list(_RUNNING):
        node.leave()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_leave_all)


def find_node() -> str:
    """Return the path of node; `InputError` if it is not installed."""
    node = shutil.which("node")
    if node is None:
        raise InputError("node is not installed; https://nodejs.org has it, version 20 is tested")
    return node


def _stop(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    """Close stdin, which ends the process; kill it after 5 seconds."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    errors.close()


SCRIPT = Path(__file__).with_suffix(".mjs")
SERVER_FILE = Path("dist") / "ort.node.min.mjs"


class OnnxRuntimeWebPredictor(ArtifactPredictor):
    """A web artifact's model, executed by onnxruntime-web under node.

    Threads may share it: one node process answers call by call. If it ends, that call fails and the
    next one starts another. Only the artifact's model is executed, not its page or module.
    """

    engine = "ONNX Runtime Web"
    in_this_process = False

    def at_once(self) -> int:
        """Return 1: one node process."""
        return 1

    def open(self) -> NodeProcess:
        """Start node and create the session."""
        model = self.artifact.read_model()
        self.check_embedded(_read_embedded(model))
        runtime = (find_runtime(self.artifact.path) / SERVER_FILE).as_uri()
        given = self.contract.input
        names = {"input": given.name, "outputs": self.output_names, "shape": given.shape}
        node = NodeProcess(SCRIPT, [runtime, str(self.threads), json.dumps(names)])
        try:
            node.ask(model)
        except NodeError as error:
            raise self.refused(error) from error
        return node

    def batch_outputs(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return logits, and features if there are any, for one batch of ``pixels``."""
        with self.session() as node:
            try:
                answer = node.ask(np.ascontiguousarray(self.laid_out(pixels)).tobytes())
            except NodeError as error:
                raise self.failed(error) from error
        values = np.frombuffer(answer, "<f4").astype(np.float32)
        images = len(pixels)
        widths = [len(self.classes), self.feature_count][: len(self.output_names)]
        if len(values) != images * sum(widths):
            raise self.failed(NodeError(f"{len(values)} numbers for {images} images"))
        parts = np.split(values, np.cumsum(widths)[:-1] * images)
        return [part.reshape(images, -1) for part in parts]


def find_runtime(artifact: Path | None = None) -> Path:
    """Return the folder of onnxruntime-web, as `find_package` does."""
    find_node()
    return find_package(PACKAGE, VERSION, artifact=artifact)


def describe_runtime() -> str:
    """Return which onnxruntime-web executes web artifacts here, or what to install."""
    try:
        folder = find_runtime()
        about = read_json(folder / "package.json")
    except InputError as error:
        return str(error)
    version = about.get("version") if isinstance(about, dict) else None
    return f"{PACKAGE} {version} in {folder.parent}"


def _read_embedded(model: bytes) -> str | None:
    """Return the contract inside an ONNX file, which onnxruntime-web does not show."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        entries = onnx.ModelProto.FromString(model).metadata_props
    except DecodeError:
        return None
    return next((entry.value for entry in entries if entry.key == METADATA_KEY), None)
