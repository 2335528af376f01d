"""What `mobilette train` says at the end, and what `--resume` says at the beginning."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from mobilette.cli.main import run as mobilette
from mobilette.cli.training_output import print_result
from mobilette.progress import Reporter
from mobilette.reporting.outcome import Outcome, outcome
from mobilette.run.directory import Run, open_run
from mobilette.run.metrics import wilson_interval
from mobilette.training.events import Event, StepDone
from tests.training.runs import resume, train

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def changed(trained: Run, tmp_path: Path) -> Path:
    """Return a copy of a run that can be changed: 0.4 at best, 0.3 at the end, of 30 images."""
    folder = tmp_path / "run"
    shutil.copytree(trained.path, folder)
    header = "epoch,step,seconds,lr,train_loss,val_loss,top1,top5,images_per_second"
    rows = ["1,3,1,0.1,1,1.5,0.4,,9", "1.333,4,2,0,1,2.5,0.3,,9"]
    (folder / "metrics.csv").write_text("\n".join([header, *rows]))
    count(folder, val=(12, 9, 9), train=(30, 20, 16))
    return folder


def count(folder: Path, **splits: tuple[int, ...]) -> None:
    recorded = json.loads((folder / "dataset.json").read_text())
    for split, counts in splits.items():
        per_class = dict(zip(("blue", "green", "red"), counts, strict=True))
        recorded["splits"][split] = {"pictures": sum(counts), "per_class": per_class}
    (folder / "dataset.json").write_text(json.dumps(recorded))


def printed(capsys: Capture, folder: Path) -> str:
    print_result(open_run(folder), as_json=False, trained=True, profiled=None)
    return capsys.readouterr().err


def test_the_end_says_how_sure_it_is_and_where_it_ended(capsys: Capture, changed: Path) -> None:
    count(changed, val=(10, 10, 10))
    text = printed(capsys, changed)
    assert "top-1 40.00% (24.6% to 57.7% with 95% confidence, 30 images; " in text
    assert "the largest class is 33.3% of them) after epoch 1; " in text
    assert "top-1 30.00% at the end, after 1.333 epochs; " in text
    assert "top-5" not in text
    low, high = wilson_interval(0.4, 30)
    print_result(open_run(changed), as_json=True, trained=True, profiled=None)
    values = json.loads(capsys.readouterr().out)
    assert values["top1_interval"] == [low, high]
    assert values["top5"] is None
    assert (values["epochs"], values["loss"]) == (1, 1.5)
    assert values["final"] == {"epoch": 1.333, "top1": 0.3, "loss": 2.5}
    assert values["largest_class"]["share"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("val", [(12, 9, 9), (21, 5, 4), (9, 12, 9)])
def test_what_guessing_would_reach_is_warned_of(
    capsys: Capture, changed: Path, val: tuple[int, ...]
) -> None:
    count(changed, val=val)
    name = ("blue", "green", "red")[val.index(max(val))]
    warning = f"warning: no better than always answering {name}, the largest class: "
    assert f"{warning}{max(val) / 30:.1%} of the images held out\n" in printed(capsys, changed)


def test_what_may_be_guessing_is_said_to_be_so(capsys: Capture, changed: Path) -> None:
    count(changed, val=(11, 10, 9))
    assert "warning: perhaps no better than always answering blue" in printed(capsys, changed)
    count(changed, val=(440, 280, 280))  # of so many, 40% are fewer for sure
    assert "warning: no better than always answering blue" in printed(capsys, changed)


def test_a_rounded_share_of_the_largest_class_is_no_better() -> None:
    """Eight of nine are 0.888889 in metrics.csv, which is more than the share."""
    best = {"top1": 0.888889}
    found = Outcome(best=best, last=best, images=9, largest=("big", 8 / 9), uneven=None)
    assert found.warnings()[0].startswith("warning: no better than always answering big")


def test_a_result_that_is_better_has_no_warning(capsys: Capture, changed: Path) -> None:
    count(changed, val=(340, 330, 330))
    assert outcome(open_run(changed)).warnings() == []
    assert "warning" not in printed(capsys, changed)


def test_uneven_classes_name_the_remedy_unless_it_is_taken(capsys: Capture, changed: Path) -> None:
    assert "class_weights" not in printed(capsys, changed)
    count(changed, train=(1_200, 20, 600))
    said = "the classes are uneven (blue has 1,200 images to train on, green 20): "
    assert f"{said}--set class_weights=balanced" in printed(capsys, changed)
    recipe = changed / "recipe.toml"
    for key, value in (("class_weights", "none"), ("sampling", "shuffled")):
        own = recipe.read_text()
        recipe.write_text(own.replace(f'{key} = "{value}"', f'{key} = "balanced"'))
        assert "the classes are uneven" not in printed(capsys, changed)
        recipe.write_text(own)


def test_few_classes_have_no_top_five_while_training_either(
    capsys: Capture, images: Path, tmp_path: Path
) -> None:
    """Nor has `evaluate`; in JSON it is null in both."""
    out = str(tmp_path / "run")
    small = ("--model=mobilenet_v1", "--width-mult=0.25", "--resolution=16", "--workers=0")
    assert mobilette(["train", str(images), *small, "--epochs=1", f"--out={out}"]) == 0
    assert mobilette(["evaluate", out, str(images), "--workers=0"]) == 0
    shown = capsys.readouterr()
    assert "top-1" in shown.out
    assert "top-1" in shown.err
    assert "top-5" not in shown.out + shown.err
    assert "top5" not in open_run(out).history()[0]
    assert mobilette(["evaluate", out, str(images), "--workers=0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top5"] is None


def test_a_resumed_run_says_where_it_goes_on(images: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == (1, 2):
            signal.raise_signal(signal.SIGINT)

    small = {"model": "mobilenet_v1", "width_mult": 0.25, "resolution": 16, "workers": 0}
    with pytest.raises(KeyboardInterrupt):
        train(
            images,
            **small,  # type: ignore[arg-type]
            overrides={"epochs": 2, "batch_size": 24},
            out=tmp_path / "run",
            report=stop,
        )
    said: list[str] = []
    run = resume(tmp_path / "run", workers=0, reporter=Reporter(remark=said.append))
    steps = round(run.history()[-1]["step"] / 2)
    place = f"run: continues at epoch 2 of 2, step 3 of {steps}, after "
    assert any(place in line and line.endswith(" minutes") for line in said), said
