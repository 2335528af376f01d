"""A run is pruned: the result is a run like any other."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

import mobilette
from mobilette.arch.editing import convs
from mobilette.cli.main import run as command
from mobilette.counting.cost import cost
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.files import read_json
from mobilette.run.directory import Run, open_run
from mobilette.training.events import EpochDone, Event
from mobilette.training.recipe import load_recipe
from mobilette.verification.evaluate import evaluate
from mobilette.workflows.export import export
from mobilette.workflows.prune import prune
from mobilette.workflows.prune_record import PRUNED, new_channels, read_pruning
from mobilette.workflows.resume import resume
from mobilette.workflows.train import train
from tests.conftest import write_images
from tests.training.runs import same_weights

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def pruned(trained: Run, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the colours' run pruned to half in two steps."""
    return prune(
        trained,
        images,
        keep=0.5,
        steps=2,
        epochs=2,
        batch_size=16,
        out=tmp_path_factory.mktemp("pruned") / "half",
        workers=0,
    )


def test_it_is_narrower_and_costs_what_was_asked(pruned: Run, trained: Run) -> None:
    before, after = cost(trained.arch), cost(pruned.arch)
    assert 0.48 <= after.madds / before.madds <= 0.5
    wide, narrow = convs(trained.arch), convs(pruned.arch)
    assert wide.keys() == narrow.keys()
    assert all(narrow[name].channels <= conv.channels for name, conv in wide.items())
    assert pruned.classes == trained.classes
    assert pruned.preprocess == trained.preprocess


def test_the_record_tells_every_step(pruned: Run, trained: Run, images: Path) -> None:
    record = read_pruning(pruned.path)
    assert record.source == str(trained.path.resolve())
    assert [round(step.keep, 4) for step in record.steps] == [0.7071, 0.5]
    first, last = record.steps
    assert record.madds == cost(trained.arch).madds > first.madds > last.madds
    assert (last.madds, last.params) == (cost(pruned.arch).madds, cost(pruned.arch).params)
    assert last.channels == new_channels(pruned.arch)
    assert record.channels == new_channels(trained.arch)
    assert record.accuracy == evaluate(load(trained.path), images, workers=0, split="val").top1
    best = pruned.best()
    assert best is not None
    assert last.tuned == best["top1"] > 0.8
    environment = read_json(pruned.path / "environment.json")
    assert isinstance(environment, dict)
    assert environment["start"] == f"{trained.path.resolve()}, pruned"


