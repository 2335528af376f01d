"""The section "PyTorch checkpoints" of docs/accepted.md."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import gzip
import io
import json
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.formats.importing import import_weights
from mobilette.formats.torch.name_tables import tensor_names
from mobilette.formats.torch.names import MMPRETRAIN
from tests.accepted.page import Case, check, rows
from tests.formats.torch_names import Tensors, published

SECTION = "PyTorch checkpoints"
WIDTH = 0.1
ARCH = get_arch("mobilenet_v2", Settings(width_mult=WIDTH, num_classes=5))
V2 = published("mobilenet_v2", width_mult=WIDTH, num_classes=5)
OTHER = {name: tensor + 1 for name, tensor in V2.items()}
HALF = {name: tensor.half() for name, tensor in V2.items()}
GREY = published("mobilenet_v2", width_mult=WIDTH, num_classes=5, in_channels=1)
HF = published("mobilenet_v2", "transformers", width_mult=WIDTH, num_classes=5)
TIMM = published("mobilenet_v2", "timm", width_mult=WIDTH, num_classes=5)
MMPRETRAIN_V2 = dict(zip(tensor_names(ARCH, MMPRETRAIN).values(), V2.values(), strict=True))
HEAD = {name: tensor for name, tensor in V2.items() if name.startswith("classifier.")}
BODY = {name: tensor for name, tensor in V2.items() if name not in HEAD}
WEIGHT, BIAS = HEAD["classifier.1.weight"], HEAD["classifier.1.bias"]
Pack = Callable[[object], bytes]


class Averaged(collections.OrderedDict[str, Tensor]):
    pass


class Mode(enum.Enum):
    TRAIN = 1


@dataclasses.dataclass
class Options:
    lr: float = 0.1


def packed(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def legacy(content: object) -> bytes:
    return packed(content, _use_new_zipfile_serialization=False)


def read(folder: Path, content: bytes, name: str = "weights.pth", **options: Any) -> Any:
    (folder / name).write_bytes(content)
    chosen: Any = {
        "model": "mobilenet_v2",
        "width_mult": WIDTH,
        "resolution": 64,
        "preprocess": "torch",
    }
    chosen |= options
    return import_weights(folder / name, **chosen)


def gives(
    content: object, pack: Pack = packed, expected: Tensors = V2, name: str = "w.pth"
) -> Case:
    """Read to exactly these weights."""

    def case(folder: Path) -> None:
        imported = read(folder, pack(content), name)
        tensors = [tensor for key, tensor in expected.items() if "num_batches" not in key]
        ours = [tensor for key, tensor in imported.weights.items() if "num_batches" not in key]
        for one, other in zip(ours, tensors, strict=True):
            assert torch.equal(one, other.float().reshape(one.shape))

    return case


def given(make: Callable[[], bytes], name: str = "weights.pth", **options: Any) -> Case:
    def case(folder: Path) -> None:
        read(folder, make(), name, **options)

    return case


def in_folder(*names: str) -> Case:
    def case(folder: Path) -> None:
        for name in names:
            (folder / name).write_bytes(b"any")
        import_weights(folder, model="mobilenet_v2")

    return case


def prefixed(prefix: str, tensors: Tensors = V2) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def start(content: object) -> Case:
    def case(folder: Path) -> None:
        imported = read(folder, packed(content))
        assert not imported.has_classifier
        assert imported.arch.num_classes == 1
        assert torch.equal(imported.weights["stem.conv.weight"], V2["features.0.0.weight"])

    return case


def objects() -> dict[str, object]:
    optimiser = {"state": {0: {"exp_avg": torch.zeros(40_000)}}, "param_groups": [{"lr": 0.1}]}
    return {
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.5),
        "array": np.arange(3),
        "options": Options(),
        "mode": Mode.TRAIN,
        "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "where": Path("runs"),
        "losses": collections.defaultdict(list, train=[0.1]),
        "optimizer": optimiser,
    }


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("false",))


def shared_storage() -> dict[str, object]:
    """Return the weights as parameters and as views of one long tensor, some of them turned."""
    flat = torch.cat([tensor.flatten() for tensor in BODY.values() if tensor.is_floating_point()])
    saved: dict[str, object] = {}
    place = 0
    for name, tensor in V2.items():
        saved[name] = tensor
        if name in BODY and tensor.is_floating_point():
            saved[name] = flat[place : place + tensor.numel()].view(tensor.shape)
            place += tensor.numel()
    return saved | {
        "classifier.1.weight": nn.Parameter(WEIGHT.T.contiguous().T),
        "classifier.1.bias": nn.Parameter(BIAS),
    }


def on_cuda(content: object) -> bytes:
    """Return a file whose storages say that they were on the first GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        return packed(content)


