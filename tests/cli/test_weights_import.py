"""`mobilette weights import` on real published files, and what its runs are good for."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mobilette
from mobilette.artifact.directory import open_artifact
from mobilette.cli.main import run as run_command
from mobilette.errors import InputError
from mobilette.run.directory import open_run
from mobilette.workflows.resume import resume
from tests.cli.test_cli import assert_refused
from tests.cli.test_cli import mobilette as run_process
from tests.formats.published_files import images, published
from tests.parity.test_named import run_readme

RESNET8 = "resnet8_cifar10_mlperf_tiny_int8.tflite"
VWW = "mobilenet_v1_0.25_96_vww_mlperf_tiny"
KEYS = {"run", "tensors", "unused", "missing"}

AS_VWW = ("--as=mobilenet_v1", "--width-mult=0.25")

Command = Callable[..., tuple[str, str]]
Refused = Callable[..., str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return what runs a command in this process; it must succeed; returns stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[str, str]:
        capsys.readouterr()
        status = run_command([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out, err

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return what runs a command that must be refused: status 2, one line, which it returns."""

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()
        assert run_command([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        return line.removeprefix("mobilette: error: ")

    return run


@pytest.fixture
def resnet8(tmp_path: Path, command: Command) -> Path:
    out = tmp_path / "resnet 8"
    command(
        "weights", "import", published(RESNET8), "--as=resnet8", "--preprocess=raw", "--out", out
    )
    return out


def some_of(folder: Path, out: Path, count: int) -> Path:
    """Copy the first ``count`` images of each class."""
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        (out / kind.name).mkdir(parents=True)
        for image in sorted(kind.iterdir())[:count]:
            shutil.copy(image, out / kind.name)
    return out


# Real files


def test_as_a_process(tmp_path: Path) -> None:
    """What is printed where; everything else is run in this process."""
    out = tmp_path / "a run"
    result = run_process(
        "weights", "import", published(RESNET8), "--as=resnet8", "--preprocess=raw",
        "--out", out, "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "run": str(out),
        "tensors": 20,
        "unused": [],
        "missing": [],
    }
    assert result.stderr.splitlines() == [
        "10 tensors of 8-bit weights are dequantised to float32",
        f"{out}: resnet8 at 32x32, 10 classes, all 20 tensors in place",
        f"next: mobilette evaluate '{out}' DATA",
    ]
    assert_refused(run_process("train", "--resume", out), "was imported, not trained")


@pytest.mark.parametrize(
    ("file", "options", "data", "top1", "by"),
    [
        (RESNET8, ["--as=resnet8", "--preprocess=raw"], "cifar10-test200", 0.865, "order"),
        (
            "resnet8_cifar10_mlperf_tiny.h5",
            ["--as=resnet8", "--preprocess=raw"],
            "cifar10-test200",
            0.855,
            "order",
        ),
        (
            "resnet20_cifar10_akamaster.th",
            ["--as=resnet20", "--preprocess=torch"],
            "cifar10-test200",
            0.9,
            "order",
        ),
        (
            f"{VWW}.h5",
            [*AS_VWW, "--preprocess=unit", "--resize=squash"],
            "vww400",
            0.8525,
            "order",
        ),
        (
            f"{VWW}_float.tflite",
            [*AS_VWW, "--preprocess=unit", "--resize=squash"],
            "vww400",
            0.8525,
            "order",
        ),
    ],
)
def test_the_accuracy_is_the_one_that_others_measured(
    file: str,
    options: list[str],
    data: str,
    top1: float,
    by: str,
    tmp_path: Path,
    command: Command,
) -> None:
    """../shared/weights/README.md has the accuracies, of an independent implementation."""
    out = tmp_path / "run"
    told, _ = command("weights", "import", published(file), *options, "--out", out, "--json")
    answer = json.loads(told)
    assert answer.keys() == KEYS
    assert (answer["run"], answer["missing"]) == (str(out), [])
    assert answer["tensors"] >= len(answer["unused"]) + 20
    told, remarks = command("evaluate", out, images(data), "--workers=0", "--json")
    assert json.loads(told)["top1"] == pytest.approx(top1, abs=0.0051)
    assert f"folders matched with classes by {by}" in remarks


def test_imagenet_with_its_classes(tmp_path: Path, command: Command) -> None:
    index = images("imagenet_class_index.json")
    out = tmp_path / "run"
    file = published("mobilenet_v1_0.25_224_imagenet_keras.h5")
    command(
        "weights", "import", file, "--as=mobilenet_v1", "--width-mult=0.25", "--preprocess=tf",
        "--resize=squash", "--classes", index, "--out", out,
    )  # fmt: skip
    few = some_of(images("imagenette-small") / "val", tmp_path / "few", 4)
    told, remarks = command("evaluate", out, few, "--workers=0", "--json")
    measured = json.loads(told)
    assert "folders matched with classes by synset prefix" in remarks
    assert measured["images"] == 40
    assert measured["top1"] >= 0.35  # 52 % of all 500, against 0.1 % at random
    assert measured["per_class"].keys() == {folder.name[:9] for folder in few.iterdir()}
    told, _ = command("predict", out, sorted(few.rglob("*tench/*"))[0], "--json")
    names = {name for _, name in json.loads(index.read_text()).values()}
    assert json.loads(told)["label"] in names


def test_a_folder_of_tensorflowjs(tmp_path: Path, command: Command) -> None:
    folder = published("mobilenet_v1_0.75_224_imagenet_tfjs")
    told, _ = command(
        "weights", "import", folder, "--as=mobilenet_v1", "--width-mult=0.75", "--preprocess=tf",
        "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert json.loads(told).keys() == KEYS
    assert open_run(tmp_path / "run").arch.resolution == 224


# What an imported run is taken by


def test_an_imported_run_has_no_history_and_predicts(resnet8: Path) -> None:
    assert {path.name for path in resnet8.iterdir()} == {
        "arch.json",
        "best.safetensors",
        "classes.txt",
        "environment.json",
        "preprocess.json",
    }
    assert open_run(resnet8).history() == []
    with pytest.raises(InputError, match=r"was imported, not trained.*train DATA --from"):
        resume(resnet8)
    cats = sorted((images("cifar10-test200") / "cat").iterdir())
    answers = mobilette.load(resnet8).predict(cats)
    assert sum(answer.label == "3" for answer in answers) > len(cats) / 2


def test_it_is_exported_and_verified(resnet8: Path, tmp_path: Path, command: Command) -> None:
    told, remarks = command("export", resnet8, "--to=onnx", "--out", tmp_path / "out")
    artifact = tmp_path / "out" / "onnx"
    assert told == ""
    assert remarks.splitlines()[-1] == f"next: mobilette verify {artifact} DATA"
    measured = open_artifact(artifact).contract.measured
    assert measured is not None
    assert measured.top1 is None
    told, _ = command("verify", artifact, images("cifar10-test200"), "--workers=0", "--json")
    verdict = json.loads(told)
    assert verdict["passed"]
    assert verdict["accuracy_source"] == verdict["accuracy_artifact"] == pytest.approx(0.865)
    assert verdict["images"] == 200
    assert "folders matched with classes by order" in verdict["notes"]


def test_its_state_dict(resnet8: Path, tmp_path: Path, command: Command, refused: Refused) -> None:
    out = tmp_path / "out"
    error = refused("export", resnet8, "--to=state_dict", "--names=timm", "--out", out)
    assert error.startswith("timm has no resnet8; it has mobilenet_v1, ")
    assert not out.exists()
    command("export", resnet8, "--to=state_dict", "--names=mobilette", "--out", out)
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = run_readme(out / "state_dict" / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(network(image), open_run(resnet8).network(image))


def test_training_goes_on_from_it(resnet8: Path, tmp_path: Path, command: Command) -> None:
    few = some_of(images("cifar10-test200"), tmp_path / "few", 8)
    out = tmp_path / "trained"
    told, remarks = command(
        "train", few, "--from", resnet8, "--epochs=1", "--out", out, "--workers=0", "--json"
    )
    assert json.loads(told)["epochs"] == 1
    assert f"starts from {resnet8}" in remarks.replace("\n", "")
    trained = open_run(out)
    assert trained.arch.resolution == 32
    assert trained.preprocess == open_run(resnet8).preprocess
    # Its one epoch is one of the head alone; the batch norms that were folded are back.
    ours, theirs = load_file(out / "best.safetensors"), load_file(resnet8 / "best.safetensors")
    # Restored batch norms leave each channel's weights their direction, not their length.
    one, other = (weights["stem.conv.weight"].flatten(1) for weights in (ours, theirs))
    torch.testing.assert_close(torch.cosine_similarity(one, other), torch.ones(len(one)))
    assert "stem.norm.weight" in ours
    assert "stem.norm.weight" not in theirs
    command("evaluate", out, few, "--workers=0")


# Bad requests


class _Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.witness,)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder in which the test must leave nothing new."""
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    (tmp_path / "existing").mkdir()
    (tmp_path / "existing" / "mine").touch()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    yield tmp_path
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], "'weights import' needs --out: the run directory to write"),
        (["--out=run", "--preprocess=tff"], "'tff' is not one of .*did you mean 'tf'"),
        (["--out=run", "--as=mobilenet_w1"], "did you mean 'mobilenet_v1'"),
        (
            ["--out=run", "--as=resnet8"],
            "stride 2, 3 to 8 channels, but stem.conv is full 3x3, stride 1",
        ),
        (["--out=run", "--width-mult=0.5"], "has width 0.25 .* not 0.5; give --width-mult 0.25$"),
        (["--out=run", "--classes=three.txt"], "2 classes, but 3 are in three.txt$"),
        (["--out=run", "--classes=nowhere.txt"], "nowhere.txt: no such file"),
        (["--out=run", "--resize=squeeze"], "'squeeze' is not one of 'crop', 'squash', 'pad'"),
        (["--out=three.txt/run", "--preprocess=unit"], "cannot be written"),
        (["--out=existing", "--preprocess=unit"], "existing: exists; give another --out, or --f"),
        (
            ["--out=existing", "--preprocess=unit", "--force"],
            "only replaces a folder that contains arch",
        ),
    ],
)
def test_bad_options(options: list[str], error: str, refused: Refused) -> None:
    file = published(f"{VWW}_int8.tflite")
    given = ["--as=mobilenet_v1", "--width-mult=0.25", *options]
    assert re.search(error, refused("weights", "import", file, *given))


@pytest.mark.usefixtures("here")
def test_a_file_that_does_not_say_how_images_are_prepared(refused: Refused) -> None:
    line = refused("weights", "import", published(f"{VWW}.h5"), *AS_VWW, "--out=run")
    assert line.endswith(".h5: does not state how images are prepared; give --preprocess torch, "
                         "tf, caffe, unit or raw")  # fmt: skip


BAD_FILES = {
    "text": (b"some words, long enough to be something", "neither a torch.save nor a safetensors"),
    "empty": (b"", "neither a torch.save nor a safetensors file"),
    "model.json": (b"{}", "model.json: "),
    "broken.json": (b"{", "broken.json: not valid JSON"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(
    name: str, tmp_path_factory: pytest.TempPathFactory, here: Path, refused: Refused
) -> None:
    content, error = BAD_FILES[name]
    file = tmp_path_factory.mktemp("files") / name
    file.write_bytes(content)
    line = refused("weights", "import", file, *AS_VWW, "--preprocess=tf", "--out", here / "run")
    assert line.startswith(str(file))
    assert error in line


@pytest.mark.parametrize("file", [RESNET8, "resnet20_cifar10_akamaster.th", f"{VWW}.h5"])
@pytest.mark.parametrize("part", [0.5, 0.99])
def test_files_that_are_cut_short(
    file: str, part: float, tmp_path_factory: pytest.TempPathFactory, here: Path, refused: Refused
) -> None:
    content = published(file).read_bytes()
    cut = tmp_path_factory.mktemp("files") / file
    cut.write_bytes(content[: int(part * len(content))])
    given = AS_VWW if file.startswith(VWW) else (f"--as={file.partition('_')[0]}",)
    line = refused("weights", "import", cut, *given, "--preprocess=raw", "--out", here / "run")
    assert line.startswith(str(cut))


def test_folders_and_what_is_not_there(tmp_path: Path, refused: Refused) -> None:
    line = refused("weights", "import", tmp_path, *AS_VWW, "--out", tmp_path / "run")
    assert line == f"{tmp_path}: a folder without model.json; a file of weights is expected"
    line = refused("weights", "import", tmp_path / "no", *AS_VWW, "--out", tmp_path / "run")
    assert line == f"{tmp_path / 'no'}: no such file or directory"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["pickle", "torch", "torch, older"])
def test_a_pickle_that_would_run_code(
    how: str, tmp_path_factory: pytest.TempPathFactory, here: Path, refused: Refused
) -> None:
    folder = tmp_path_factory.mktemp("files")
    file, witness = folder / "bomb.pth", folder / "executed"
    content = {"stem.conv.weight": _Hostile(witness)}
    if how == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "torch")
    line = refused("weights", "import", file, *AS_VWW, "--preprocess=tf", "--out", here / "run")
    assert line.startswith(str(file))
    assert not witness.exists()


def test_an_older_run_is_replaced_on_request_and_by_a_good_one_only(
    resnet8: Path, command: Command, refused: Refused
) -> None:
    before = (resnet8 / "best.safetensors").read_bytes()
    given = ["--as=resnet8", "--preprocess=raw", "--out", resnet8]
    assert "exists; give another --out" in refused("weights", "import", published(RESNET8), *given)
    refused("weights", "import", published(f"{VWW}.h5"), *given, "--force")
    assert (resnet8 / "best.safetensors").read_bytes() == before
    command("weights", "import", published("resnet8_cifar10_mlperf_tiny.h5"), *given, "--force")
    assert (resnet8 / "best.safetensors").read_bytes() != before
