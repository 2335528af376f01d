"""What a notebook shows: HTML in which everything from outside is escaped; progress."""

from __future__ import annotations

from dataclasses import replace

import pytest

import mobilette
from mobilette.notebook import html_table
from mobilette.run.metrics import Metrics
from mobilette.training.events import EpochDone, StepDone
from mobilette.verification.verdict import Verdict

HOSTILE = "<script>alert(1)</script>&\x1b[2J"


def test_text_is_escaped_and_numbers_are_grouped() -> None:
    shown = html_table(HOSTILE, [HOSTILE], [[HOSTILE, 12345]], [HOSTILE])
    assert shown.count("&lt;script&gt;") == 4
    assert "<script" not in shown
    assert "\x1b" not in shown
    assert "12,345" in shown


def test_networks_costs_and_verdicts_have_tables() -> None:
    arch = mobilette.get_arch("resnet20", num_classes=10, resolution=32)
    counted = mobilette.cost(arch)
    values = [
        (replace(arch, name=HOSTILE), ["head.classifier", "10 classes"]),
        (counted, ["head.classifier", f"{counted.params:,} parameters"]),
        (mobilette.create_model("resnet20"), ["head.classifier", "mult-adds"]),
        (
            Verdict(
                passed=False,
                target="onnx",
                precision="fp32",
                engine="ONNX Runtime",
                max_abs_diff=0.5,
                signal_to_noise_db=20.0,
                top1_agreement=0.9,
                failures=(HOSTILE,),
                notes=(),
            ),
            ["FAILED", "max_abs_diff", "0.5"],
        ),
    ]
    for value, parts in values:
        shown = value._repr_html_()  # type: ignore[attr-defined]
        assert "<script" not in shown
        for part in (*parts, "<table>"):
            assert part in shown


def test_progress_prints_a_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    progress = mobilette.TrainingProgress()
    step = StepDone(epoch=0, epochs=2, step=1, steps=2, images_per_second=9.0, loss=1.0, part=0.5)
    metrics = Metrics(images=4, top1=0.5, top5=None, loss=0.7, per_class={}, confusion={})
    done = EpochDone(
        epoch=1, frozen=False, step=2, lr=0.1, train_loss=0.8, metrics=metrics, is_best=True
    )
    progress(step)
    progress(done)
    with mobilette.TrainingProgress() as progress:
        progress(done)
        progress.reporter.reading(1, 2)
        progress.reporter.remark("one remark")
    printed = capsys.readouterr().err
    assert printed.count("top-1  50.00%") == 2
    assert "one remark" in printed
