"""Weights for Keras' own constructors: built and loaded by Keras as the README says, and asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import change_convs
from mobilette.arch.scale import Settings
from mobilette.cli.main import run as run_command
from mobilette.compression.folding import fold
from mobilette.errors import InputError
from mobilette.exporters.keras_names import NETWORKS, constructor_options
from mobilette.exporters.state_dict import export_state_dict
from mobilette.formats.keras.weights import with_conventions
from mobilette.model.model import Model
from mobilette.nn.network import Network, measure_statistics
from mobilette.run.directory import Run
from tests.models import model_of

WIDTHS = {
    "mobilenet_v1": (0.25,),
    "mobilenet_v2": (0.35, 1.0),
    "mobilenet_v3_large": (1.0,),
    "mobilenet_v3_small": (0.75,),
    "mobilenet_v3_large_minimalistic": (1.0,),
    "mobilenet_v3_small_minimalistic": (1.0,),
}


def as_keras_has_it(name: str, *, width: float = 1.0, **more: Any) -> Arch:
    settings = Settings(width_mult=width, resolution=64, num_classes=7, form="full")
    return with_conventions(get_arch(name, replace(settings, **more)))


def images_for(arch: Arch, count: int = 8) -> torch.Tensor:
    shape = (count, arch.in_channels, *arch.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def random_model(arch: Arch, width: float = 1.0) -> Model:
    """Return a model whose batch norms have weights of their own and the statistics of images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(arch)
        for name, tensor in network.state_dict().items():
            if ".norm." in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    measure_statistics(network, [images_for(arch)])
    return model_of(network, width_mult=width)


def run_readme(file: Path) -> Any:
    """Execute the Python in the README beside ``file`` as printed and return Keras' network."""
    text = (file.parent / "README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(file.parent)
        exec(text.partition("```python\n")[2].partition("```")[0], names)
    return names["network"]


@torch.no_grad()
def check_answers(model: Model, file: Path) -> None:
    images = images_for(model.arch)
    expected = model.network(images)
    assert (expected[0] - expected[1]).abs().max() > 0.01  # the images matter
    given = run_readme(file)(images.permute(0, 2, 3, 1), training=False)
    torch.testing.assert_close(given.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "width"), [(name, width) for name, widths in WIDTHS.items() for width in widths]
)
def test_keras_constructor_answers_alike(name: str, width: float, tmp_path: Path) -> None:
    model = random_model(as_keras_has_it(name, width=width), width)
    file = export_state_dict(model, names="keras", out=tmp_path)
    written = {path.name for path in (tmp_path / "state_dict").iterdir()}
    assert written == {"model.weights.h5", "README.md", "labels.txt"}
    check_answers(model, file)


def test_every_network_is_tried() -> None:
    assert WIDTHS.keys() == NETWORKS.keys()


def test_grey_images_and_oblong_ones_of_odd_sides(tmp_path: Path) -> None:
    arch = as_keras_has_it("mobilenet_v2", width=0.35, in_channels=1, resolution=(75, 41))
    model = random_model(arch, 0.35)
    check_answers(model, export_state_dict(model, names="keras", out=tmp_path))


V1 = as_keras_has_it("mobilenet_v1", width=0.25)
V3 = as_keras_has_it("mobilenet_v3_small")


def padded(arch: Arch) -> Arch:
    return change_convs(arch, lambda name, conv: replace(conv, padding="tf_same"))


@pytest.mark.parametrize(
    ("arch", "width", "part"),
    [
        (get_arch("resnet18"), 1.0, "keras has no resnet18; it has mobilenet_v1, mobilenet_v2"),
        (get_arch("mobilenet_v1"), 1.0, "stem.conv has padding symmetric, not tf_same"),
        (replace(V1, norm_epsilon=1e-5), 0.25, "batch norm epsilon is 1e-05, not 0.001"),
        (V1, 0.5, "stem.conv has 8 channels, not 16"),
        (fold(model_of(V1)).arch, 0.25, "stem.conv has bias True, not False"),
        (
            as_keras_has_it("mobilenet_v1", resolution=75),
            1.0,
            "it pads the 19x19 map of rows.3.depthwise.conv otherwise",
        ),
        (
            as_keras_has_it("mobilenet_v2", resolution=31),
            1.0,
            "images of 31x31; sides of 32 or more are needed",
        ),
        (as_keras_has_it("mobilenet_v2", form="small"), 1.0, "stem.conv has stride 1, not 2"),
    ],
)
def test_refused_with_what_differs(arch: Arch, width: float, part: str) -> None:
    with pytest.raises(InputError) as caught:
        constructor_options(arch, width_mult=width)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_padding_has_two_names() -> None:
    assert constructor_options(padded(V3)) == constructor_options(V3)


def test_widths_that_keras_rounds_otherwise_are_refused(tmp_path: Path) -> None:
    arch = as_keras_has_it("mobilenet_v3_small_minimalistic", width=0.5)
    with pytest.raises(InputError, match=r"stem\.conv has 3 inputs and 16 outputs there, not 3 "):
        export_state_dict(model_of(arch, width_mult=0.5), names="keras", out=tmp_path / "out")
    assert not (tmp_path / "out" / "state_dict").exists()


def test_the_command(trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = random_model(V1, 0.25).save(tmp_path / "run")
    options = ["--to=state_dict", f"--out={tmp_path}"]
    assert run_command(["export", str(run), *options, "--names=keras", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["artifacts"]
    assert row["size_bytes"] == (tmp_path / "state_dict" / "model.weights.h5").stat().st_size
    assert run_command(["export", str(trained.path), *options, "--names=keras", "--force"]) == 2
    assert "--names mobilette keeps it as it is" in capsys.readouterr().err
    assert (tmp_path / "state_dict" / "model.weights.h5").exists()
    assert run_command(["export", str(run), *options, "--names=mobilette", "--force"]) == 0
    assert not (tmp_path / "state_dict" / "model.weights.h5").exists()
