"""Held out means held out: what a run was trained on is recorded, and not measured on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact
from mobilette.data.digests import Digests, Trained
from mobilette.errors import InputError
from mobilette.files import LARGEST_RECORD
from mobilette.model.directory import DATASET
from mobilette.progress import Reporter
from mobilette.run.directory import Run
from mobilette.run.trained import now_known, read_trained, trained_on
from mobilette.training.events import Event, StepDone
from mobilette.verification.evaluate import evaluate
from mobilette.verification.verify import verify
from mobilette.workflows.prune import prune
from tests.conftest import write_images
from tests.training.runs import resume, train

SMALL: dict[str, Any] = {"model": "mobilenet_v1", "width_mult": 0.25, "resolution": 16}
BRIEF = {"epochs": 1, "batch_size": 16}


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / DATASET).read_text())
    return found


def bits(digests: list[str]) -> list[str]:
    """Return the first 64 bits of each, as recorded: ascending, each once."""
    return sorted({digest[:16] for digest in digests})


def cut(text: str) -> list[str]:
    return [text[first : first + 16] for first in range(0, len(text), 16)]


def pixel_digest(path: Path) -> str:
    with Image.open(path) as image:
        head = f"{image.mode} {image.width} {image.height} ".encode()
        return hashlib.sha256(head + image.tobytes()).hexdigest()


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def divided(root: Path, train: int = 12, val: int = 4) -> Path:
    write_images(root / "train", train, seed=1)
    write_images(root / "val", val, seed=2)
    return root


def test_a_flat_runs_record_has_the_pixels_of_its_images(trained: Run, images: Path) -> None:
    found = record(trained.path)
    val = set(found["val_names"])
    names = {path.relative_to(images).as_posix() for path in images.rglob("*.png")}
    expected = {
        part: bits([pixel_digest(images / name) for name in some])
        for part, some in (("train", names - val), ("val", val))
    }
    assert len(expected["train"]) == 96
    assert cut(found["trained"]["decoded pixels"]) == expected["train"]
    assert cut(found["held_out"]["val"]["decoded pixels"]) == expected["val"]
    assert found["trained"].keys() == {"decoded pixels"}


def test_a_divided_runs_record_has_its_files(tmp_path: Path) -> None:
    data = divided(tmp_path / "data")
    run = train(data, **SMALL, overrides=BRIEF, workers=0, out=tmp_path / "run")
    expected = bits([file_digest(path) for path in (data / "train").rglob("*.png")])
    assert cut(record(run.path)["trained"]["files"]) == expected
    flat = tmp_path / "flat"
    for split in ("train", "val"):
        for path in (data / split).rglob("*.png"):
            (flat / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, flat / path.parent.name / f"{split}{path.name}")
    found = evaluate(run, flat, workers=0)
    assert (found.images, found.trained_left_out) == (12, 36)
    assert found.top1 == evaluate(run, data, workers=0).top1


def test_a_streamed_run_knows_its_files_when_it_is_finished(tmp_path: Path) -> None:
    data, told = divided(tmp_path / "data"), list[str]()

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.epoch == 1:
            raise RuntimeError("killed")

    streamed = {"epochs": 2, "batch_size": 16, "loader": "streamed"}
    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="killed"):
        train(data, **SMALL, overrides=streamed, workers=0, out=out, report=stop)
    found = evaluate(out, data, workers=0, reporter=Reporter(remark=told.append))
    assert found.includes_trained is None
    assert any(f"not known: {out}: its training is not finished" in line for line in told)
    run = resume(out, workers=0)
    expected = bits([file_digest(path) for path in (data / "train").rglob("*.png")])
    assert record(run.path)["digest"] == "names and sizes"
    assert cut(record(run.path)["trained"]["files"]) == expected
    assert record(run.path)["trained"].keys() == {"files"}
    with pytest.raises(InputError, match="trained on all 36 images.*--include-trained"):
        evaluate(out, data, split="train", workers=0)


def test_a_flat_folder_is_measured_where_the_run_has_not_seen_it(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    held_out, every = evaluate(trained, images), evaluate(trained, images, include_trained=True)
    assert (held_out.images, held_out.trained_left_out) == (24, 96)
    assert held_out.includes_trained is False
    assert held_out.top1 == evaluate(trained, images, split="val").top1
    assert (every.images, every.trained_left_out, every.includes_trained) == (120, 0, True)
    mixed = write_images(tmp_path / "mixed", 5, seed=7)
    assert evaluate(trained, mixed).images == 15
    for number, path in enumerate(sorted((images / "red").iterdir())):  # other names, other format
        with Image.open(path) as image:
            image.save(mixed / "red" / f"again-{number}.bmp")
    found = evaluate(trained, mixed)
    assert (found.images, found.trained_left_out) == (15 + 8, 32)
    with pytest.raises(InputError, match=r"^train of .*trained on all 96 .*--include-trained$"):
        evaluate(trained, images, split="train")
    assert evaluate(trained, images, split="train", include_trained=True).images == 96


def test_an_artifact_is_measured_as_its_run_is(
    exported: Artifact, artifact_copy: Path, trained: Run, images: Path
) -> None:
    assert evaluate(exported, images).images == 24
    assert verify(exported, images).trained_left_out == 96
    told: list[str] = []
    found = evaluate(artifact_copy, images, reporter=Reporter(remark=told.append))
    assert (found.images, found.includes_trained) == (120, None)
    (line,) = told
    assert line.startswith("what the model was trained on is not known: the run ")
    assert verify(artifact_copy, images, checkpoint=trained).images == 24


def test_a_model_that_was_saved_knows_its_run(trained: Run, images: Path, tmp_path: Path) -> None:
    saved = trained.model.save(tmp_path / "saved")
    assert evaluate(saved, images).images == evaluate(trained.model, images).images == 24
    foreign = tmp_path / "foreign"
    shutil.copytree(saved, foreign)
    environment = json.loads((foreign / "environment.json").read_text())
    environment["imported"]["file"] = "weights.pth"
    (foreign / "environment.json").write_text(json.dumps(environment))
    told: list[str] = []
    found = evaluate(foreign, images, reporter=Reporter(remark=told.append))
    assert (found.images, found.includes_trained, told) == (120, False, [])


def test_what_a_run_starts_from_counts(trained: Run, images: Path, tmp_path: Path) -> None:
    """Images of the earlier run go to ``train``, and a resumed run divides as it did at first."""
    data = tmp_path / "data"
    shutil.copytree(images, data)
    for name in record(trained.path)["val_names"]:
        (data / name).unlink()
    write_images(data, 10, seed=8)
    fresh = train(data, **SMALL, overrides=BRIEF, workers=0, out=tmp_path / "fresh")
    before = trained_on(trained).images
    assert len(read_trained(fresh.path).parts["val"] & before) > 0

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.epoch == 1:
            raise RuntimeError("killed")

    options = {"epochs": 2, "batch_size": 16}
    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="killed"):
        train(
            data,
            start=trained.path,
            overrides=options,
            workers=0,
            out=out,
            report=stop,
        )
    first = record(out)
    resume(out, workers=0)
    assert record(out) == first
    known = read_trained(out)
    assert len(known.parts["val"] & before) == 0
    assert len(known.images & before) == len(before)


def test_prune_holds_out_nothing_that_the_run_was_trained_on(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data / "train")
    write_images(data / "val", 4, seed=9)
    for path in sorted((images / "red").iterdir())[:20]:
        shutil.copy(path, data / "val" / "red")
    options: dict[str, Any] = {"keep": 0.8, "overrides": BRIEF, "workers": 0}
    run = prune(trained, data, out=tmp_path / "pruned", **options)
    assert record(run.path)["splits"]["val"]["pictures"] < 32
    seen = trained_on(trained).images
    val = [pixel_digest(path) for path in (data / "val").rglob("*.png")]
    kept = Digests.of(val, "decoded pixels")
    assert record(run.path)["splits"]["val"]["pictures"] == len(kept) - len(kept & seen)
    pruned = json.loads((run.path / "pruned.json").read_text())
    assert (pruned["trained_left_out"], pruned["includes_trained"]) == (len(kept & seen), False)
    run = prune(trained, data, out=tmp_path / "all", include_trained=True, **options)
    assert record(run.path)["splits"]["val"]["pictures"] == 32
    shutil.rmtree(data / "val")
    shutil.copytree(images, data / "val")
    for path in (data / "val").rglob("*.png"):
        if pixel_digest(path)[:16] not in cut(record(trained.path)["trained"]["decoded pixels"]):
            path.unlink()
    with pytest.raises(
        InputError, match="no image is left for val: the weights.*--include-trained"
    ):
        prune(trained, data, out=tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


def test_a_run_of_an_earlier_version_is_measured_as_it_was(tmp_path: Path) -> None:
    fixture = Path(__file__).parents[1] / "fixtures" / "version_0_1_0" / "finished"
    told: list[str] = []
    found = evaluate(fixture, "digits", workers=0, reporter=Reporter(remark=told.append))
    assert (found.images, found.trained_left_out, found.includes_trained) == (364, 0, None)
    (line,) = told
    assert line == f"what the model was trained on is not known: {fixture} does not record it"


def test_a_million_images_can_be_recorded_and_more_are_said() -> None:
    rng = np.random.default_rng(0)

    def some(count: int) -> Digests:
        numbers = np.unique(rng.integers(1, 2**63, count).astype(np.uint64))
        return Digests(pixels=numbers, files=numbers[:0])

    whole = now_known({"trained": {}}, some(1_300_000))
    assert len(json.dumps(whole, indent=1)) < LARGEST_RECORD
    assert len(Digests.from_json(whole["trained"], where="x")) == 1_300_000
    left = now_known({"trained": {}, "held_out": {"val": {}}}, some(2_200_000))
    assert left == {"trained": {"unknown": "2,200,000 images are too many to record"}}
    assert Trained(unknown="x").remarks() == ("what the model was trained on is not known: x",)
