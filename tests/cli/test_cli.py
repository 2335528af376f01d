"""The command line as a person uses it: real processes, real files, good and bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from PIL import Image

from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.scale import Settings
from mobilette.artifact.directory import Artifact
from mobilette.cli.main import run
from mobilette.data.cache import images_cache
from mobilette.data.dataset import load_dataset
from mobilette.data.preprocess import preset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.exporters.export import TARGETS, target_packages
from mobilette.nn.network import Network
from mobilette.run.directory import Run
from tests.batch_norm import give_statistics
from tests.conftest import COLOURS, write_images
from tests.models import model_of

Result = subprocess.CompletedProcess[str]
Capture = pytest.CaptureFixture[str]


def mobilette(*arguments: str | Path, cwd: Path | None = None) -> Result:
    command = [sys.executable, "-m", "mobilette", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def in_this_process(capsys: Capture, *arguments: str | Path) -> Result:
    """What `mobilette` returns, without the seconds that a process takes to import torch."""
    status = run([*map(str, arguments)])
    said = capsys.readouterr()
    return Result(arguments, status, said.out, said.err)


def assert_refused(result: Result, *parts: str) -> None:
    """Status 2, nothing on stdout, and one line on stderr that names what is wrong."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("mobilette: error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in errors[0]


SMALL = ("--model=mobilenet_v1", "--width-mult=0.25", "--resolution=16", "--epochs=1")


# What answers at once


@pytest.mark.parametrize("arguments", [["--help"], ["cost", "--help"], ["train", "--help"]])
def test_help(arguments: list[str]) -> None:
    result = mobilette(*arguments)
    assert result.returncode == 0
    assert "Usage: mobilette" in result.stdout