class Quantised:
    """Saved as PyTorch saves a quantised tensor."""

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild: Any = torch._utils._rebuild_qtensor
        return (rebuild, (None, 0, (5, 4), (4, 1), (torch.per_tensor_affine, 0.1, 0), False, {}))


def archive_of(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def tar_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("weights.pth")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def scripted() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


def exported() -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), file)
    return file.getvalue()


def onnx_file() -> bytes:
    return bytes(onnx.ModelProto(ir_version=10, producer_name="somebody").SerializeToString())


SEQUENCE = BODY | {"classifier.1.1.weight": WEIGHT, "classifier.1.1.bias": BIAS}
TWO_LAYERS = BODY | {
    "classifier.1.weight": torch.zeros(8, 1280),
    "classifier.1.bias": torch.zeros(8),
    "classifier.4.weight": torch.zeros(5, 8),
    "classifier.4.bias": torch.zeros(5),
}
EMA = {name: tensor for name, tensor in V2.items() if name.endswith((".weight", ".bias"))}
PAIR = {"student": V2, "teacher": {name: tensor + 1 for name, tensor in V2.items()}}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"

CASES: dict[str, Case] = {
    "a state dict in torchvision's names": gives(V2),
    "in timm's names": gives(TIMM, expected=TIMM),
    "in Hugging Face transformers' names": gives(prefixed("mobilenet_v2.", HF), expected=HF),
    "MobileNet V2 of d-li14, tonylins and mmpretrain": gives(
        {f"backbone.{name}": tensor for name, tensor in MMPRETRAIN_V2.items() if name[:2] != "fc"}
        | {"head.fc.weight": WEIGHT, "head.fc.bias": BIAS}
    ),
    "the zip format, whatever it is called (`.pt`, `.bin`, `.ckpt`, `.pth.tar`)": gives(
        V2, name="weights.pth.tar"
    ),
    "the format before PyTorch 1.6": gives(V2, legacy),
    "safetensors": gives(V2, lambda content: save(V2, {"format": "pt"})),
    "half precision, bfloat16, double": gives({n: t.half() for n, t in V2.items()}, expected=HALF),
    "weights saved on a GPU": gives(V2, on_cuda),
    "`nn.Parameter` objects, views, weights that share memory": gives(shared_storage()),
    "timm's `CheckpointSaver`": gives(
        {"state_dict": OTHER, "state_dict_ema": V2, "version": 2, "metric": 0.5} | objects()
    ),
    "torchvision's references": gives(
        {"model": OTHER, "model_ema": {"n_averaged": torch.tensor(2), **prefixed("module.")}}
        | objects()
    ),
    "the ImageNet example": gives(
        {"state_dict": prefixed("module."), "best_acc1": torch.tensor(0.5)} | objects()
    ),
    "Lightning: `model.`, `net.`, `backbone.` before the names": gives(
        {"state_dict": prefixed("net.") | {"loss.weight": torch.ones(5)}} | objects()
    ),
    "fastai's `{'model', 'opt'}`": gives({"model": V2, "opt": objects()["optimizer"]}),
    "DataParallel, FSDP and `torch.compile`, one in another": gives(
        prefixed("model._orig_mod.module.")
    ),
    "under `net`, `weights`, `model_state`, `ema_state_dict`, or any other one key": gives(
        {"epoch": 3, "my_best": {"inner": V2}}
    ),
    "averages of parameters alone, beside the whole": gives({"model": V2, "ema": {"shadow": EMA}}),
    "a subclass of `OrderedDict`": gives(Averaged(V2)),
    "namespaces, dataclasses, enums, paths, dates, numpy's values beside them": gives(
        {"state_dict": V2} | objects()
    ),
    "without `num_batches_tracked`, with thop's `total_ops`": gives(
        {n: t for n, t in V2.items() if "num_batches" not in n} | {"total_ops": torch.zeros(1)}
    ),
    "a first layer of another number of channels": gives(GREY, expected=GREY),
    "a classifier in a `Sequential`, or called `fc.1`": gives(SEQUENCE),
    "a classifier of its own beside a `backbone`": gives(
        prefixed("backbone.", BODY) | {"head.weight": WEIGHT, "head.bias": BIAS}
    ),
    "torchvision's modules in a `Sequential`": gives(
        {f"extractor.0{name.removeprefix('features')}": tensor for name, tensor in BODY.items()}
        | {"classifier.weight": WEIGHT, "classifier.bias": BIAS}
    ),
    "without a classifier": start(BODY),
    "a head of two layers": given(lambda: packed(TWO_LAYERS)),
    "weights of another width": given(lambda: packed(V2), width_mult=0.35),
    "two networks that could be meant": given(lambda: packed(PAIR)),
    "a pickled module": given(lambda: packed(nn.Sequential(nn.Conv2d(3, 8, 3)))),
    "a pickled module under a key": given(lambda: packed({"model": nn.Linear(2, 2), "epoch": 3})),
    "what would run a program": given(lambda: packed({"state_dict": V2, "x": Hostile()})),
    "a quantised module's state dict": given(
        lambda: packed(V2 | {"features.0.0.weight": Quantised()})
    ),
    "tensors of the device `meta`": given(
        lambda: packed({name: tensor.to("meta") for name, tensor in V2.items()})
    ),
    "one tensor": given(lambda: packed(torch.zeros(3))),
    "arrays of numpy's": given(
        lambda: packed({name: tensor.numpy() for name, tensor in V2.items()})
    ),
    "TorchScript": given(scripted),
    "`torch.export`'s `.pt2`": given(exported),
    "ONNX without nodes": given(onnx_file),
    "Core ML": given(lambda: b"\x08\x04\x12\xbe\x01\x0a\x10\x0a\x05image"),
    "a plain pickle": given(lambda: pickle.dumps({"a": 1})),
    "compressed by gzip, bzip2, xz or zstd": given(lambda: gzip.compress(packed(V2))),
    "in a tar archive": given(lambda: tar_of(packed(V2))),
    "in a zip archive": given(lambda: archive_of("weights.pth", packed(V2))),
    "a pointer of Git LFS": given(lambda: LFS),
    "a web page": given(lambda: b"<!DOCTYPE html><html><body>Sign in</body></html>"),
    "the index of sharded safetensors": given(
        lambda: json.dumps({"metadata": {}, "weight_map": {"a": "b"}}).encode(), "model.json"
    ),
    "a folder of transformers'": in_folder("config.json", "model.safetensors"),
    "a distributed checkpoint": in_folder(".metadata", "__0_0.distcp"),
    "a file that is cut short": given(lambda: packed(V2)[:-4000]),
}


def test_the_page_has_these_rows() -> None:
    assert rows(SECTION).keys() == CASES.keys()


@pytest.mark.parametrize("given", CASES)
def test_row(given: str, tmp_path: Path) -> None:
    check(rows(SECTION)[given], CASES[given], tmp_path)
