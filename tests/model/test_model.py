from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mobilette
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.data.preprocess import preset
from mobilette.errors import InputError
from mobilette.model.classes import ClassLabel
from mobilette.model.directory import read_origin
from mobilette.model.model import Model, Origin, numbered_classes
from mobilette.nn.network import Network
from mobilette.run.directory import Run, open_run

OLD = Path(__file__).parents[1] / "fixtures" / "version_0_1_0"
ARCH = get_arch("mobilenet_v2", Settings(width_mult=0.1, resolution=32, num_classes=3))
ORIGIN = Origin(name="mobilenet_v2", width_mult=0.1, form="small")


def model(**changes: object) -> Model:
    torch.manual_seed(0)
    given = {
        "arch": ARCH,
        "weights": Network(ARCH).state_dict(),
        "preprocess": preset("tf"),
        "classes": tuple(ClassLabel(id=name, name=name.upper()) for name in ("a", "b", "c")),
        "multi_label": True,
        "origin": ORIGIN,
    }
    return Model(**{**given, **changes})  # type: ignore[arg-type]


def same(one: Model, other: Model) -> bool:
    parts = ("arch", "preprocess", "classes", "multi_label", "has_classifier")
    return all(getattr(one, part) == getattr(other, part) for part in parts) and all(
        torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items()
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = model()
    loaded = Model.load(saved.save(tmp_path / "run"))
    assert same(saved, loaded)
    assert loaded.weights.keys() == saved.weights.keys()
    assert dataclasses.replace(loaded.origin, source="", sha256=None) == dataclasses.replace(
        ORIGIN, source=""
    )
    assert loaded.origin.source == str((tmp_path / "run").resolve())
    assert same(open_run(tmp_path / "run").model, saved)


def test_it_answers_as_the_network_of_its_weights() -> None:
    one = model()
    network = Network(ARCH)
    network.load_state_dict(dict(one.weights))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(one.network(x), network.eval()(x), atol=0, rtol=0)


def test_the_network_is_a_copy() -> None:
    one = model()
    before = one.weights["stem.conv.weight"].clone()
    with torch.no_grad():
        one.network.get_parameter("stem.conv.weight").zero_()
    assert torch.equal(one.weights["stem.conv.weight"], before)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        model().arch = ARCH  # type: ignore[misc]


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in Network(ARCH).state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": numbered_classes(4)}, "4 classes, but the network has 3"),
        ({"preprocess": preset("tf", in_channels=1)}, "1 channels, but the network has 3"),
        ({"weights": without("stem.conv.weight")}, "'stem.conv.weight' of mobilenet_v2 is missing"),
        (
            {"weights": Network(ARCH).state_dict() | {"more": torch.ones(1)}},
            "tensor 'more' is none of mobilenet_v2's",
        ),
        (
            {"weights": Network(ARCH).double().state_dict()},
            "tensor 'stem.conv.weight' is torch.float64, not torch.float32",
        ),
        (
            {"weights": Network(ARCH.with_classes(4)).state_dict()},
            r"tensor 'head.classifier.weight' is \(4, .*needs \(3, ",
        ),
    ],
)
def test_parts_that_do_not_belong_together(changes: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        model(**changes)


def test_without_a_classifier_it_has_no_network() -> None:
    with pytest.raises(InputError, match=r"scratch: .*without a classifier; 'mobilette train DATA"):
        _ = model(has_classifier=False).network


def test_nothing_is_replaced_unless_told(tmp_path: Path) -> None:
    folder = model().save(tmp_path / "run")
    with pytest.raises(InputError, match="run"):
        model().save(folder)
    changed = model(multi_label=False)
    assert same(Model.load(changed.save(folder, force=True)), changed)


@pytest.mark.parametrize(
    "origin", [{"width_mult": "wide"}, {"form": "large"}, {"width_mult": [1.0]}]
)
def test_a_damaged_origin(tmp_path: Path, origin: dict[str, object]) -> None:
    folder = model().save(tmp_path / "run")
    environment = json.loads((folder / "environment.json").read_text())
    environment["origin"] |= origin
    (folder / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(InputError, match="environment.json: origin"):
        Model.load(folder)


def test_the_width_of_a_run_of_an_earlier_version_is_found() -> None:
    with_width = get_arch("mobilenet_v1", Settings(width_mult=0.5, resolution=64))
    found = read_origin(OLD / "finished", with_width)
    assert (found.name, found.width_mult) == ("mobilenet_v1", 0.5)
    assert read_origin(OLD / "finished", get_arch("resnet18")).width_mult == 1.0
    unusual = read_origin(OLD / "finished", open_run(OLD / "finished").arch)
    assert (unusual.name, unusual.width_mult) == ("shufflenet_v1_g3", None)


def test_a_trained_run_remembers_its_width(trained: Run) -> None:
    origin = trained.model.origin
    assert (origin.name, origin.source) == (trained.arch.name, str(trained.path.resolve()))
    again = get_arch(
        origin.name,
        Settings(
            width_mult=origin.width_mult or 1.0,
            resolution=trained.arch.resolution,
            num_classes=3,
        ),
    )
    assert again == trained.arch


def test_training_starts_from_a_model(images: Path, tmp_path: Path) -> None:
    start = model(
        classes=tuple(ClassLabel(id=name, name=name) for name in ("blue", "green", "red")),
        multi_label=False,
    )
    still = {"epochs": 1, "lr": 1e-12}
    run = mobilette.train(images, start=start, overrides=still, out=tmp_path / "run")
    assert run.arch == ARCH
    assert run.model.origin.width_mult == 0.1
    torch.testing.assert_close(
        run.model.weights["stem.conv.weight"], start.weights["stem.conv.weight"]
    )