def test_everything_works_on_it(pruned: Run, images: Path, tmp_path: Path, capsys: Capture) -> None:
    metrics = evaluate(load(pruned.path), images, workers=0, split="val")
    assert metrics.top1 == pytest.approx(read_pruning(pruned.path).steps[-1].tuned, abs=1e-6)
    artifact = export(pruned, out=tmp_path / "exports")
    assert evaluate(load(artifact.path), images, workers=0, split="val").top1 == metrics.top1
    copy = Path(shutil.copytree(pruned.path, tmp_path / "copy"))
    assert same_weights(resume(copy).path, pruned.path)  # finished
    longer = resume(copy, overrides={"epochs": 3}, force=True, workers=0)
    assert [row["epoch"] for row in longer.history()] == [0, 1, 2, 3]
    assert longer.arch == pruned.arch
    assert command(["cost", str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["madds"] == cost(pruned.arch).madds


def test_it_can_be_pruned_again_by_norm(pruned: Run, images: Path, tmp_path: Path) -> None:
    again = prune(
        pruned.path,
        images,
        keep=0.8,
        importance="norm",
        overrides={"epochs": 1, "batch_size": 16},
        out=tmp_path / "again",
        workers=0,
    )
    assert 0.78 <= cost(again.arch).madds / cost(pruned.arch).madds <= 0.8
    assert load_file(again.weights_path)["stem.conv.weight"].isfinite().all()


def test_digits_end_to_end_on_the_command_line(tmp_path: Path, capsys: Capture) -> None:
    base = train(
        "digits",
        model="mobilenet_v1",
        width_mult=0.25,
        resolution=16,
        overrides={"epochs": 1, "batch_size": 64},
        start="scratch",
        out=tmp_path / "digits",
        workers=0,
    )
    capsys.readouterr()
    narrow = tmp_path / "narrow"
    arguments = ["--keep=0.7", "--epochs=1", "--workers=0", f"--out={narrow}", "--json"]
    assert command(["prune", str(base.path), "digits", *arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    keys = {"run", "keep", "madds", "params", "accuracy_before", "steps"}
    assert answer.keys() == keys | {"trained_left_out", "includes_trained"}
    assert answer["run"] == str(narrow)
    assert 0.68 <= answer["keep"] <= 0.7
    assert answer["madds"] == cost(open_run(narrow).arch).madds
    (step,) = answer["steps"]
    assert step["madds"] == answer["madds"]
    assert step["tuned"] == (open_run(narrow).best() or {})["top1"]
    assert f'teacher = "{base.path}"' in (narrow / "recipe.toml").read_text()


def test_people_get_a_table_and_an_image(
    trained: Run, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    arguments = ["--keep=0.6", "--epochs=1", "--workers=0", "--importance=norm", f"--out={out}"]
    assert command(["prune", str(trained.path), str(images), *arguments]) == 0
    printed = capsys.readouterr()
    step = read_pruning(out).steps[0]
    assert "mobilette-prune-" not in printed.err
    for text in (f"{step.cut:.2%}", f"{step.tuned:.2%}", "unpruned", "100.0%"):
        assert text in printed.out
    assert "points" in printed.err
    assert f"mobilette export {out} --to onnx" in printed.err
    assert (out / "pruning.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_stopped_in_the_last_step_is_a_run_that_can_be_finished(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    epochs = 0

    def stop_in_the_second_epoch(event: Event) -> None:
        nonlocal epochs
        epochs += isinstance(event, EpochDone)
        if epochs == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        prune(
            trained,
            images,
            keep=0.7,
            epochs=4,
            out=out,
            workers=0,
            callbacks=[stop_in_the_second_epoch],
        )
    (step,) = read_pruning(out).steps
    assert step.tuned == open_run(out).history()[0]["top1"]
    assert read_pruning(out).source == str(trained.path.resolve())
    assert command(["train", f"--resume={out}", "--workers=0"]) == 0
    assert len(open_run(out).history()) == 5  # one of the start


def test_a_model_without_a_run_is_saved_to_teach(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    model = replace(trained.model, origin=replace(trained.model.origin, source="mine"))
    seen: list[Event] = []
    run = prune(
        model,
        images,
        keep=0.7,
        epochs=1,
        lr=0.01,
        seed=3,
        out=tmp_path / "narrow",
        workers=0,
        callbacks=[seen.append],
    )
    assert any(isinstance(event, EpochDone) for event in seen)
    recipe = load_recipe(run.path / "recipe.toml")
    teacher = tmp_path / "narrow-teacher"
    assert (recipe.epochs, recipe.lr, recipe.seed) == (1, 0.01, 3)
    assert (recipe.teacher, read_pruning(run.path).source) == (str(teacher), str(teacher))
    assert same_weights(teacher, trained.path)
    shutil.rmtree(run.path)
    with pytest.raises(InputError, match="narrow-teacher: exists"):
        prune(model, images, keep=0.7, epochs=1, out=run.path)


def test_a_model_of_a_run_is_taught_by_the_run(trained: Run, images: Path, tmp_path: Path) -> None:
    run = prune(trained.model, images, keep=0.7, epochs=1, out=tmp_path / "narrow", workers=0)
    assert read_pruning(run.path).source == str(trained.path.resolve())
    assert [path.name for path in tmp_path.iterdir()] == ["narrow"]


def test_epochs_and_time_together_are_refused(trained: Run, images: Path) -> None:
    with pytest.raises(InputError, match="--time and --epochs: give one of them"):
        prune(trained, images, keep=0.7, epochs=1, time="10m")


def test_it_is_a_public_name() -> None:
    assert mobilette.prune is prune


# Bad requests


def refused(capsys: Capture, *arguments: str | Path) -> str:
    """Return the one line in which the command line refuses to prune."""
    status = command(["prune", *map(str, arguments)])
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (status, out, len(lines)) == (2, "", 1), err
    assert lines[0].startswith("mobilette: error: ")
    return lines[0]


@pytest.mark.parametrize("keep", ["0", "1", "-0.5", "1.5", "nan", "inf"])
def test_a_part_that_is_none(trained: Run, images: Path, keep: str, capsys: Capture) -> None:
    line = refused(capsys, trained.path, images, f"--keep={keep}")
    assert "is not between 0.0001 and 0.9999" in line


def test_a_part_that_leaves_layers_empty(trained: Run, images: Path, capsys: Capture) -> None:
    line = refused(capsys, trained.path, images, "--keep=0.001")
    assert "cannot be pruned to 0.001 of its mult-adds" in line
    assert "is the smallest" in line


def test_an_artifact_names_its_run(
    trained: Run, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    artifact = export(trained, to="onnx", out=tmp_path / "out")
    line = refused(capsys, artifact.path, images, "--keep=0.5")
    assert line.endswith(f"an artifact, not a run; give the run it was made from, {trained.path}")


def test_no_run(images: Path, capsys: Capture) -> None:
    assert "not a run directory" in refused(capsys, images, images, "--keep=0.5")


def test_other_classes(trained: Run, tmp_path: Path, capsys: Capture) -> None:
    other = write_images(tmp_path / "other", 5)
    (other / "red").rename(other / "rot")
    line = refused(capsys, trained.path, other, "--keep=0.5")
    assert "class 'rot' is none of the model's 3 (blue, green, red)" in line
    (other / "rot").rename(other / "Red")  # a case is no other class
    assert "keep 0.5" not in line
    assert "is none of the model's 3" in refused(capsys, trained.path, "digits", "--keep=0.5")


def test_no_images(trained: Run, tmp_path: Path, capsys: Capture) -> None:
    line = refused(capsys, trained.path, tmp_path / "nothing", "--keep=0.5")
    assert "nothing" in line


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--steps=0", "--steps 0 is not between 1 and 100"),
        ("--importance=size", "size"),
        ("--epochs=0", "epochs 0"),
        ("--recipe=slices", "no recipe is called 'slices'; did you mean 'sliced'"),
        ("--device=tpu", "tpu"),
    ],
)
def test_options(
    trained: Run, images: Path, option: str, message: str, tmp_path: Path, capsys: Capture
) -> None:
    arguments = (trained.path, images, "--keep=0.5", option, f"--out={tmp_path / 'out'}")
    assert message in refused(capsys, *arguments)
    assert not (tmp_path / "out").exists()


def test_the_unpruned_run_is_not_replaced(trained: Run, images: Path, capsys: Capture) -> None:
    arguments = (trained.path, images, "--keep=0.5", "--force")
    line = refused(capsys, *arguments, f"--out={trained.path}")
    assert "give another --out" in line
    assert not (trained.path / PRUNED).exists()
    with pytest.raises(InputError, match="exists"):
        prune(trained, images, keep=0.5, out=trained.path)