# Each of these takes from a third of a second to seconds to import.
HEAVY = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "onnx", "onnxruntime"}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["cost", "mobilenet_v2", "--json"], ["cost", "mobilenet_v2"], ["models"]],
)
def test_answers_at_once_because_nothing_heavy_is_imported(arguments: list[str]) -> None:
    """What the seconds would be spent on, not the seconds: machines and their load differ."""
    command = [sys.executable, "-X", "importtime", "-m", "mobilette", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "mobilette.cli.main" in imported
    assert not imported & HEAVY


def test_several_values_of_an_option_go_with_commas(capsys: Capture) -> None:
    for more in (["--to", "onnx", "web", "litert"], ["--to=onnx", "web"]):
        assert_refused(in_this_process(capsys, "export", "runs/x", *more), "write --to onnx,web")
    result = in_this_process(capsys, "export", "runs/x", "--to", "onnx", "--int8", "web")
    assert "of several" not in result.stderr


def test_models_as_json_and_as_a_table() -> None:
    rows = json.loads(mobilette("models", "--json").stdout)
    assert [row["name"] for row in rows] == list_models()
    assert all(row.keys() == {"name", "family", "params", "madds", "resolution"} for row in rows)
    table = mobilette("models", "v3").stdout
    assert "mobilenet_v3_large" in table
    assert "mobilenet_v2" not in table
    assert "5,483,032" in table


def test_cost_equals_the_published_numbers(shared: Path) -> None:
    result = mobilette("cost", "mobilenet_v2", "--width-mult=0.5", "--resolution=160", "--json")
    counted = json.loads(result.stdout)
    rows = json.loads((shared / "refs" / "computed.json").read_text())["mobilenet_v2_torchvision"]
    (row,) = (row for row in rows if (row["alpha"], row["res"]) == (0.5, 160))
    assert (counted["params"], counted["madds"]) == (row["params"], row["macs"])
    assert counted.keys() == {
        "name",
        "params",
        "madds",
        "peak_activation_bytes",
        "size_bytes",
        "layers",
    }
    assert sum(layer["madds"] for layer in counted["layers"]) == counted["madds"]


def test_the_cost_table_has_every_convolution_and_the_totals() -> None:
    table = mobilette("cost", "mobilenet_v2").stdout
    assert table.count("conv 3x3") == 18
    assert "rows.1.depthwise" in table
    assert "3,504,872" in table
    assert "300,774,272" in table


def test_cost_compares_several_and_takes_a_run(trained: Run) -> None:
    result = mobilette("cost", "mobilenet_v1", trained.path, "--json")
    first, second = json.loads(result.stdout)
    assert first["name"] == second["name"] == "mobilenet_v1"
    assert second["layers"][-1]["shape"] == [3]
    assert "mobilenet_v3_small" in mobilette("cost", *list_models()).stdout


def test_doctor() -> None:
    found = json.loads(mobilette("doctor", "--json").stdout)
    assert found["versions"]["torch"]
    assert "cpu" in found["devices"]
    assert found["quota"] is None or found["quota"] > 0
    assert set(found["targets"]) == set(TARGETS)
    assert found["targets"]["onnx"]["onnxruntime"] == version("onnxruntime")
    shown = mobilette("doctor").stdout
    assert f"  {'onnx':<16} onnx {version('onnx')}, onnxruntime {version('onnxruntime')}\n" in shown


def test_doctor_examines_a_run(tmp_path: Path, capsys: Capture) -> None:
    arch = get_arch("mobilenet_v1", Settings(width_mult=0.125, resolution=32, num_classes=3))
    network = Network(arch)
    give_statistics(network, torch.randn(8, 3, 32, 32, generator=torch.manual_seed(0)))
    model = model_of(network)
    model.weights["rows.1.depthwise.conv.weight"][2] = 0
    model.save(tmp_path / "run")
    found = json.loads(in_this_process(capsys, "doctor", tmp_path / "run", "--json").stdout)
    assert list(found) == ["run", "channels", "dead", "layers"]
    assert (found["channels"], found["dead"]) == (sum(x["channels"] for x in found["layers"]), 1)
    dead = [each for each in found["layers"] if each["dead"]]
    assert dead == [{"layer": "rows.1.depthwise.conv", "channels": 8, "dead": [2]}]
    shown = in_this_process(capsys, "doctor", tmp_path / "run")
    assert shown.returncode == 0
    assert re.search(r"rows.1.depthwise.conv +8 +1\n", shown.stdout)
    assert "mobilette prune" in shown.stderr


def test_doctor_finds_nothing_dead(tmp_path: Path, capsys: Capture) -> None:
    model_of(get_arch("resnet8", Settings(resolution=32))).save(tmp_path / "run")
    shown = in_this_process(capsys, "doctor", tmp_path / "run")
    assert (shown.returncode, shown.stdout) == (0, "0 depthwise channels, none of them dead\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nothing"], "nothing"), (["nothing", "--clean"], "--clean is for the cache")],
)
def test_doctor_refuses_in_a_line(arguments: list[str], message: str, capsys: Capture) -> None:
    result = in_this_process(capsys, "doctor", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_doctor_says_what_installs_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_ncnn(package: str) -> str:
        if package == "ncnn":
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr("mobilette.exporters.target.version_of", without_ncnn)
    found = target_packages()
    assert found["ncnn"] == "pip install 'mobilette[ncnn]'"
    assert found["coreml"] == {"coremltools": "1.0"}


def test_version() -> None:
    assert mobilette("--version").stdout == f"mobilette {version('mobilette')}\n"


def test_doctor_cleans_up(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path))
    load_dataset(
        find_images(images),
        resolution=16,
        preprocess=preset("torch"),
        reading=Reading(workers=0, cache=images_cache()),
    )
    found = json.loads(mobilette("doctor", "--json").stdout)["pictures"]
    assert found["folder"] == str(tmp_path / "pictures")
    assert found["sets"] == 1
    assert found["bytes"] >= 120 * 3 * 16 * 16
    cleaned = mobilette("doctor", "--clean").stdout
    line = r": 1 set of decoded images removed, [\d,]{5,} bytes\n"
    assert re.fullmatch(re.escape(found["folder"]) + line, cleaned)
    assert {path.name for path in tmp_path.iterdir()} <= {"kernels"}
    assert json.loads(mobilette("doctor", "--clean", "--json").stdout) == {
        "folder": found["folder"],
        "sets": 0,
        "bytes": 0,
    }


# The whole way


