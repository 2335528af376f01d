"""What is published of a run names no folder of this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import mobilette
from mobilette.artifact.contract import METADATA_KEY, Contract, canonical
from mobilette.artifact.directory import open_artifact
from mobilette.places import named, named_in
from mobilette.records import parse
from mobilette.reporting.model_card import model_card
from mobilette.run.directory import Run
from mobilette.training.recipe import load_recipe
from mobilette.workflows.push import content_of


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/home/alice/my photos", "my photos"),
        ("../../alice/photos", "photos"),
        ("photos/../../alice/x", "x"),
        ("~/alice/x", "x"),
        ("~alice/x", "x"),
        (r"C:\Users\alice\x", "x"),
        ("C:/Users/alice/x", "x"),
        (r"\\alice\share\x", "x"),
        ("data/photos", "data/photos"),
        ("hf://owner/name", "hf://owner/name"),
        ("digits", "digits"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_places(place: str, name: str) -> None:
    assert named(place) == named_in(place) == name


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("/home/alice/x.png: cannot be read", "x.png: cannot be read"),
        ("entered '/home/alice/a/b' (from ../alice/c)", "entered 'b' (from c)"),
        (r"of C:\Users\alice\x and ~/alice/y", "of x and y"),
        ("3 images/s, train/ and a / b", "3 images/s, train/ and a / b"),
        ("https://example.org/a/b, plain/broken.png", "https://example.org/a/b, plain/broken.png"),
        (r"(.*)/[a-z]+/\d+", r"(.*)/[a-z]+/\d+"),
    ],
)
def test_texts(text: str, cut: str) -> None:
    assert named_in(text) == cut


@pytest.fixture
def private(trained: Run, tmp_path: Path) -> Path:
    """Return a run that names folders of alice's wherever one can be named."""
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    recipe = replace(load_recipe(run / "recipe.toml"), teacher="/home/alice/runs/large")
    (run / "recipe.toml").write_text(recipe.to_toml())
    data = json.loads((run / "dataset.json").read_text())
    data |= {
        "source": "../../alice/photos",
        "path": "/home/alice/photos",
        "remarks": ["/home/alice/photos: entered"],
        "unusable": [{"path": "/home/alice/a.png", "reason": "/home/alice/a.png: truncated"}],
        "division": {"groups": "/home/alice/groups.csv"},
    }
    (run / "dataset.json").write_text(json.dumps(data))
    environment = json.loads((run / "environment.json").read_text())
    environment |= {"start": "../alice/runs/first", "launch": {"command": ["/home/alice/bin"]}}
    (run / "environment.json").write_text(json.dumps(environment))
    return run


def test_a_push(private: Path) -> None:
    _, files = content_of(private)
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.read_bytes()
        assert b"alice" not in content, name
        (private / name).write_bytes(content)
    assert load_recipe(private / "recipe.toml").teacher == "large"
    assert json.loads((private / "dataset.json").read_text())["unusable"] == [
        {"path": "a.png", "reason": "a.png: truncated"}
    ]
    assert mobilette.load(private).classes


@pytest.fixture
def artifact(trained: Run, images: Path, tmp_path: Path) -> Path:
    """Return an artifact whose contract names alice's folders: of its run, and of images."""
    run = Path(shutil.copytree(trained.path, tmp_path / "alice" / "run"))
    data = Path(shutil.copytree(images, tmp_path / "alice" / "photos"))
    made = mobilette.export(run, precision="int8", data=data, out=tmp_path / "exports")
    assert b"alice" in (made.path / "contract.json").read_bytes()
    assert made.why_no_model() is None
    return made.path


def test_a_pushed_artifact(artifact: Path, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy", tmp_path / "other"
    for folder in (copy, other):
        folder.mkdir()
    for name, content in content_of(artifact)[1].items():
        content = content if isinstance(content, bytes) else content.read_bytes()
        assert b"alice" not in content, name
        (copy / name).write_bytes(content)
    pixels = open_artifact(artifact).golden.inputs
    expected = mobilette.load(artifact).batch_logits(pixels)
    assert (mobilette.load(copy).batch_logits(pixels) == expected).all()
    reason = open_artifact(copy).why_no_model()
    assert reason is not None
    assert reason.endswith("published without it")
    # Once more, what came from the hub is the same.
    for name, content in content_of(copy)[1].items():
        content = content if isinstance(content, bytes) else content.read_bytes()
        assert content == (copy / name).read_bytes()


def test_a_model_file_of_before_still_opens(artifact: Path) -> None:
    """It has the folders, too, that are now in contract.json alone."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(artifact / "model.onnx")
    record = json.loads((artifact / "contract.json").read_text())
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    assert "alice" not in entry.value
    inside = json.loads(entry.value)
    for key in ("source", "calibration"):
        inside[key] = record[key]
    entry.value = canonical(inside)
    onnx.save(model, artifact / "model.onnx")
    digest = hashlib.sha256((artifact / "model.onnx").read_bytes()).hexdigest()
    record["files"]["model.onnx"] = digest
    contract = parse(Contract, record, where="")
    contract = replace(contract, sha256=contract.own_sha256())
    (artifact / "contract.json").write_text(contract.to_text())
    assert mobilette.load(artifact).classes


def test_a_report(private: Path, images: Path, tmp_path: Path) -> None:
    audit = tmp_path / "alice" / "audit"
    audit.mkdir(parents=True)
    record = {"source": "/home/alice/photos", "findings": []}
    (audit / "audit.json").write_text(json.dumps(record))
    exports = tmp_path / "alice" / "exports"
    mobilette.export(private, out=exports)
    out = tmp_path / "out.html"
    found = mobilette.report(private, images, out=out, audit=audit, artifacts=[exports])
    page = out.read_text(encoding="utf-8")
    assert "groups.csv" in found.origin.command
    for text in (page, model_card(found)):
        assert "alice" not in text
        assert str(tmp_path) not in text
