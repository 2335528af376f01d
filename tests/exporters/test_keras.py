from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import change_convs
from mobilette.arch.rows import Pool
from mobilette.arch.scale import Settings
from mobilette.artifact.directory import Artifact
from mobilette.data.preprocess import preset
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.formats.importing import import_weights
from mobilette.formats.keras.library import check_archive
from mobilette.run.directory import Run
from mobilette.verification.first_difference import first_difference
from mobilette.workflows.export import export
from tests.exporters.networks import FAMILIES, run_printed, untrained
from tests.models import model_of


@pytest.fixture(scope="module")
def artifact(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(trained, to="keras", out=tmp_path_factory.mktemp("keras"))


def largest_difference(artifact: Artifact) -> float:
    """Return it for the golden logits, as a part of the largest of these."""
    golden = artifact.golden
    off = np.abs(load(artifact.path, threads=1).logits(golden.inputs) - golden.logits).max()
    return float(off / np.abs(golden.logits).max())


def test_the_contract_is_in_the_metadata(artifact: Artifact) -> None:
    content = (artifact.path / "model.keras").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inside = json.loads(archive.read("metadata.json"))["mobilette.contract"]
    beside = json.loads(artifact.contract.published().to_text())
    assert inside
    assert all(beside[key] == value for key, value in inside.items())


def test_the_readmes_python_gives_predicts_answer(artifact: Artifact) -> None:
    label, logits = run_printed(artifact.path)
    predictor = load(artifact.path)
    assert predictor.predict([artifact.path / "image.jpg"])[0].label == label
    assert logits.shape == (3,)
    assert largest_difference(artifact) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, tmp_path: Path) -> None:
    run = untrained(name, tmp_path / "run")
    artifact = export(run, to="keras", out=tmp_path)
    assert largest_difference(artifact) < 1e-4


def test_a_difference_is_found(trained: Run, artifact: Artifact) -> None:
    assert first_difference(artifact, trained.model) is None
    weights = {name: tensor.clone() for name, tensor in trained.model.weights.items()}
    weights["rows.3.depthwise.conv.weight"] *= 1.1
    found = first_difference(artifact, replace(trained.model, weights=weights))
    assert found is not None
    assert found.layer == "rows.3.depthwise.conv"


def exported(arch: Arch, folder: Path, *, colour: str = "torch") -> Artifact:
    torch.manual_seed(0)
    return export(replace(model_of(arch), preprocess=preset(colour)), to="keras", out=folder)


SMALL = Settings(width_mult=0.25, resolution=32, num_classes=4)


def test_grey_images(tmp_path: Path) -> None:
    artifact = export(
        untrained("resnet20", tmp_path / "run", in_channels=1), to="keras", out=tmp_path
    )
    assert largest_difference(artifact) < 1e-5
    run_printed(artifact.path)


def test_blue_green_red(tmp_path: Path) -> None:
    artifact = exported(get_arch("mobilenet_v1", SMALL), tmp_path, colour="caffe")
    assert artifact.contract.preprocess.colour == "bgr"
    assert largest_difference(artifact) < 1e-5


def with_pool(pool: Pool) -> Arch:
    """Return a network in which ``pool`` reads values below zero, on maps of odd sides."""
    arch = get_arch("mobilenet_v1", replace(SMALL, resolution=37))
    arch = change_convs(arch, lambda name, conv: replace(conv, activation="none"))
    return replace(arch, rows=(arch.rows[0], pool, *arch.rows[1:3]))


@pytest.mark.parametrize(
    "pool",
    [
        Pool(function="max", kernel=3, stride=2),
        Pool(function="max", kernel=2, stride=2, padding="valid", ceil_mode=True),
        Pool(function="max", kernel=3, stride=2, ceil_mode=True),
        Pool(function="average", kernel=3, stride=2),
        Pool(function="average", kernel=3, stride=2, padding="valid"),
    ],
)
def test_pools_of_negative_values(pool: Pool, tmp_path: Path) -> None:
    assert largest_difference(exported(with_pool(pool), tmp_path)) < 1e-5


