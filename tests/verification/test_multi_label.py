"""A network whose classes do not exclude each other, from its run to `predict`.

The weights are those of a run with exclusive classes: what they answer is known well enough, and
only what is made of the answers differs.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score

from mobilette.artifact.contract import Contract, canonical
from mobilette.artifact.directory import Artifact, open_artifact
from mobilette.cli.evaluate import evaluate as command
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.records import parse
from mobilette.run.directory import Run, open_run
from mobilette.verification.evaluate import evaluate
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.conftest import write_images

LABELS = {"red": "red;green", "green": "green", "blue": ""}


@pytest.fixture(scope="module")
def run(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("multi") / "run"
    shutil.copytree(trained.path, path)
    recorded = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps(recorded | {"multi_label": True}))
    return open_run(path)


@pytest.fixture(scope="module")
def artifact(run: Run) -> Artifact:
    return export(run, out=run.path.parent / "out")


@pytest.fixture(scope="module")
def several(run: Run) -> Path:
    """Return a list of images: red ones are said to be green, too, blue ones of no class."""
    root = write_images(run.path.parent / "set", 6)
    path = root / "list.csv"
    rows = [f"{c}/{n}.png,{labels}" for c, labels in LABELS.items() for n in range(6)]
    path.write_text("\n".join(["path,labels", *rows]))
    return path


def test_the_run_tells(run: Run, trained: Run, run_copy: Path) -> None:
    assert run.multi_label
    assert not trained.multi_label
    (run_copy / "dataset.json").write_text('{"multi_label": "yes"}')
    with pytest.raises(InputError, match=r"dataset\.json: multi_label is 'yes', not true or false"):
        open_run(run_copy)
    (run_copy / "dataset.json").unlink()  # as of an imported run
    assert not open_run(run_copy).multi_label


def test_probabilities_are_sigmoids(run: Run, artifact: Artifact, several: Path) -> None:
    images = [several.parent / name / "0.png" for name in LABELS]
    for path in (run.path, artifact.path):
        predictor = load(path)
        pixels = [predictor.preprocess.geometry(Image.open(image), 16) for image in images]
        expected = torch.sigmoid(torch.from_numpy(predictor.logits(np.stack(pixels))).double())
        for answer, row in zip(predictor.predict(images), expected, strict=True):
            given = {guess.id: guess.probability for guess in answer.top}
            wanted = dict(zip(("blue", "green", "red"), row.tolist(), strict=True))
            assert given == pytest.approx(wanted, abs=1e-6)


def test_the_artifact_says_so(
    artifact: Artifact, exported: Artifact, several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert artifact.contract.outputs == "sigmoid"
    assert exported.contract.outputs == "softmax"
    text = (artifact.path / "README.md").read_text()
    assert "sigmoid" in text
    assert "sigmoid" not in (exported.path / "README.md").read_text()
    monkeypatch.chdir(artifact.path)
    shutil.copy(several.parent / "red" / "0.png", "image.jpg")
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    given = load(artifact.path).predict(["image.jpg"])[0]
    likely = {guess.label for guess in given.top if guess.probability > 0.5}
    printed = [label for label, x in zip(names["labels"], names["logits"], strict=False) if x > 0]
    assert {label.partition("\t")[2] for label in printed} == likely
    Path("image.jpg").unlink()


def test_contracts_of_before_still_open(exported: Artifact) -> None:
    """They have no key ``outputs``, neither in their hash nor inside the model."""
    content = json.loads((exported.path / "contract.json").read_text())
    assert "outputs" not in content
    contract = parse(Contract, content, where="contract")
    assert contract.own_sha256() == content["sha256"]
    assert "outputs" not in canonical(contract.embedded())


def logits_of(run: Run, several: Path) -> NDArray[np.float32]:
    """Return the run's answers, those for the red images first, then the green, the blue ones."""
    predictor = load(run.path)
    paths = [several.parent / name / f"{n}.png" for name in LABELS for n in range(6)]
    pixels = [predictor.preprocess.geometry(Image.open(path), 16) for path in paths]
    return predictor.logits(np.stack(pixels))


def test_evaluate(run: Run, artifact: Artifact, several: Path) -> None:
    metrics = evaluate(load(run.path), several, include_trained=True)
    assert metrics.images == 18
    assert metrics.top1 == 1.0  # of the red and the green ones
    assert set(metrics.per_class) == {"red", "green"}
    logits = logits_of(run, several)
    truth = np.repeat([[0, 1, 1], [0, 1, 0], [0, 0, 0]], 6, axis=0)
    assert metrics.mean_average_precision == pytest.approx(
        average_precision_score(truth[:, 1:], logits[:, 1:], average="macro")
    )
    assert metrics.per_class["red"]["average_precision"] == pytest.approx(
        average_precision_score(truth[:, 2], logits[:, 2])
    )
    assert evaluate(load(artifact.path), several).top1 == 1.0


def test_the_command_line_prints_it(
    run: Run, several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(run.path, str(several))
    printed = capsys.readouterr().out
    assert re.search(r"^mean average precision \d+\.\d\d%$", printed, re.MULTILINE)
    metrics = evaluate(load(run.path), several)
    red = metrics.per_class["red"]["average_precision"]
    assert f"\n  red: {red:.1%}\n" in printed
    command(run.path, str(several), as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert answer["mean_average_precision"] == metrics.mean_average_precision


def test_images_of_one_class_serve_but_not_the_other_way_round(
    run: Run, trained: Run, several: Path
) -> None:
    truth = np.repeat([[0, 0, 1], [0, 1, 0], [1, 0, 0]], 6, axis=0)
    expected = average_precision_score(truth, logits_of(run, several), average="macro")
    found = evaluate(load(run.path), several.parent, include_trained=True)
    assert found.mean_average_precision == pytest.approx(expected)
    with pytest.raises(InputError, match=r"list\.csv: images may have several classes; this model"):
        evaluate(load(trained.path), several)


def test_verify(artifact: Artifact, several: Path) -> None:
    verdict = verify(artifact.path, several, include_trained=True)
    assert verdict.passed
    assert verdict.accuracy_source == verdict.accuracy_artifact == 1.0
    assert verdict.images == 18
    assert open_artifact(artifact.path).contract.outputs == "sigmoid"
