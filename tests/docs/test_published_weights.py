"""The page "Published weights" is run: its commands, its Python, its table."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from safetensors.torch import save_file

from bench.published_rows import COLUMNS, ROWS, markdown
from mobilette.cli.main import run
from mobilette.formats.download import cached_path
from mobilette.formats.published import find_published
from mobilette.formats.torch.name_tables import tensor_names
from mobilette.formats.torch.names import SOURCES
from mobilette.nn.network import Network
from tests.formats.published_files import images, published

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "published_weights.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
FILES = re.compile(r"(?<= )[\w.]+\.(?:h5|th|pth|tflite)\b")
SETS = ("cifar10-test200", "imagenet_class_index.json")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0][2:60])
def test_each_command_prints_what_the_page_shows(
    block: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    for command, *shown in (text.splitlines() for text in commands):
        program, *arguments = shlex.split(command)
        assert program == "mobilette"
        for file in FILES.findall(command):
            _link(tmp_path / file, published(file))
        for name in SETS:
            if name in arguments:
                _link(tmp_path / name, images(name))
        status = run(arguments)
        refused = any(line.startswith("mobilette: error") for line in shown)
        assert status == (2 if refused else 0)
        caught = capsys.readouterr()
        printed = (caught.err + caught.out).splitlines()
        assert_shown(shown, [line for line in printed if line])


def assert_shown(shown: list[str], printed: list[str]) -> None:
    """Assert that the lines are those printed; ``...`` leaves out the rest of a line or of all."""
    for line, real in zip(shown, printed, strict=False):
        begin = line.removesuffix("...")
        assert real.startswith(begin) if begin != line else real.rstrip() == line
        if line == "...":
            return
    assert not shown or len(shown) == len(printed)


def _link(path: Path, to: Path) -> None:
    if not path.exists():
        path.symlink_to(to)


def test_the_python_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a file that was put into the cache by hand."""
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path))
    weights = find_published("auto", model="mobilenet_v1")
    assert weights.sha256 == "", "a file with a known checksum cannot be made up"
    names = tensor_names(weights.arch(), SOURCES[weights.library])
    tensors = Network(weights.arch()).state_dict()
    path = cached_path(weights)
    path.parent.mkdir()
    save_file({names[name]: tensor for name, tensor in tensors.items()}, path)
    made: dict[str, object] = {}
    exec(PAGE.partition("```python\n")[2].partition("```")[0], made)
    network, narrow = made["network"], made["narrow"]
    assert isinstance(network, Network)
    assert isinstance(narrow, Network)
    classifier = tensors["head.classifier.weight"]
    assert network.state_dict()["head.classifier.weight"].equal(classifier)
    assert narrow.arch.num_classes == 5
    stem = narrow.state_dict()["stem.conv.weight"]
    rows = [row.tolist() for row in tensors["stem.conv.weight"]]
    assert len(stem) < len(rows)
    assert all(row.tolist() in rows for row in stem)


def test_the_table_has_every_row_and_all_are_reached() -> None:
    """That they still are, the cheap ones are asked in tests/formats/test_rows.py."""
    heading, rule = markdown(iter(()))
    lines = PAGE.partition(f"{heading}\n{rule}\n")[2].partition("\n\n")[0].splitlines()
    assert len(lines) == len(ROWS)
    for row, line in zip(ROWS, lines, strict=True):
        cells = dict(zip(COLUMNS, (cell.strip() for cell in line.split("|")[1:-1]), strict=True))
        assert cells["file"] == f"`{row.file}`"
        assert cells["stated"] == row.stated
        assert cells["verdict"] == "reached"
        assert cells["unused"] == "0"
        reached, stated = (
            [float(number) for number in re.findall(r"\d+\.\d+", cells[column])]
            for column in ("reached", "stated")
        )
        for one, other in zip(reached, stated, strict=True):
            assert abs(one - other) <= row.points


# The page's table of formats, in the catalogue's spelling.
NAMED = {
    "torchvision": "mobilenet_v2 mobilenet_v3 mnasnet_b1 squeezenet1 shufflenet_v2 resnet vgg",
    "timm": (
        "mobilenet_v1 mobilenet_v2 mobilenet_v3 mobilenet_v4 mnasnet fbnet_c single_path_nas "
        "efficientnet_lite pp_lcnet ghostnet repvgg_a0 mobileone_s0 resnet"
    ),
    "akamaster": "resnet",
}


@pytest.mark.parametrize("source", NAMED)
def test_the_named_networks_are_those_that_have_names(source: str) -> None:
    begins, tables = NAMED[source].split(), SOURCES[source].tables
    assert all(name.startswith(tuple(begins)) for name in tables)
    assert all(any(name.startswith(begin) for name in tables) for begin in begins)
