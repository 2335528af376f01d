"""`mobilette train` as a person uses it: ways to read, to train, to look on, and bad requests.

Most of it runs in this process: what a new one adds is tested in `test_cli`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mobilette.cli.main import run as mobilette
from mobilette.run.directory import Run, open_run
from tests.conftest import COLOURS

SMALL = ("--model=mobilenet_v1", "--width-mult=0.25", "--resolution=16", "--workers=0")
ONE = (*SMALL, "--epochs=1", "--batch-size=24")


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `train` sets for its process out of the other tests'."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")


class Answer:
    """What a command printed, and its status."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        self.status = mobilette(list(map(str, arguments)))
        self.out, self.err = capsys.readouterr()

    def refused(self) -> str:
        """Return the one line in which the request was refused."""
        errors = [line for line in self.err.splitlines() if "error" in line]
        assert (self.status, self.out, len(errors)) == (2, "", 1), self.err
        assert errors[0].startswith("mobilette: error: ")
        assert "Traceback" not in self.err
        return errors[0]


Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def divided(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the images divided: 24 and 8 a class, with a list of them beside."""
    root = tmp_path_factory.mktemp("divided")
    rows = ["path,label,split"]
    for name in COLOURS:
        for number in range(32):
            split = "train" if number < 24 else "val"
            file = root / split / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(images / name / f"{number}.png", file)
            rows.append(f"{file.relative_to(root).as_posix()},{name},{split}")
    (root / "list.csv").write_text("\n".join(rows))
    return root


def write_shards(divided: Path, root: Path) -> Path:
    """Write the divided images into two shards to train on and one to validate."""
    root.mkdir()
    for shard, split, numbers in (
        ("train-000000.tar", "train", range(12)),
        ("train-000001.tar", "train", range(12, 24)),
        ("val-000000.tar", "val", range(24, 32)),
    ):
        with tarfile.open(root / shard, "w") as archive:
            for number in numbers:
                for name in COLOURS:
                    content = (divided / split / name / f"{number}.png").read_bytes()
                    for suffix, data in (("png", content), ("cls", name.encode())):
                        info = tarfile.TarInfo(f"{name}{number:02}.{suffix}")
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))
    return root


# Ways to read


def described(run: Path) -> dict[str, object]:
    content = json.loads((run / "dataset.json").read_text())
    assert isinstance(content, dict)
    return content


def test_folders_lists_shards_and_streams(capsys: Capture, divided: Path, tmp_path: Path) -> None:
    """The same images: all ways learn as many, and folder and list the same bits."""
    shards = write_shards(divided, tmp_path / "shards")
    (tmp_path / "folders").mkdir()
    for split in ("train", "val"):
        shutil.copytree(divided / split, tmp_path / "folders" / split)
    weights = {}
    for name, data, more in (
        ("folder", tmp_path / "folders", []),
        ("list", divided / "list.csv", []),
        ("streamed", tmp_path / "folders", ["--set", "loader=streamed", "--workers=1"]),
        ("shards", shards, ["--set", "loader=streamed"]),
    ):
        out = tmp_path / f"run of {name}"
        answer = Answer(capsys, "train", data, *ONE, *more, "--out", out, "--json")
        assert answer.status == 0, answer.err
        assert json.loads(answer.out)["epochs"] == 1
        assert "72 images to train on, 24 held out" in answer.err
        assert described(out)["loader"] == ("streamed" if more else "resident")
        weights[name] = (out / "best.safetensors").read_bytes()
    assert weights["list"] == weights["folder"]
    assert weights["streamed"] != weights["shards"]  # another order: shard by shard


def test_a_shard_that_ends_mid_file_costs_what_it_lost(
    capsys: Capture, divided: Path, tmp_path: Path
) -> None:
    shards = write_shards(divided, tmp_path / "shards")
    cut = shards / "train-000001.tar"
    with tarfile.open(cut) as archive:
        last = archive.getmembers()[-2]
    cut.write_bytes(cut.read_bytes()[: last.offset_data + last.size // 2])
    answer = Answer(capsys, "train", shards, *ONE, "--out", tmp_path / "run")
    assert answer.status == 0, answer.err
    assert "71 images to train on, 24 held out, 1 left out (dataset.json says why)" in answer.err
    lost = described(tmp_path / "run")["unusable"]
    assert "shard ends mid-file" in json.dumps(lost)


# Ways to train


def test_grey_images_with_everything_that_changes_colours(
    capsys: Capture, divided: Path, tmp_path: Path
) -> None:
    keys = ("crop=resized", "colour_jitter=0.4", "randaugment=9", "erasing=0.3", "mixup=0.2")
    options = [word for key in keys for word in ("--set", key)]
    answer = Answer(
        capsys, "train", divided, *ONE, "--in-channels=1", *options, "--out", tmp_path / "run"
    )
    assert answer.status == 0, answer.err
    assert open_run(tmp_path / "run").arch.in_channels == 1


def test_a_teacher_is_recorded_so_that_a_resumed_run_finds_it(
    capsys: Capture,
    trained: Run,
    divided: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(trained.path.parent)
    answer = Answer(
        capsys, "train", divided, *ONE, f"--teacher={trained.path.name}", "--out", tmp_path / "run"
    )
    assert answer.status == 0, answer.err
    recorded = (tmp_path / "run" / "recipe.toml").read_text()
    assert f"teacher = {json.dumps(str(trained.path.resolve()))}\n" in recorded


def test_a_time_that_is_too_short_is_refused(
    capsys: Capture, divided: Path, tmp_path: Path
) -> None:
    answer = Answer(capsys, "train", divided, *SMALL, "--time=0.01s", "--out", tmp_path / "run")
    assert "a time of 0.01s is too short: " in answer.refused()
    assert answer.err.rstrip().endswith("s would do")
    assert not (tmp_path / "run").exists()


# To look on


def test_the_profile_names_a_bottleneck(capsys: Capture, divided: Path, tmp_path: Path) -> None:
    options = (*SMALL, "--epochs=1", "--batch-size=8", "--profile", "--force")
    answer = Answer(capsys, "train", divided, *options, "--out", tmp_path / "run")
    assert answer.status == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0].startswith("6 steps, ")  # of 9, without the warm-up
    parts = {line.split()[0]: float(line.split()[1]) for line in lines[1:-1]}
    assert list(parts) == ["data", "augmentation", "forward", "backward", "optimiser"]
    assert sum(float(line.split()[-1].rstrip("%")) for line in lines[1:-1]) == pytest.approx(
        100, abs=0.3
    )
    assert lines[-1].startswith(f"the bottleneck is {max(parts, key=lambda name: parts[name])}: ")
    answer = Answer(capsys, "train", divided, *options, "--json", "--out", tmp_path / "run")
    profile = json.loads(answer.out)["profile"]
    assert profile["steps"] == 6
    assert profile["bottleneck"] == max(profile["seconds"], key=profile["seconds"].get)
    assert profile["images_per_second"] * sum(profile["seconds"].values()) == pytest.approx(48)


def test_tensorboard_where_it_is_not_installed(divided: Path, tmp_path: Path) -> None:
    """In a process that cannot import it."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "tensorboard.py").write_text("raise ModuleNotFoundError(__name__)\n")
    path = os.pathsep.join([str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "mobilette", "train", str(divided), *ONE, "--tensorboard"]
    result = subprocess.run(
        [*command, "--out", str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    (error,) = (line for line in result.stderr.splitlines() if "error" in line)
    assert error.endswith("--tensorboard needs the extra: pip install 'mobilette[tensorboard]'")
    assert [path.name for path in tmp_path.iterdir()] == ["hidden"]


def test_tensorboard_beside_the_run(capsys: Capture, divided: Path, tmp_path: Path) -> None:
    answer = Answer(capsys, "train", divided, *ONE, "--tensorboard", "--out", tmp_path / "run")
    assert answer.status == 0, answer.err
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents.")


# Bad requests


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--set", "mixap=0.2"], "did you mean 'mixup'"),
        (["--set", "patience=-1"], "patience -1 is not between 0 and"),
        (["--set", "mixup=much"], "mixup is 'much', not a number"),
        (["--set", "schedule=cosin"], "schedule is 'cosin', not one of 'cosine', 'one_cycle'"),
        (["--set", "loader=streamd"], "loader is 'streamd', not one of"),
        (["--set", "start_resolution=0.1"], "start_resolution 0.1 is not between 0.25 and 1"),
        (["--set", "accumulate=40"], "accumulate 40 leaves fewer than 2 images"),
        (["--set", "graphs=true", "--device=cpu"], "only CUDA has graphs, cpu has none"),
        (["--set", "precision=fp16", "--device=cpu"], "precision fp16 is for GPUs; cpu trains in"),
        (["--lr=1e9"], "--lr 1000000000.0 is not between 0.0 and 1000.0"),
        (["--lr=0"], "lr 0 trains nothing"),
        (["--batch-size=0"], "--batch-size 0 is not between 2 and"),
        (["--teacher=nowhere"], "teacher 'nowhere': a run directory or published weights"),
        (["--teacher="], "--teacher is empty; give it a value"),
        (["--time=-3s"], "--time '-3s' is not a duration"),
    ],
)
def test_options_that_are_wrong(
    options: list[str], part: str, capsys: Capture, divided: Path, tmp_path: Path
) -> None:
    answer = Answer(capsys, "train", divided, *SMALL, *options, "--out", tmp_path / "run")
    assert part in answer.refused()
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_with_an_unknown_key(
    capsys: Capture, divided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("randaugmnet = 9\n")
    error = Answer(capsys, "train", divided, "--recipe=mine.toml", "--out", "run").refused()
    assert error.endswith("mine.toml: unknown key 'randaugmnet'; did you mean 'randaugment'?")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ((",red,train", ",,train"), "line 66: the label of 'train/red/0.png' is missing"),
        (("train/red/0.png", "../red/0.png"), "line 66: '../red/0.png' is not inside the list's"),
        (("train/red/0.png", "/red/0.png"), "line 66: '/red/0.png' is not inside the list's"),
        ((",red,val", ",rad,val"), "class 'rad' is in val but not in train; did you mean 'red'?"),
        ((",red,train", ",red,trian"), "split 'trian' is not one of train, val, test; did you"),
    ],
)
def test_lists_that_are_wrong(
    change: tuple[str, str], part: str, capsys: Capture, divided: Path, tmp_path: Path
) -> None:
    path = divided / f"{tmp_path.name}.csv"
    path.write_text((divided / "list.csv").read_text().replace(*change, 1))
    error = Answer(capsys, "train", path, *ONE, "--out", tmp_path / "run").refused()
    assert f"{path}: line " in error
    assert part in error
    assert list(tmp_path.iterdir()) == []


def test_a_class_that_is_only_held_out(capsys: Capture, divided: Path, tmp_path: Path) -> None:
    for split, names in (("train", ("red", "green")), ("val", ("red", "green", "blue"))):
        for name in names:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(4):
                file = tmp_path / "set" / split / name / f"{number}.png"
                Image.new("RGB", (16, 16), COLOURS[name]).save(file)
    data = tmp_path / "set"
    error = Answer(capsys, "train", data, *ONE, "--out", tmp_path / "run").refused()
    assert error.endswith("blue: no class of that name in train/")
    assert {path.name for path in tmp_path.iterdir()} == {"set"}
