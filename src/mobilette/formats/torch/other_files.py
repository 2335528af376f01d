"""Recognises files without named tensors by content and says how to convert them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

SAVE_STATE_DICT = "torch.save(model.state_dict(), ...)"
SHARDED = (
    "the index of a sharded model; load all shards and save them as one file: "
    "safetensors.torch.save_file(weights, 'model.safetensors')"
)
# Bytes needed to recognise a file.
HEAD = 512
# Offset, bytes and meaning.
SIGNATURES = (
    (0, b"\x1f\x8b", "compressed with gzip; unpack it first (gunzip)"),
    (0, b"BZh", "compressed with bzip2; unpack it first (bunzip2)"),
    (0, b"\xfd7zXZ\0", "compressed with xz; unpack it first (unxz)"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first (unzstd)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    (0, b"Rar!", "a RAR archive; unpack it first"),
    (257, b"ustar", "a tar archive; unpack it first (tar xf)"),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file with 'git lfs pull'"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ET12", f"an ExecuTorch program; save the PyTorch model's weights: {SAVE_STATE_DICT}"),
    (0, b"\x93NUMPY", f"a NumPy array; save the weights by name: {SAVE_STATE_DICT}"),
    (0, b"7767517", f"an ncnn model; save the PyTorch model's weights: {SAVE_STATE_DICT}"),
)
# Tags of the fields in an ONNX file's ModelProto that can follow ir_version.
ONNX = b"\x12\x1a\x22\x2a\x32\x3a\x42\x72"
# A version, then a description that begins with an input, where ONNX has a name.
CORE_ML = re.compile(rb"\x08[\x01-\x1f]\x12[\x80-\xff]*[\x00-\x7f]\x0a")
PICKLES = tuple(bytes((0x80, version)) for version in range(2, 6))


def name_file(head: bytes) -> str:
    """Describe a file that begins with ``head``, with advice; "" if unknown."""
    for place, mark, meaning in SIGNATURES:
        if head[place:].startswith(mark):
            return meaning
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body")):
        return "a web page instead of the file; check the address"
    if text.startswith((b"<?xml", b"<net")):
        return (
            f"XML, perhaps an OpenVINO model; save the PyTorch model's weights: {SAVE_STATE_DICT}"
        )
    if text.startswith(b"{"):
        return SHARDED if b'"weight_map"' in head else "JSON text without weights"
    if head.startswith(PICKLES):
        return f"a Python pickle, which would have to be executed; save it with {SAVE_STATE_DICT}"
    if CORE_ML.match(head):
        return f"a Core ML model; save the weights of the PyTorch model: {SAVE_STATE_DICT}"
    return "an ONNX model" if is_onnx(head) else ""


def is_onnx(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is an ONNX model."""
    begins = len(head) > 2 and head[0] == 8 and 0 < head[1] < 32 and head[2] in ONNX
    return begins and not CORE_ML.match(head)


def name_archive(names: Sequence[str]) -> str:
    """Describe a zip archive with these members; "" if it is one of ``torch.save``."""
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends or any("/code/" in name for name in names):
        return (
            "a TorchScript archive, whose code is not executed; save its weights alone: "
            f"model = torch.jit.load(...); {SAVE_STATE_DICT}"
        )
    if "data.pkl" in ends:
        return ""
    if "model.weights.h5" in ends:
        return "a Keras archive (.keras) without config.json or metadata.json; save the model again"
    if (
        "archive_format" in ends
        or "archive_version" in ends
        or "serialized_exported_program.json" in ends
    ):
        return (
            "a program of torch.export, which is not executed; save its weights alone: "
            f"model = torch.export.load(...); {SAVE_STATE_DICT}"
        )
    if any("/.data/" in name for name in names):
        return f"a torch.package archive, which holds code; save the weights: {SAVE_STATE_DICT}"
    if names and all(name.endswith(".npy") for name in names):
        return f"NumPy arrays (.npz); save them as tensors: {SAVE_STATE_DICT}"
    inside = [name for name in names if not name.endswith("/")]
    largest = PurePosixPath(min(inside, key=len)).name if inside else ""
    return f"a zip archive that contains {largest!r:.60}; unpack it first (unzip)" if inside else ""


def name_folder(path: Path) -> str:
    """Describe a folder of weights, with advice; "" if unknown."""
    if (path / ".metadata").is_file() and any(path.glob("*.distcp")):
        return (
            "a distributed PyTorch checkpoint; convert it to one file: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pth"
        )
    if any(path.glob("*.index.json")):
        return SHARDED
    files = [
        file
        for ending in ("safetensors", "bin", "pt", "pth", "ckpt")
        for file in path.glob(f"*.{ending}")
    ]
    return f"a folder; give the file of weights in it: {files[0]}" if files else ""