def test_train_evaluate_export_verify_predict(images: Path, tmp_path: Path) -> None:
    """In a folder whose name has spaces and Chinese characters, with relative paths."""
    here = tmp_path / "my 文件夹"
    here.mkdir()
    shutil.copytree(images, here / "图片 set")
    options = ("--epochs=12", "--batch-size=16", "--json", "--out=a run")
    result = mobilette("train", "图片 set", *SMALL[:3], *options, cwd=here)
    assert result.returncode == 0, result.stderr
    trained = json.loads(result.stdout)
    keys = {"run", "epochs", "top1", "top5", "loss", "seconds", "images_per_second"}
    more = {"final", "warnings", "answering", "top1_interval", "largest_class", "test"}
    assert trained.keys() == keys | more
    assert (trained["run"], trained["epochs"]) == ("a run", 12)
    assert trained["top1"] > 0.9

    evaluated = json.loads(
        mobilette("evaluate", "a run", "图片 set", "--split=val", "--json", cwd=here).stdout
    )
    assert evaluated["top1"] == pytest.approx(trained["top1"], abs=1e-6)
    assert evaluated["images"] == 24
    assert evaluated.pop("classes_matched_by") == "name"
    assert (evaluated.pop("trained_left_out"), evaluated.pop("includes_trained")) == (0, False)
    assert evaluated.keys() == {"top1", "top5", "loss", "images", "per_class", "confusion"}

    result = mobilette("export", "a run", "--to=onnx", "--out=导出", "--json", cwd=here)
    (artifact,) = json.loads(result.stdout)["artifacts"]
    assert artifact["path"] == str(Path("导出") / "onnx")
    assert (artifact["target"], artifact["precision"]) == ("onnx", "fp32")
    assert artifact["size_bytes"] == (here / artifact["path"] / "model.onnx").stat().st_size

    result = mobilette("verify", artifact["path"], "图片 set", "--json", cwd=here)
    assert result.returncode == 0
    verdict = json.loads(result.stdout)
    assert verdict["passed"]
    assert (verdict["images"], verdict["trained_left_out"]) == (24, 96)
    assert "verify: passed" in mobilette("verify", artifact["path"], "图片 set", cwd=here).stdout

    result = mobilette("predict", artifact["path"], "图片 set/red", "--json", cwd=here)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 40
    assert [line["label"] for line in lines].count("red") > 30
    assert "blue" in mobilette("evaluate", "a run", "图片 set", cwd=here).stdout