def test_an_average_over_the_edge_is_refused(tmp_path: Path) -> None:
    pool = Pool(function="average", kernel=2, stride=2, padding="valid", ceil_mode=True)
    with pytest.raises(InputError, match=r"layer rows\.1 averages windows over the edge"):
        exported(with_pool(pool), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("padding", ["tf_same", "valid"])
def test_other_paddings(padding: Any, tmp_path: Path) -> None:
    arch = get_arch("mobilenet_v1", replace(SMALL, resolution=75))
    arch = change_convs(arch, lambda name, conv: replace(conv, padding=padding))
    assert largest_difference(exported(replace(arch, rows=arch.rows[:6]), tmp_path)) < 1e-5


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "resnet18"])
def test_what_was_written_is_read_again(name: str, tmp_path: Path) -> None:
    run = untrained(name, tmp_path / "run")
    artifact = export(run, to="keras", out=tmp_path)
    imported = import_weights(
        artifact.path / "model.keras", model=name, width_mult=FAMILIES[name], preprocess="raw"
    )
    golden = artifact.golden
    answers = load(imported).logits(golden.inputs)
    np.testing.assert_allclose(answers, golden.logits, atol=1e-4 * np.abs(golden.logits).max())


def test_nothing_is_printed_or_left_behind(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "here"))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    artifact = export(trained, to="keras", out=tmp_path)
    load(artifact.path, threads=1).logits(artifact.golden.inputs)
    assert list((tmp_path / "here").iterdir()) == []
    assert tuple(capfd.readouterr()) == ("", "")
    assert "KERAS_BACKEND" not in os.environ


# Archives that Mobilette did not write


def changed(content: bytes, name: str, change: Callable[[bytes], bytes], how: int = 0) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", how) as new:
        for each in old.namelist():
            new.writestr(each, change(old.read(each)) if each == name else old.read(each))
    return made.getvalue()


def as_kind(kind: str, module: str = "keras.layers") -> Callable[[bytes], bytes]:
    def change(config: bytes) -> bytes:
        topology = json.loads(config)
        topology["config"]["layers"][-1] |= {"class_name": kind, "module": module}
        return json.dumps(topology).encode()

    return change


CONFIG = "config.json"
FORGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "code": (lambda content: changed(content, CONFIG, as_kind("Lambda")), "contains a 'Lambda'"),
    "a class of somebody's": (
        lambda content: changed(content, CONFIG, as_kind("Dense", "evil.module")),
        "contains a 'Dense' of 'evil.module'",
    ),
    "no topology": (lambda content: changed(content, CONFIG, lambda _: b"{"), "damaged"),
    "deep": (lambda content: changed(content, CONFIG, lambda _: b"[" * 10**5), "damaged"),
    "compressed": (
        lambda content: changed(content, CONFIG, bytes, zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "cut": (lambda content: content[:-100], "damaged"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_archives_are_refused(name: str, artifact: Artifact) -> None:
    forge, message = FORGED[name]
    content = (artifact.path / "model.keras").read_bytes()
    assert check_archive(content)["keras_version"]
    with pytest.raises(InputError, match=message) as refusal:
        check_archive(forge(content))
    assert "\n" not in str(refusal.value)


def test_another_file_in_the_archive_is_refused(artifact: Artifact) -> None:
    content = io.BytesIO((artifact.path / "model.keras").read_bytes())
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr("../assets/x", "")
    with pytest.raises(InputError, match=r"contains other files than config\.json"):
        check_archive(content.getvalue())


ANOTHER_BACKEND = """
import keras
from mobilette.formats.keras.library import import_keras
try:
    import_keras("export to keras")
except Exception as error:
    print(type(error).__name__, error)
"""


def test_keras_with_another_backend_is_left_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER_BACKEND],
        env=os.environ | {"KERAS_BACKEND": "jax", "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    expected = "InputError export to keras: Keras was imported with the jax backend before; set"
    assert done.stdout.startswith(expected), done.stderr


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_it_is_trained_on_in_keras(artifact: Artifact) -> None:
    import keras

    model = keras.saving.load_model(artifact.path / "model.keras")
    names = {weight.path for weight in model.trainable_weights}
    assert {"stem_conv/kernel", "rows_0_depthwise_conv/kernel", "head_classifier/bias"} <= names
    pixels = np.random.default_rng(0).uniform(0, 255, (8, *model.input_shape[1:]))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_layer("stem_conv").get_weights()[0]
    model.fit(pixels.astype(np.float32), np.arange(8) % 3, epochs=1, verbose=0)
    assert not np.array_equal(before, model.get_layer("stem_conv").get_weights()[0])
