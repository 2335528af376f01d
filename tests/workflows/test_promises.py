"""Promises through the verbs: made on images held out, kept in runs and artifacts, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilette.artifact.contract import Precision
from mobilette.artifact.directory import open_artifact
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.model.answering import Answering, Known, Promise
from mobilette.model.directory import ANSWERING
from mobilette.progress import Reporter
from mobilette.run.directory import Run, open_run
from mobilette.workflows.export import export
from mobilette.workflows.quantize import quantize
from mobilette.workflows.train import train
from tests.cli.test_cli import Capture, assert_refused, in_this_process
from tests.conftest import COLOURS

BOTH = "error<=20%,known>=80%"


@pytest.fixture
def wrong(run_copy: Path) -> Run:
    """Return a run that calls every colour by another's name."""
    lines = (run_copy / "classes.txt").read_text().splitlines()
    (run_copy / "classes.txt").write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    return open_run(run_copy)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_artifact_keeps_its_own(precision: Precision, trained: Run, tmp_path: Path) -> None:
    said: list[str] = []
    artifact = export(
        trained,
        precision=precision,
        promise=BOTH,
        out=tmp_path,
        reporter=Reporter(remark=said.append),
    )
    promise, known = artifact.contract.promise, artifact.contract.known
    assert promise is not None
    assert known is not None
    assert (promise.error, promise.confidence, promise.pictures) == (0.2, 0.95, 24)
    assert (known.score, known.kept, known.pictures) == ("energy", 0.8, 24)
    assert promise.split == known.split == "val"
    assert load(artifact.path).answering == artifact.contract.answering
    assert any("error<=20% is promised with 95% confidence" in line for line in said)


def test_an_int8_artifact_makes_the_runs_promise_anew(run_copy: Path, tmp_path: Path) -> None:
    promise = Promise(
        error=0.2, confidence=0.95, threshold=0.123, coverage=1.0, pictures=24, split="val"
    )
    (run_copy / ANSWERING).write_text(json.dumps({"promise": vars(promise)}))
    fp32 = export(run_copy, out=tmp_path)
    assert fp32.contract.promise == promise
    int8 = export(run_copy, precision="int8", out=tmp_path)
    assert int8.contract.promise is not None
    assert int8.contract.promise.error == 0.2
    assert int8.contract.promise.threshold != 0.123


