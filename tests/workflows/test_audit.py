"""An audit finds what was planted, and a training does without what its user accepted."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.model.directory import DATASET
from mobilette.progress import Reporter
from mobilette.reporting.audit import audit_page, write_audit
from mobilette.run.directory import Run
from mobilette.training.events import Event, StepDone
from mobilette.workflows.audit import Audit, audit
from mobilette.workflows.resume import resume
from mobilette.workflows.train import train
from tests.conftest import COLOURS, write_images
from tests.data.photographs import image_of, photographs

FORMULA = "=2+3&A1<b>.png"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a set with two wrong labels, a copy, a mirror image, a broken and a black image."""
    root = write_images(tmp_path_factory.mktemp("faulty") / "set", 20)
    random = np.random.default_rng(5)
    for colour, folder, name in (("blue", "red", FORMULA), ("red", "green", "wrong.png")):
        noise = random.normal(0, 30, (24, 24, 3))
        pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / folder / name)
    shutil.copy(root / "blue" / "3.png", root / "blue" / "3 copy.png")
    with Image.open(root / "green" / "7.png") as image:
        ImageOps.mirror(image).save(root / "green" / "mirrored.png")
    (root / "green" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Image.new("RGB", (24, 24)).save(root / "blue" / "black.png")
    return root


@pytest.fixture(scope="module")
def found(faulty: Path, trained: Run) -> Audit:
    return audit(faulty, run=trained, workers=0)


def named(found: Audit, what: str) -> dict[str, str]:
    """Return the images of a kind of findings, with the other image or the class suggested."""
    return {each.path: each.other or each.suggestion for each in found.of_kind(what)}


def test_what_was_planted_is_found(found: Audit) -> None:
    assert named(found, "wrong label").items() >= {
        (f"red/{FORMULA}", "blue"),
        ("green/wrong.png", "red"),
    }
    assert len(named(found, "wrong label")) <= 3
    assert set(map(frozenset, named(found, "exact duplicate").items())) == {
        frozenset(("blue/3.png", "blue/3 copy.png"))
    }
    assert set(map(frozenset, named(found, "near duplicate").items())) == {
        frozenset(("green/7.png", "green/mirrored.png"))
    }
    assert set(named(found, "unreadable")) == {"green/broken.png"}
    assert set(named(found, "dark")) == {"blue/black.png"}
    assert "blue/black.png" in named(found, "little information")


def test_the_summary_counts(found: Audit) -> None:
    first, second, labels, curve = found.summary()
    assert first.startswith("66 images of 3 classes (66 in all); 24x24 to 24x24 pixels")
    assert "1 exact duplicate, 1 near duplicate" in second
    assert "labels agree" in labels
    assert "expected with" in curve
    assert found.counts == {"all": {"blue": 22, "green": 23, "red": 21}}


def test_a_page_that_needs_nothing_else(found: Audit) -> None:
    page = audit_page(found)
    assert "=2+3&amp;A1&lt;b&gt;.png" in page
    assert "<b>.png" not in page
    for outside in ("http:", "https:", "//", "<script", "url("):
        assert outside not in page.replace("data:image", "")[:2000]
    assert page.count("<img") == page.count("data:image/png;base64,")
    assert "default-src 'none'" in page


def test_a_folder_is_written_whole(found: Audit, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    write_audit(found, folder)
    assert {path.name for path in folder.iterdir()} == {"audit.csv", "audit.html", "audit.json"}
    assert json.loads((folder / "audit.json").read_text()) == json.loads(
        json.dumps(found.to_json())
    )
    with (folder / "audit.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.findings)
    assert {row["accept"] for row in rows} == {""}
    assert {float(row["sure"]) <= 1 for row in rows} == {True}
    with pytest.raises(InputError, match="exists"):
        write_audit(found, folder)
    write_audit(found, folder, force=True)


def filled(found: Audit, folder: Path, answers: dict[str, str]) -> Path:
    """Write an audit and answer in its table, by the name of the image."""
    write_audit(found, folder)
    table = folder / "audit.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["accept"] = answers.get(row["path"], "")
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return table


def stop_after_an_epoch(event: Event) -> None:
    if isinstance(event, StepDone) and event.epoch == 1:
        raise KeyboardInterrupt


def test_a_training_does_without_what_was_accepted(
    found: Audit, faulty: Path, tmp_path: Path
) -> None:
    (copy,) = named(found, "exact duplicate")
    answers = {copy: "leave out", "green/wrong.png": "relabel"}
    table = filled(found, tmp_path / "audit", answers)
    said: list[str] = []
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(
            faulty,
            model="mobilenet_v1",
            width_mult=0.25,
            resolution=16,
            start="scratch",
            overrides={"epochs": 2, "batch_size": 8},
            without=table,
            out=out,
            workers=0,
            callbacks=[stop_after_an_epoch],
            reporter=Reporter(remark=said.append),
        )
    assert f"{table}: 1 images left out, 1 relabelled" in said
    described = json.loads((out / DATASET).read_text(encoding="utf-8"))
    counts = [split["per_class"] for split in described["splits"].values()]
    total = {name: sum(each[name] for each in counts) for name in COLOURS}
    assert total == {"blue": 21, "green": 21, "red": 22}
    assert set(described["without"]["leave_out"]) == {copy}
    assert set(described["without"]["relabel"]) == {"green/wrong.png"}
    table.unlink()
    resume(out, workers=0)  # the record is enough
    assert (
        json.loads((out / DATASET).read_text(encoding="utf-8"))["without"] == described["without"]
    )


def test_the_table_of_another_set_is_refused(found: Audit, images: Path, tmp_path: Path) -> None:
    table = filled(found, tmp_path / "audit", {"green/wrong.png": "leave out"})
    with pytest.raises(InputError, match=r"audit\.csv: 'green/wrong\.png' is not in .*another set"):
        train(images, without=table, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_of_other_classes_is_refused(trained: Run, tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", 3)
    (root / "red").rename(root / "read")
    with pytest.raises(InputError, match="class 'read' is none of the model's 3 .*'red'"):
        audit(root, run=trained)


def test_a_run_brings_its_own_network(trained: Run, images: Path) -> None:
    with pytest.raises(InputError, match="--run looks with the run's network"):
        audit(images, run=trained, start="scratch")


def test_nothing_readable_is_refused(trained: Run, tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", 2)
    for path in root.glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of its 6 images can be read"):
        audit(root, run=trained)


def test_labels_of_rare_classes_are_not_checked(trained: Run, tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", 12)
    for path in sorted((root / "red").iterdir())[2:]:
        path.unlink()
    said: list[str] = []
    found = audit(root, run=trained, workers=0, reporter=Reporter(remark=said.append))
    assert "labels of red are not checked: fewer than 3 images" in said
    assert found.labels is not None
    assert found.labels.classes == ("blue", "green")


def test_several_labels_are_not_checked(tmp_path: Path) -> None:
    root = write_images(tmp_path, 3)
    rows = [f"{path.relative_to(root)},blue;red" for path in sorted(root.glob("*/*.png"))[:8]]
    (root / "list.csv").write_text("\n".join(["path,labels", *rows, "red/2.png,red"]))
    said: list[str] = []
    found = audit(root / "list.csv", start="scratch", reporter=Reporter(remark=said.append))
    assert found.labels is None
    assert "labels are not checked: an image may have several" in said
    assert find_images(root / "list.csv").multi_label


def test_without_weights_a_network_is_trained(
    faulty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilette.workflows.audit_network._OWN_EPOCHS", 1)
    found = audit(faulty, start="scratch", workers=0)
    assert "trained for the audit" in found.network
    assert found.labels is not None
    assert found.labels.found.curve is None
    assert found.labels.found.probabilities.shape == (65, 3)


def test_duplicates_across_splits_and_classes_are_said(trained: Run, tmp_path: Path) -> None:
    for number, pixels in enumerate(photographs(12, 64)):
        picture = image_of(pixels)
        for place, image in (
            ("train/blue", picture),
            ("train/red", picture.rotate(90)),
            ("val/blue", picture.rotate(180)),
            ("val/red", picture.resize((60, 60))),
        ):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / place / f"{number}.png")
    found = audit(tmp_path, run=trained, workers=0)
    details = {each.path: each.detail for each in found.of_kind("near duplicate")}
    for number in range(12):
        detail = details[f"val/red/{number}.png"]
        assert detail == "altered; the other is in train; the other is of class blue"
