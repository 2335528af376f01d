"""Checkpoints that training scripts write, made with torchvision's modules: `../shared/cases`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.formats.importing import import_weights
from mobilette.nn.network import build_empty
from mobilette.run.directory import Run, open_run
from mobilette.training.start import read_start
from mobilette.workflows.train import train
from tests.parity.libraries import library

READ = (
    *("reference_script.pth", "with_args.pth.tar", "numpy_scalar.pth", "lightning.ckpt"),
    *("other_key.pth", "classifier_in_a_sequence.pth"),
)


@pytest.fixture(scope="module")
def made(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    library("torchvision")
    folder = tmp_path_factory.mktemp("checkpoints")
    script = shared / "cases" / "make_torch_checkpoints.py"
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    return folder


def imported(path: Path, out: Path) -> Run:
    model = import_weights(
        path,
        model="mobilenet_v2",
        width_mult=0.35,
        resolution=64,
        form="full",
        preprocess="torch",
    )
    return open_run(model.save(out))


@torch.no_grad()
@pytest.mark.parametrize("name", READ)
def test_logits(name: str, made: Path, tmp_path: Path) -> None:
    run = imported(made / name, tmp_path / "run")
    expected = np.load(made / "expected.npz")
    network = build_empty(run.arch)
    network.load_state_dict(run.model.weights, assign=True)
    logits = network.eval()(torch.from_numpy(expected["x"])).numpy()
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("whole_module.pth", "names 'torchvision.models.mobilenetv2.MobileNetV2'"),
        ("scripted.pt", "a TorchScript archive"),
    ],
)
def test_files_of_code(name: str, part: str, made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"torch\.save\(model\.state_dict\(\), \.\.\.\)") as caught:
        imported(made / name, tmp_path / "run")
    assert part in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_without_a_classifier_it_is_a_start(made: Path, images: Path, tmp_path: Path) -> None:
    run = imported(made / "features_only.pth", tmp_path / "run")
    with pytest.raises(InputError, match="imported from a file without a classifier"):
        load(run.path).predict(np.zeros((8, 8, 3), np.uint8))
    start = read_start(run.path, model=None, width_mult=None, report=None)
    assert start is not None
    assert not start.has_classifier
    trained = train(
        images,
        model="mobilenet_v2",
        width_mult=0.35,
        preprocess="torch",
        resolution=32,
        form="full",
        start=made / "features_only.pth",
        out=tmp_path / "trained",
        overrides={"epochs": 1, "batch_size": 32},
        workers=0,
    )
    assert trained.arch == run.arch.with_classes(3).with_resolution(32)
