"""The report: what it says is what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import mobilette
from mobilette.artifact.directory import Artifact
from mobilette.cli.main import run as command
from mobilette.errors import InputError
from mobilette.reporting.model_card import model_card
from mobilette.run.directory import Run
from mobilette.run.metrics import softmax
from mobilette.verification.heat_map import enlarged, heat_map, seen
from mobilette.verification.statistics import calibration_error, reliability
from mobilette.workflows.report_values import Report


def test_its_numbers_are_those_of_evaluate(weak: Run, weak_report: Report) -> None:
    measured = weak_report.measured
    assert measured is not None
    expected = mobilette.evaluate(weak, measured.data)
    assert measured.metrics == expected
    ids = [one.id for one in measured.classes]
    assert measured.matrix is not None
    confusion = {
        ids[row]: {ids[column]: int(count) for column, count in enumerate(line) if count}
        for row, line in enumerate(measured.matrix)
        if line.any()
    }
    assert confusion == expected.confusion
    for one in measured.classes:
        assert one.images == expected.per_class[one.id]["images"]
        assert one.recall == pytest.approx(expected.per_class[one.id]["top1"])
        column = measured.matrix[:, ids.index(one.id)]
        assert one.guessed == column.sum()


def test_mistakes_come_most_confident_first(weak_report: Report) -> None:
    assert weak_report.measured is not None
    mistakes = weak_report.measured.mistakes()
    assert mistakes
    sure = [one.probability for one in mistakes]
    assert sure == sorted(sure, reverse=True)
    assert all(one.guess not in one.true for one in mistakes)


def test_heat_maps_are_of_the_answer_that_was_given(weak: Run, weak_report: Report) -> None:
    measured = weak_report.measured
    assert measured is not None
    for one in measured.mistakes()[:3]:
        assert isinstance(one.image.content, Path)
        expected = heat_map(weak, one.image.content, class_index=one.guess)
        found = measured.maps[one.image.name]
        assert np.array_equal(found.pixels, seen(weak.model, one.image.content))
        assert np.abs(enlarged(found.map, (16, 16)) - expected).max() < 1e-3


def test_coverage_ends_with_all_images(weak_report: Report) -> None:
    measured = weak_report.measured
    assert measured is not None
    coverage, error = measured.coverage[-1]
    assert coverage == 1
    assert error == pytest.approx(1 - measured.metrics.top1)
    parts = [part for part, _ in measured.coverage]
    assert parts == sorted(parts)


def test_bins_give_the_calibration_error() -> None:
    generator = np.random.default_rng(3)
    logits = generator.normal(size=(500, 4)).astype(np.float32) * 3
    labels = generator.integers(0, 4, 500)
    bins = reliability(logits, labels)
    assert sum(one.images for one in bins) == 500
    best = softmax(logits).max(axis=1)
    inside = (best > bins[9].low) & (best <= bins[9].high)
    assert bins[9].images == inside.sum()
    right = logits.argmax(axis=1) == labels
    assert bins[9].right == pytest.approx(right[inside].mean())
    by_hand = sum(
        abs(right[some].mean() - best[some].mean()) * some.mean()
        for one in bins
        if (some := (best > one.low) & (best <= one.high)).any()
    )
    assert calibration_error(logits, labels) == pytest.approx(by_hand)


def test_an_artifact_is_judged_when_it_is_asked_for(
    weak: Run, page: Path, weak_report: Report
) -> None:
    artifacts = page.parent / "exports"
    found = mobilette.report(weak, artifacts=[artifacts]).artifacts
    assert [one.verified for one in found] == [None]
    judged = mobilette.report(weak, artifacts=[artifacts], verify=True).artifacts[0]
    assert judged.verified is True
    assert judged.own
    assert weak_report.measured is not None
    assert judged.images == weak_report.measured.metrics.images


def test_an_artifact_of_other_weights_is_said_to_be(weak: Run, exported: Artifact) -> None:
    found = mobilette.report(weak, artifacts=[exported.path]).artifacts
    assert [one.own for one in found] == [False]


def test_of_an_artifact_its_engine_answers(exported: Artifact, images: Path) -> None:
    found = mobilette.report(exported, images)
    assert found.kind == "artifact"
    assert found.measured is not None
    assert "ONNX" in found.measured.engine
    assert found.history  # of its run


def test_an_artifact_alone_is_reported_on(artifact_copy: Path, images: Path) -> None:
    found = mobilette.report(artifact_copy, images)
    assert found.measured is not None
    assert found.data is None
    assert "not here" in found.origin.start


def test_images_that_are_gone_leave_the_rest(weak: Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(weak.path, tmp_path / "run"))
    recorded = json.loads((run / "dataset.json").read_text())
    (run / "dataset.json").write_text(json.dumps(recorded | {"path": str(tmp_path / "gone")}))
    out = tmp_path / "out.html"
    found = mobilette.report(run, out=out)
    assert found.measured is None
    assert any("nothing is measured" in line for line in found.notes)
    assert "nothing is measured" in out.read_text()
    with pytest.raises(InputError, match="gone"):
        mobilette.report(run, tmp_path / "gone")


def test_a_run_of_an_earlier_version_is_reported_on(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "fixtures" / "version_0_1_0" / "finished"
    assert mobilette.report(old, out=tmp_path / "old.html").history


def test_what_was_left_out_is_named(page: Path, weak_report: Report) -> None:
    assert weak_report.data is not None
    assert [name for name, _ in weak_report.data.left_out] == ["plain/broken.png"]
    assert "plain/broken.png" in page.read_text(encoding="utf-8")


def test_the_command_trains_the_same_network(weak: Run, weak_report: Report) -> None:
    words = weak_report.origin.command.split()
    assert words[:2] == ["mobilette", "train"]
    assert words[words.index("--model") + 1] == "mobilenet_v1"
    assert words[words.index("--width-mult") + 1] == "0.25"
    assert weak_report.origin.weights_sha256 == weak.model.origin.sha256


def test_the_card_has_what_the_hub_reads(weak: Run, weak_report: Report, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
    out = tmp_path / "README.md"
    mobilette.report(weak, out=out, licence="apache-2.0")
    card = hub.ModelCard(out.read_text(encoding="utf-8"))
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "mobilette"
    assert "mobilenet_v1" in card.data.tags
    assert weak_report.measured is not None
    results = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert results["top-1"] == pytest.approx(weak_report.measured.metrics.top1, abs=1e-6)
    assert "license" not in model_card(weak_report)


def test_the_command_line_writes_page_and_card(
    weak: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(weak.path, tmp_path / "run"))
    assert command(["report", str(run), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert Path(value["report"]) == run / "report.html"
    assert value["measured"]["top1_interval"][0] < value["measured"]["top1"]
    assert command(["report", str(run), "--card", "--license", "mit"]) == 0
    assert (run / "README.md").read_text().startswith('---\nlicense: "mit"\n')
    capsys.readouterr()
    assert command(["report", str(run), "--card"]) == 2  # somebody may have filled it in
    assert "exists" in capsys.readouterr().err
    assert command(["report", str(run), "--out", str(tmp_path / "page.txt")]) == 2
    assert "suffix" in capsys.readouterr().err