@pytest.mark.usefixtures("int8_slower")
def test_quantize_promises_on_the_images_it_judges_by(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    found = quantize(trained, images, split="val", promise=BOTH, max_drop=5.0, out=tmp_path)
    assert found.promise_kept
    assert found.artifact.contract.promise is not None
    assert found.artifact.contract.promise.pictures == 24
    with pytest.raises(InputError, match="24 images held out are too few to promise error<=1%"):
        quantize(
            trained, images, split="val", promise="error<=1%", max_drop=5.0, out=tmp_path / "2"
        )
    assert not (tmp_path / "2" / "onnx-int8").exists()


def test_what_is_no_answer_is_unknown(
    run_copy: Path, images: Path, capsys: Capture, tmp_path: Path
) -> None:
    """Above a probability that nothing reaches, and an energy that nothing reaches."""
    image = images / "red" / "0.png"
    best = load(run_copy).predict([image])[0]
    promise = Promise(
        error=0.01, confidence=0.95, threshold=1.0, coverage=0.0, pictures=9, split="val"
    )
    known = Known(score="energy", threshold=1e6, kept=0.9, pictures=9, split="val")
    cases = {
        "not sure enough": Answering(promise=promise),
        "unlike the known images": Answering(promise=promise, known=known),
    }
    for reason, answering in cases.items():
        record = {"promise": vars(promise), "known": answering.known and vars(answering.known)}
        (run_copy / ANSWERING).write_text(json.dumps(record))
        artifact = export(run_copy, out=tmp_path / reason)
        for model in (run_copy, artifact.path):
            (answer,) = load(model).predict([image])
            assert (answer.label, answer.answered, answer.reason) == ("unknown", False, reason)
            assert answer.top[0].label == best.label == "red"
            assert answer.probability == pytest.approx(best.probability, abs=1e-4)
        told = in_this_process(capsys, "predict", artifact.path, image)
        assert f"0.png: unknown ({reason}); perhaps red " in told.stdout
        (line,) = in_this_process(capsys, "predict", run_copy, image, "--json").stdout.splitlines()
        record = json.loads(line)
        assert list(record) == ["path", "label", "probability", "top", "answered", "reason"]


@pytest.mark.parametrize("score", [("promise", "threshold", 1.0), ("known", "threshold", 1e6)])
def test_the_readmes_python_says_so(
    score: tuple[str, str, float],
    run_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    artifact = export(run_copy, promise=BOTH, out=tmp_path)
    which, key, value = score
    record = json.loads(json.dumps(artifact.contract.to_json()[which])) | {key: value}
    (run_copy / ANSWERING).write_text(json.dumps({which: record}))
    changed = export(run_copy, out=tmp_path / "changed")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    for made, answered in ((artifact, True), (changed, False)):
        monkeypatch.chdir(made.path)
        Image.fromarray(pixels).save("image.jpg")
        prediction = load(made.path).predict(["image.jpg"])[0]
        code = Path("README.md").read_text().partition("```python\n")[2].partition("```")[0]
        exec(code, {})
        printed = capsys.readouterr().out
        assert printed == f"{prediction.label} {prediction.probability:.1%}\n"
        if not answered:
            assert printed.startswith("unknown ")


def test_one_that_cannot_be_kept_is_told_and_the_artifact_written(
    wrong: Run, tmp_path: Path, capsys: Capture
) -> None:
    done = in_this_process(capsys, "export", wrong.path, "--promise=error<=20%", "--out", tmp_path)
    assert done.returncode == 1
    assert "error<=20% is NOT promised, no threshold keeps it" in done.stderr
    assert open_artifact(tmp_path / "onnx").contract.promise is None


@pytest.mark.parametrize(
    ("promise", "said"),
    [
        ("error<=0%", "no number of images shows that"),
        ("error<=200%", "is not between 0% and 100%"),
        ("certain", "is not a promise; write 'error<=1%'"),
        (
            "error<=1%",
            "24 images held out are too few to promise error<=1%; at least 299 are needed",
        ),
    ],
)
def test_bad_promises_are_refused_and_nothing_is_written(
    promise: str, said: str, trained: Run, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    for verb in (
        ("export", trained.path),
        ("quantize", trained.path, images, "--split=val", "--max-drop=5"),
        ("train", images, "--model=mobilenet_v1", "--width-mult=0.25", "--resolution=16"),
    ):
        done = in_this_process(capsys, *verb, f"--promise={promise}", "--out", out)
        assert_refused(done, said)
        assert not list(tmp_path.rglob("contract.json"))
        assert not (out / "arch.json").exists()


def test_several_classes_in_an_image_are_refused(run_copy: Path, tmp_path: Path) -> None:
    recorded = json.loads((run_copy / "dataset.json").read_text())
    (run_copy / "dataset.json").write_text(json.dumps(recorded | {"multi_label": True}))
    with pytest.raises(InputError, match="an image may have several classes, but a promise is"):
        export(run_copy, promise="error<=20%", out=tmp_path)


def test_an_imported_model_has_nothing_to_promise_on(trained: Run, tmp_path: Path) -> None:
    run = open_run(trained.model.save(tmp_path / "saved"))
    with pytest.raises(InputError, match="not trained in a run, so it held out no images"):
        export(run, promise="error<=20%", out=tmp_path)
    assert not (tmp_path / "onnx").exists()


def test_a_training_promises_and_tests_where_there_is_a_test(images: Path, tmp_path: Path) -> None:
    """In ``test``, whose images chose nothing, else on ``val``."""
    for name in COLOURS:
        for index in range(40):
            split = ("train", "val", "test")[index % 3]
            (tmp_path / "set" / split / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(images / name / f"{index}.png", tmp_path / "set" / split / name)
    run = train(
        tmp_path / "set",
        model="mobilenet_v1",
        width_mult=0.25,
        resolution=16,
        overrides={"epochs": 12, "batch_size": 16},
        promise="error<=50%",
        out=tmp_path / "run",
    )
    assert run.answering.promise is not None
    assert (run.answering.promise.split, run.answering.promise.pictures) == ("test", 39)
    assert run.answering == run.model.answering == open_run(run.path).answering
    artifact = export(run, precision="int8", out=tmp_path)
    assert artifact.contract.promise is not None
    assert artifact.contract.promise.split == "test"
