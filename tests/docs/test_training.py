"""The page "Training" is run: its commands, its recipe, its tables."""

from __future__ import annotations

import csv
import io
import re
import shlex
import tarfile
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

from docs.recipe_tables import BEGIN, END, PAGE, tables
from mobilette.cli.main import run
from mobilette.run.directory import open_run
from mobilette.training.recipe import load_recipe
from tests.conftest import write_images

TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    ((?:torchrun .* -m )?mobilette .+)$", TEXT, re.MULTILINE)


def test_the_tables_are_what_their_command_makes() -> None:
    assert BEGIN + TEXT.partition(BEGIN)[2].partition(END)[0] + END == tables()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the page's commands can be run."""
    root = tmp_path_factory.mktemp("page")
    images = write_images(root / "images", 8)
    files = sorted(images.glob("*/*.png"))
    (root / "mine.toml").write_text(TEXT.partition("```toml\n")[2].partition("```")[0])
    for name, column in (("photos.csv", "label"), ("objects.csv", "labels")):
        with (root / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", column])
            for path in files:
                second = ";bright" * (column == "labels" and path.stem < "4")
                writer.writerow([path.relative_to(root).as_posix(), path.parent.name + second])
    (root / "shards").mkdir()
    for split, chosen in (("train", files[1:]), ("val", files[::8])):
        with tarfile.open(root / "shards" / f"{split}-000000.tar", "w") as tar:
            for number, path in enumerate(chosen):
                parts = (("png", path.read_bytes()), ("cls", path.parent.name.encode()))
                for suffix, content in parts:
                    entry = tarfile.TarInfo(f"{number:06}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return root


def test_the_commands_run_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for command in COMMANDS:
        arguments = _shortened(command)
        if command.startswith("torchrun"):
            continue
        status, caught = run(arguments), capsys.readouterr()
        assert status == 0, (command, caught.err)
        if "--profile" in command:
            _check_profile(caught.out)
    assert (folder / "runs" / "watched" / "tensorboard").is_dir()
    assert open_run(folder / "runs" / "objects").multi_label
    assert set(open_run(folder / "runs" / "shards").history()[0]) >= {"top1", "val_loss"}
    assert {path.name for path in (folder / "runs").iterdir()} >= {"list", "mixed", "own", "pupil"}
    written = TEXT.partition("## What a run keeps")[2].partition("##")[0]
    for path in (folder / "runs" / "first").iterdir():
        assert f"`{path.name}`" in written


def test_several_processes_are_launched_with_words_that_torchrun_knows() -> None:
    """That they train together is shown in tests/training."""
    pages = [TEXT, (PAGE.parent / "a_billion_images.md").read_text(encoding="utf-8")]
    commands = [line for page in pages for line in re.findall(r"^    torchrun (.+)$", page, re.M)]
    assert len(commands) == 3
    for command in commands:
        parsed = parse_args(shlex.split(command))  # type: ignore[no-untyped-call]
        assert parsed.module
        assert parsed.training_script == "mobilette"
        assert int(parsed.nproc_per_node) >= 2


def _shortened(command: str) -> list[str]:
    """Return the arguments of ``mobilette``, for a network and a time that suit a test."""
    words = shlex.split(command.partition("mobilette ")[2])
    short = {"--time": "40s", "--epochs": "1", "--width-mult": "0.25"}
    words = [short.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    if words[0] == "train" and "--resume" not in words:
        words += ["--width-mult", "0.25"] * ("--width-mult" not in words)
        words += ["--epochs", "1"] * ("--recipe" in words)
    return words


def _check_profile(printed: str) -> None:
    """Assert that the page shows what is printed, with other numbers."""
    shown = TEXT.partition("```console\n")[2].partition("```")[0]
    parts = re.compile(r"^  (\w+) +[\d,.]+ ms per step +[\d.]+%$|^([\d,]+) steps", re.MULTILINE)
    assert [found[1] for found in parts.finditer(shown)] == [
        found[1] for found in parts.finditer(printed)
    ]
    assert len(parts.findall(shown)) == 6
    for text in (shown, printed):
        assert text.splitlines()[-1].startswith("the bottleneck is ")


def test_the_recipe_of_the_page_is_one(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TEXT.partition("```toml\n")[2].partition("```")[0])
    assert load_recipe(tmp_path / "mine.toml").patience == 5
