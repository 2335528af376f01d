"""The page "Why these blocks" is run: its commands, its numbers, its figures."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from torch import nn

from docs.blocks.figures import FIGURES, FOLDER
from docs.blocks.recounted import with_expansion
from docs.blocks.style import write
from mobilette.arch.catalogue import get_arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, ScaleLayer
from mobilette.cli.main import run
from mobilette.counting.cost import cost
from mobilette.formats.importing import import_weights
from tests.docs.commands import ROOT, examples, printed_by

PAGE = (ROOT / "docs" / "why_these_blocks.md").read_text(encoding="utf-8")
COMMANDS = examples(PAGE)
EXAMPLES = [(command, printed) for command, printed in COMMANDS if command.startswith("python ")]
# Runs of the collection's weights that the page examines
EXAMINED = {
    "v1_075": ("mobilenet_v1_0.75_224_imagenet_tfjs", 0.75, "tf"),
    "people": ("mobilenet_v1_0.25_96_vww_mlperf_tiny.h5", 0.25, "unit"),
}
# Factor, channels and count of the blocks (V2 paper, Table 2)
V2_TABLE = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
# The draws of the spiral, the classes of ImageNet, the features before two classifiers.
ELSEWHERE = {"1,000", "1,024", "1,280"}


@pytest.mark.parametrize(("command", "printed"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_each_command_prints_what_the_page_shows(
    command: str,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert printed_by(command, monkeypatch, capsys) == printed


def test_a_command_runs_as_a_process_of_its_own() -> None:
    command, printed = EXAMPLES[0]
    result = subprocess.run(
        [sys.executable, *command.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == printed


def test_every_number_of_the_text_was_printed_by_a_command() -> None:
    prose = re.sub(r"```.*?```|arXiv [\d.]+", "", PAGE, flags=re.DOTALL)
    number = re.compile(r"\d+(?:,\d{3})+|\d+\.\d+")
    written = set(number.findall(prose)) - ELSEWHERE
    printed = {text for _, output in COMMANDS for text in number.findall(output)}
    assert written - printed == set()
    assert len(written) > 5


@pytest.mark.parametrize("name", EXAMINED)
def test_the_page_shows_what_doctor_says(
    name: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, width_mult, preprocess = EXAMINED[name]
    model = import_weights(
        shared / "weights" / file,
        model="mobilenet_v1",
        width_mult=width_mult,
        preprocess=preprocess,
    )
    model.save(tmp_path / name)
    assert run(["doctor", str(tmp_path / name)]) == 0
    assert capsys.readouterr().out == dict(COMMANDS)[f"mobilette doctor runs/{name}"]


def test_every_command_is_run() -> None:
    doctor = {f"mobilette doctor runs/{name}" for name in EXAMINED}
    assert {command for command, _ in COMMANDS} - {command for command, _ in EXAMPLES} == doctor


def test_a_network_of_v2s_blocks_throughout_has_as_many_parameters() -> None:
    """torch's own layers, as tutorials write them, count what the page's network does."""

    def block(inputs: int, out: int, factor: int) -> list[nn.Module]:
        wide = factor * inputs
        convs = [
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.Conv2d(wide, wide, 3, groups=wide, bias=False),
            nn.Conv2d(wide, out, 1, bias=False),
        ]
        return [*convs, *(nn.BatchNorm2d(conv.out_channels) for conv in convs)]

    modules: list[nn.Module] = [nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32)]
    inputs = 32
    for factor, out, count in V2_TABLE:
        for _ in range(count):
            modules += block(inputs, out, factor)
            inputs = out
    modules += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.Linear(1280, 1000)]
    parameters = sum(weight.numel() for module in modules for weight in module.parameters())
    assert parameters == cost(with_expansion()).params == 3_505_960


def test_the_counts_that_the_text_gives_in_words() -> None:
    graph = layers(get_arch("mobilenet_v3_large"))
    small = layers(get_arch("mobilenet_v3_small"))
    assert sum(isinstance(layer, ConvLayer) and layer.kernel == 5 for layer in graph) == 6
    assert sum(isinstance(layer, ScaleLayer) for layer in graph) == 8
    assert sum(isinstance(layer, ScaleLayer) for layer in small) == 9


def test_the_page_shows_every_figure() -> None:
    shown = re.findall(r"\(figures/(\w+)\.svg\)", PAGE)
    assert sorted(shown) == sorted(FIGURES)
    assert sorted(path.stem for path in FOLDER.glob("*.svg")) == sorted(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_what_its_code_draws(name: str, tmp_path: Path) -> None:
    write(FIGURES[name], tmp_path / f"{name}.svg")
    drawn = _parts((tmp_path / f"{name}.svg").read_text(encoding="utf-8"))
    committed = _parts((FOLDER / f"{name}.svg").read_text(encoding="utf-8"))
    assert drawn.structure == committed.structure
    # Other processors round otherwise; a hundredth of a point cannot be seen.
    np.testing.assert_allclose(drawn.numbers, committed.numbers, atol=0.01)
    assert len(drawn.images) == len(committed.images)
    for one, other in zip(drawn.images, committed.images, strict=True):
        np.testing.assert_array_equal(one, other)


class _parts:
    """An SVG taken apart: its text without numbers and images, the numbers, the images."""

    def __init__(self, svg: str) -> None:
        image = re.compile(r"data:image/png;base64,([^\"]+)")
        self.images: list[npt.NDArray[np.uint8]] = [
            np.asarray(Image.open(io.BytesIO(b64decode(data)))) for data in image.findall(svg)
        ]
        # Names of shapes and of clipping paths are hashes of their coordinates.
        rest = re.sub(
            r"\b[mpCi][0-9a-f]{10,}\b|<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL
        )
        number = re.compile(r"(?<![\w#])-?\d+(?:\.\d+)?(?:e-?\d+)?")
        rest = image.sub("", rest)
        self.numbers = np.array([float(text) for text in number.findall(rest)])
        self.structure = number.sub("0", rest)