def test_the_next_command_is_printed_and_works(images: Path, tmp_path: Path) -> None:
    result = mobilette("train", images, *SMALL, "--out", tmp_path / "a run", cwd=tmp_path)
    line, report = (line for line in result.stderr.splitlines() if line.startswith("next: "))
    assert report.startswith("next: mobilette report ")
    command = line.removeprefix("next: ").replace("mobilette", f"{sys.executable} -m mobilette", 1)
    exported = subprocess.run(
        command, shell=True, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert (tmp_path / "exports" / "a run" / "onnx" / "model.onnx").exists()
    assert "next: mobilette verify 'exports/a run/onnx'" in exported.stderr


def test_runs_without_a_name_get_one_each(images: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert mobilette("train", images, *SMALL, cwd=tmp_path).returncode == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == [f"{images.name}-mobilenet_v1", f"{images.name}-mobilenet_v1-2"]


def test_predict_says_what_it_cannot_read(exported: Artifact, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("RGB", (20, 20), COLOURS["red"]).save(good)
    bad.write_text("no image")
    result = mobilette("predict", exported.path, bad, good, "--json")
    assert result.returncode == 0
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first.keys() == {"path", "error"}
    assert second.keys() == {"path", "label", "probability", "top", "answered", "reason"}
    assert mobilette("predict", exported.path, bad).returncode == 2
    assert mobilette("predict", exported.path, tmp_path / "missing.png").returncode == 2


def test_predict_says_which_files_of_a_folder_are_no_images(
    exported: Artifact, tmp_path: Path, capsys: Capture
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "no_suffix", "JPEG")
    (tmp_path / "page.jpg").write_text("<html>not found")
    (tmp_path / "Thumbs.db").write_text("x")
    for index in range(7):
        (tmp_path / f"{index}.txt").write_text("x")
    result = in_this_process(capsys, "predict", exported.path, tmp_path, "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["good.png", "no_suffix", "page.jpg"]
    assert ["error" in line for line in lines] == [False, False, True]
    assert "7 files are not images: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more" in result.stderr
    assert "Thumbs" not in result.stderr


def test_an_artifact_that_fails_the_gate_is_status_1(
    artifact_copy: Path, trained: Run, images: Path
) -> None:
    from tests.verification.forged_models import forge_model, forget_the_mean

    forge_model(artifact_copy, forget_the_mean)
    result = mobilette("verify", artifact_copy, images, "--from", trained.path)
    assert result.returncode == 1
    assert "verify: FAILED" in result.stdout
    assert "failed: golden vectors" in result.stdout
    verdict = mobilette("verify", artifact_copy, images, "--from", trained.path, "--json")
    assert verdict.returncode == 1
    assert not json.loads(verdict.stdout)["passed"]


# Bad input: one clear line, status 2, nothing left behind


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["cost", "mobilnet_v2"], "did you mean 'mobilenet_v2'"),
        (["cost", "mobilenet_v2", "--width-mult=0"], "--width-mult 0.0 is not between"),
        (["cost", "mobilenet_v2", "--width-mult=-1"], "--width-mult -1.0 is not"),
        (["cost", "mobilenet_v2", "--width-mult=nan"], "--width-mult nan is not"),
        (["cost", "mobilenet_v2", "--resolution=5"], "resolution 5 is not between 16 and"),
        (["cost", "mobilenet_v2", "--resolution=0x160"], "0x160: resolution 0 is not between 16"),
        (["train", "digits", "--resolution=160x"], "'160x' is neither a side, such as 224, nor"),
        (["train", "digits", "--resolution=160x-3"], "nor HEIGHTxWIDTH, such as 160x224, between"),
        (["train", "digits", "--resolution=axb"], "--resolution 'axb' is neither a side"),
        (["cost", "mobilenet_v2", "--resolution=160x224x3"], "'160x224x3' is neither a side"),
        (["cost", "mobilenet_v2", "--resolution=9999999x16"], "9999999 is not between 16 and 4096"),
        (["cost", "mobilenet_v2", "--widht-mult=1"], "--width-mult"),
        (["cots", "mobilenet_v2"], "cost"),
        (["models", "resnet_v9"], "no network matches 'resnet_v9'"),
        (["train"], "DATA"),
        (["train", "digitz"], "did you mean 'digits'"),
        (["train", "digits", "--model=mobilenet"], "no network is called 'mobilenet'"),
        (["train", "digits", "--lr=-1"], "lr -1.0 is not between"),
        (["train", "digits", "--batch-size=0"], "--batch-size 0 is not"),
        (["train", "digits", "--set", "epoch=3"], "did you mean 'epochs'"),
        (["train", "digits", "--time=soon"], "--time 'soon'"),
        (["train", "digits", "--time=3"], "--time '3' has no unit; write 3s, 3m or 3h"),
        (["train", "digits", "--epochs=10000000000000000000000000000000"], "--epochs 1000"),
        (["predict", "a", "b", "--threads=9223372036854775807"], "is not between 1 and 512"),
        (["train", "digits", "--recipe=quik"], "did you mean 'quick'"),
        (["train", "digits", "--device=gpu"], "device 'gpu' is not one of"),
        (["train", "digits", "--preprocess=imagenet"], "preset 'imagenet' is not one of torch"),
        (["train", "digits", "--in-channels=4"], "in_channels 4 is not 1 or 3"),
        (["train", "--resume=nothing"], "not a run directory"),
        (["train", "--resume=nothing", "--width-mult=0.5"], "it takes no width_mult"),
        (["train", "digits", "--time=9s", "--epochs=4"], "give one of them"),
        (["train", "digits", "--resolution=0"], "resolution 0"),
        (["train", "digits", "--batch-size=1"], "--batch-size 1 is not"),
        (["evaluate", "nothing", "digits"], "nothing: does not exist"),
        (["export", "nothing"], "not a run directory"),
        (["verify", "nothing"], "not an artifact"),
    ],
)
def test_requests_that_are_wrong(
    arguments: list[str],
    part: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(in_this_process(capsys, *arguments), part)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_with_a_typo(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("weigth_decay = 0.1\n")
    result = mobilette("train", "digits", "--recipe=mine.toml", cwd=tmp_path)
    assert_refused(result, "mine.toml: unknown key 'weigth_decay'; did you mean 'weight_decay'")


@pytest.mark.parametrize(
    ("classes", "part"),
    [
        ({}, "no class folders"),
        ({"green": 6}, "one class, 'green'"),
        ({"green": 6, "red": 6, "empty": 0}, "empty has no images"),
        ({"green": 6, "red": 1}, "class 'red' has one usable image"),
    ],
)
def test_folders_that_are_no_set(
    classes: dict[str, int], part: str, capsys: Capture, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for name, count in classes.items():
        (root / name).mkdir()
        for index in range(count):
            Image.new("RGB", (20, 20), (index, 0, 0)).save(root / name / f"{index}.png")
    result = in_this_process(capsys, "train", root, *SMALL, "--out", tmp_path / "run")
    assert_refused(result, part)
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


def test_too_many_unusable_images(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", 10)
    for index in range(6):
        (root / "red" / f"text {index}.jpg").write_text("no image")
    result = mobilette("train", root, *SMALL, "--out", tmp_path / "run")
    assert_refused(result, "6 of 36 images cannot be used", "--max-unusable")
    assert {path.name for path in tmp_path.iterdir()} == {"set"}
    allowed = mobilette("train", root, *SMALL, "--max-unusable=0.2", "--out", tmp_path / "run")
    assert allowed.returncode == 0


def test_an_output_directory_that_exists_or_cannot_be(images: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("x")
    result = mobilette("train", images, *SMALL, "--out", tmp_path / "there")
    assert_refused(result, "there: exists", "--force")
    result = mobilette("train", images, *SMALL, "--out", tmp_path / "file" / "run")
    assert_refused(result, "run: cannot be written")
    assert {path.name for path in tmp_path.iterdir()} == {"there", "file"}


def test_half_an_onnx_file(artifact_copy: Path, images: Path, capsys: Capture) -> None:
    model = artifact_copy / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[: len(content) // 2])
    result = in_this_process(capsys, "verify", artifact_copy)
    assert_refused(result, "model.onnx: cut short")
    result = in_this_process(capsys, "predict", artifact_copy, images / "red")
    assert_refused(result, "model.onnx: cut short")


def test_a_folder_of_the_networks_name_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "mobilenet_v2").mkdir()
    assert mobilette("cost", "mobilenet_v2", cwd=tmp_path).returncode == 0


def test_a_run_has_its_own_width(trained: Run, capsys: Capture) -> None:
    result = in_this_process(capsys, "cost", trained.path, "--width-mult=0.5")
    assert_refused(result, "has its own width")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_class_whose_name_is_no_text(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", 6)
    (root / "red").rename(root / os.fsdecode(b"caf\xe9"))
    result = mobilette("train", root, *SMALL, "--out", tmp_path / "run")
    assert_refused(result, "not valid UTF-8")


def test_an_output_that_cannot_show_a_character(exported: Artifact, images: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    for arguments in (["cost", "mobilenet_v2"], ["predict", exported.path, images / "red"]):
        command = [sys.executable, "-m", "mobilette", *map(str, arguments)]
        result = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr


def test_brackets_in_a_path_are_no_markup(images: Path, tmp_path: Path) -> None:
    result = mobilette("train", images, *SMALL, "--out", tmp_path / "a[bold]b[/b]")
    assert result.returncode == 0, result.stderr
    assert "a[bold]b[/b]: mobilenet_v1" in result.stderr


def test_debug_shows_where_an_error_comes_from() -> None:
    result = mobilette("cost", "mobilnet_v2", "--debug")
    assert "Traceback" in result.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.name == "nt" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield disk
    # Lazily: a process that still holds it must not leave it mounted.
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_in_training_and_in_export(
    small_disk: Path, trained: Run, images: Path
) -> None:
    """The state of a run at width 1.0 does not fit; nor does an artifact beside ballast."""
    result = mobilette(
        "train", images, "--resolution=16", "--epochs=1", "--out", small_disk / "run"
    )
    assert_refused(result, "cannot be written (no space left on device)")
    assert list(small_disk.iterdir()) == []
    (small_disk / "ballast").write_bytes(bytes(1_500_000))
    result = mobilette("export", trained.path, "--out", small_disk / "exports")
    assert_refused(result, "cannot be written (no space left on device)")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
