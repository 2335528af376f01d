"""Networks that the other libraries have are tried in tests/parity/test_named.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.editing import change_convs
from mobilette.arch.scale import Settings
from mobilette.cli.main import run as run_command
from mobilette.compression.folding import fold
from mobilette.data.preprocess import preset
from mobilette.errors import InputError
from mobilette.exporters.state_dict import LIBRARIES, TIMM_NETWORKS, constructor, export_state_dict
from mobilette.model.classes import ClassLabel
from mobilette.model.directory import WEIGHTS
from mobilette.nn.network import Network
from mobilette.run.directory import Run
from tests.models import model_of
from tests.parity.test_named import run_readme

SETTINGS = Settings(width_mult=0.5, resolution=96, num_classes=3)


@pytest.fixture
def narrow(tmp_path: Path) -> Run:
    """Return an untrained run whose network torchvision and timm both have."""
    (tmp_path / "run").mkdir()
    arch = get_arch("mobilenet_v2", SETTINGS)
    save_file(Network(arch).state_dict(), tmp_path / "run" / WEIGHTS)
    classes = tuple(ClassLabel(id=name, name=name) for name in ("a", "b", "c"))
    return Run(path=tmp_path / "run", arch=arch, preprocess=preset("torch"), classes=classes)


def test_the_folder_and_what_its_readme_says(narrow: Run, tmp_path: Path) -> None:
    file = export_state_dict(narrow, out=tmp_path / "out")
    assert file == tmp_path / "out" / "state_dict" / "model.safetensors"
    assert {path.name for path in file.parent.iterdir()} == {file.name, "README.md", "labels.txt"}
    assert (file.parent / "labels.txt").read_text() == "a\ta\nb\tb\nc\tc\n"
    text = (file.parent / "README.md").read_text()
    assert "network = torchvision.models.mobilenet_v2(num_classes=3, width_mult=0.5)\n" in text
    assert "- mean 123.675, 116.28, 103.53\n" in text
    assert "shorter side to 96 (bilinear)" in text


def test_an_older_one_is_kept_unless_forced(narrow: Run, tmp_path: Path) -> None:
    file = export_state_dict(narrow, out=tmp_path / "out")
    with pytest.raises(InputError, match="exists; give another --out, or --force"):
        export_state_dict(narrow, names="timm", out=tmp_path / "out")
    export_state_dict(narrow, names="timm", out=tmp_path / "out", force=True)
    assert "conv_stem.weight" in load_file(file)


def test_our_own_names(trained: Run, tmp_path: Path) -> None:
    file = export_state_dict(trained, names="mobilette", out=tmp_path)
    image = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(run_readme(file)(image), trained.network(image))


# Networks that would answer otherwise there


def small(name: str) -> Arch:
    return get_arch(name, replace(SETTINGS, resolution=32))


def with_relu(arch: Arch) -> Arch:
    return change_convs(arch, lambda name, conv: replace(conv, activation="relu"))


def padded(arch: Arch) -> Arch:
    return change_convs(arch, lambda name, conv: replace(conv, padding="tf_same"))


def folded(arch: Arch) -> Arch:
    return fold(model_of(arch)).arch


V2 = get_arch("mobilenet_v2", SETTINGS)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("arch", "part"),
    [
        (small("mobilenet_v2"), "stem.conv has stride 1, not 2"),
        (small("resnet18"), "cannot build this resnet18; "),
        (with_relu(V2), "stem.activation has function relu, not relu6"),
        (folded(V2), "stem.conv has bias True, not False"),
        (get_arch("mobilenet_v2", Settings(width_mult=3.3333)), "stem.conv has 104 channels, not"),
        (get_arch("resnet18", Settings(width_mult=0.5)), "stem.conv has 32 channels, not 64"),
    ],
)
def test_refused_with_what_differs(arch: Arch, part: str, library: str) -> None:
    with pytest.raises(InputError) as caught:
        constructor(arch, library, width_mult=0.5)
    message = str(caught.value)
    assert f"{library} cannot build this {arch.name}" in message
    assert part in message, message
    assert "\n" not in message


def test_what_timm_can_be_told_and_torchvision_cannot() -> None:
    ported = replace(padded(V2), norm_epsilon=1e-3)
    made = 'timm.create_model("mobilenetv2_050", num_classes=3, bn_eps=0.001, pad_type="same")'
    assert constructor(ported, "timm") == made
    with pytest.raises(InputError, match="stem.conv has padding tf_same, not symmetric"):
        constructor(ported, "torchvision", width_mult=0.5)
    with pytest.raises(InputError, match="batch norm epsilon is 0.001, not 1e-05"):
        constructor(replace(V2, norm_epsilon=1e-3), "torchvision", width_mult=0.5)
    grey = get_arch("mobilenet_v2", replace(SETTINGS, in_channels=1))
    made = 'timm.create_model("mobilenetv2_050", num_classes=3, in_chans=1)'
    assert constructor(grey, "timm") == made
    with pytest.raises(InputError, match="it has 1 input channels, not 3"):
        constructor(grey, "torchvision", width_mult=0.5)
    with pytest.raises(InputError, match="stem.conv has padding tf_same, not symmetric"):
        constructor(padded(get_arch("ghostnet", SETTINGS)), "timm")


def test_what_is_for_training_only_is_no_difference() -> None:
    other = replace(V2, norm_momentum=0.02, head=replace(V2.head, dropout=0.7))
    assert constructor(other, "torchvision", width_mult=0.5) == constructor(
        V2, "torchvision", width_mult=0.5
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_network_is_built_or_refused(library: str) -> None:
    known = LIBRARIES[library].tables
    for name in list_models():
        if name in known:
            arch = get_arch(name, Settings(num_classes=3))
            if "minimal" in name:
                arch = padded(arch)
            assert constructor(arch, library).startswith(library)
        else:
            with pytest.raises(InputError, match=f"{library} has no {name}; it has mobilenet_v"):
                constructor(get_arch(name), library)


def test_the_other_library_is_named() -> None:
    with pytest.raises(InputError, match="; timm has it"):
        constructor(get_arch("mobilenet_v1"), "torchvision")
    with pytest.raises(InputError, match="; torchvision has it"):
        constructor(get_arch("vgg11"), "timm")
    assert {ours for ours, _ in TIMM_NETWORKS.values()} == set(LIBRARIES["timm"].tables)


def test_nothing_is_left_behind(narrow: Run, trained: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (narrow.path / WEIGHTS).unlink()
    fault: Callable[[], object]
    for fault, part in (
        (lambda: export_state_dict(narrow, out=out), "best.safetensors: missing"),
        (lambda: export_state_dict(trained, out=out), "torchvision has no mobilenet_v1"),
        (lambda: export_state_dict(trained, names="tim", out=out), "did you mean 'timm'"),
    ):
        with pytest.raises(InputError, match=part):
            fault()
        assert not out.exists()


def test_the_command(trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--to=onnx,state_dict", "--names=mobilette", "--json", f"--out={tmp_path}"]
    assert run_command(["export", str(trained.path), *options]) == 0
    rows = json.loads(capsys.readouterr().out)["artifacts"]
    assert [row["target"] for row in rows] == ["onnx", "state_dict"]
    folder = tmp_path / "state_dict"
    size = (folder / "model.safetensors").stat().st_size
    expected = {"path": str(folder), "target": "state_dict", "precision": "fp32"}
    assert rows[1] == expected | {"size_bytes": size}
    assert run_command(["export", str(trained.path), "--to=state_dict", "--names=tv"]) == 2
    assert run_command(["export", str(trained.path), "--to=state_dct"]) == 2
    assert "did you mean 'state_dict'" in capsys.readouterr().err
