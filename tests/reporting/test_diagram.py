"""The image of a network: all of it is there, in its place, and can be read."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import ImageFont

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.editing import merged
from mobilette.arch.layers import layers
from mobilette.arch.primitives import AddLayer, ConcatLayer
from mobilette.arch.rows import Block, Conv, Pool, PoolLinear, Step, StepName
from mobilette.arch.scale import Settings
from mobilette.cli.main import run
from mobilette.counting.cost import cost
from mobilette.errors import InputError
from mobilette.reporting.diagram import diagram, write_diagram
from mobilette.reporting.outline import outline
from mobilette.reporting.svg import text_width

SVG = "{http://www.w3.org/2000/svg}"
# At a page 900 wide this is A4 with its own proportions.
A4_HEIGHT = 900 * 297 / 210
LONG = ("mobilenet_v4_conv_medium", "mobilenet_v4_conv_large", "fbnet_c", "ghostnet")


@dataclass(frozen=True)
class Label:
    text: str
    left: float
    right: float
    top: float
    bottom: float

    def overlaps(self, other: Label) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def label(element: ET.Element) -> Label:
    """The place of a text by its characters: 0.58 of the size each, 0.65 if bold."""
    text = element.text or ""
    size, x, y = (float(element.attrib[key]) for key in ("font-size", "x", "y"))
    width = len(text) * size * (0.65 if "font-weight" in element.attrib else 0.58)
    left = x - width * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor", "start")]
    return Label(text, left, left + width, y - 0.75 * size, y + 0.2 * size)


@cache
def image(arch: Arch) -> ET.Element:
    return ET.fromstring(diagram(arch, width_mult=0.75))


def groups(root: ET.Element, name: str) -> Iterator[ET.Element]:
    return (group for group in root.iter(f"{SVG}g") if group.get("class") == name)


def odd_network() -> Arch:
    """One that no family has: every part of a block at once, long paths, a hostile name."""

    def step(name: StepName, channels: int, kernel: int = 1, groups: int = 1) -> Step:
        conv = Conv(
            channels=channels,
            activation="hard_sigmoid",
            kernel=kernel,
            groups=groups,
            norm="none",
        )
        return Step(name=name, operation=conv)

    everything = Block(
        entry=(step("expand", 65_000),),
        paths=(
            (step("conv1", 32_500, kernel=31), step("conv2", 32_500, kernel=3)),
            (),
        ),
        join="add",
        split=True,
        activation="hard_swish",
        shuffle=10,
    )
    names: tuple[StepName, ...] = ("expand", "depthwise", "project", "squeeze", "compress")
    pool = Step(name="shortcut", operation=Pool(function="average", kernel=3, stride=1))
    long = Block(
        paths=(tuple(step(name, 48, groups=24) for name in names), (pool,), ()),
        join="concat",
        activation="relu",
    )
    return Arch(
        name='<svg onload="x">&\x00\ud800 ' + "name " * 40,
        resolution=4096,
        in_channels=1,
        stem=Conv(channels=48, kernel=3, stride=8, activation="relu"),
        rows=(Pool(function="max", kernel=3, stride=8), long, everything, everything),
        head=PoolLinear(classes=65_536, hidden=(4096,) * 5, activation="hard_swish"),
    )


NETWORKS = [
    pytest.param(get_arch(name, settings), id=f"{name}-{settings.width_mult}")
    for name in list_models()
    for settings in (Settings(), Settings(width_mult=0.3, resolution=32, in_channels=1))
]
NETWORKS += [
    pytest.param(get_arch(name, Settings(width_mult=4, resolution=1024)), id=f"{name}-4")
    for name in ("mobilenet_v3_large", "shufflenet_v1_g8", "resnet101", "squeezenet1_0")
]
WITH_ODD = [*NETWORKS, pytest.param(odd_network(), id="odd")]
every_network = pytest.mark.parametrize("arch", WITH_ODD)


@every_network
def test_text_is_on_the_page_legible_and_not_on_other_text(arch: Arch) -> None:
    root = image(arch)
    *_, width, height = map(float, root.attrib["viewBox"].split())
    assert (float(root.attrib["width"]), float(root.attrib["height"])) == (width, height)
    texts = list(root.iter(f"{SVG}text"))
    assert min(float(text.attrib["font-size"]) for text in texts) * 900 / width >= 9 or (
        "onload" in arch.name
    )
    labels = [label(text) for text in texts]
    for one in labels:
        assert one.text
        assert one.left >= 0, one
        assert one.right <= width, one
        assert one.top >= 0, one
        assert one.bottom <= height, one
    for one, other in itertools.combinations(labels, 2):
        assert not one.overlaps(other), (one, other)


@pytest.mark.parametrize("arch", NETWORKS)
def test_every_network_of_the_catalogue_fits_a_page(arch: Arch) -> None:
    root = image(arch)
    assert float(root.attrib["width"]) == 900
    # Searched tables have few equal rows: two of them take up to a page and a half.
    pages = 1.5 if arch.name.startswith(LONG) else 1
    assert float(root.attrib["height"]) <= pages * A4_HEIGHT


@every_network
def test_boxes_do_not_touch_and_hold_their_text(arch: Arch) -> None:
    root = image(arch)
    boxes = []
    for group in groups(root, "box"):
        frame = group.find(f"{SVG}rect")
        assert frame is not None
        x, y, width, height = (float(frame.attrib[key]) for key in ("x", "y", "width", "height"))
        boxes.append(Label(group.attrib["data-layer"], x - 4, x + width + 4, y - 3, y + height + 3))
        font = ImageFont.load_default(100)
        for text in group.iter(f"{SVG}text"):
            size, content = float(text.attrib["font-size"]), text.text or ""
            assert font.getlength(content) * size / 100 <= width - 4, content
            place = label(text)
            assert y < place.top < place.bottom < y + height
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other), (one, other)


@every_network
def test_every_row_is_drawn_once_or_stands_for_its_repetitions(arch: Arch) -> None:
    numbers: list[int] = []
    for line in groups(image(arch), "line"):
        if line.attrib["data-rows"] == "head":
            continue
        first, last = map(int, line.attrib["data-rows"].split(".."))
        numbers += range(first, last + 1)
        repeat = int(line.attrib["data-repeat"])
        if repeat > 1:
            assert last - first + 1 == repeat
            assert len(set(arch.rows[first : last + 1])) == 1
            assert f"× {repeat}" in {text.text for text in line.iter(f"{SVG}text")}
    assert numbers == list(range(-1, len(arch.rows)))


@every_network
def test_boxes_and_stages_have_all_parameters_and_mult_adds(arch: Arch) -> None:
    """No operation is left out or drawn twice: the sums are those of the layer graph."""
    stages, counted = outline(arch), cost(arch)
    drawn = [(line.repeat, box) for stage in stages for line in stage.lines for box in line.boxes()]
    assert sum(repeat * box.params for repeat, box in drawn) == counted.params
    assert sum(repeat * box.madds for repeat, box in drawn) == counted.madds
    assert sum(stage.params for stage in stages) == counted.params
    assert sum(stage.madds for stage in stages) == counted.madds
    in_image = [group.attrib["data-layer"] for group in groups(image(arch), "box")]
    assert sorted(in_image) == sorted(box.layer for _, box in drawn)
    assert len(set(in_image)) == len(in_image) == len(drawn)


@every_network
def test_joins_and_bypasses_are_those_of_the_layer_graph(arch: Arch) -> None:
    root = image(arch)
    graph = layers(merged(arch))  # branches are one box, as is a ghost module
    joins, bypasses = Counter[str](), Counter[str]()
    for count, name in ((joins, "join"), (bypasses, "bypass")):
        for group in groups(root, name):
            count[group.attrib["data-join"]] += int(group.attrib["data-repeat"])
    adds = [layer for layer in graph if isinstance(layer, AddLayer)]
    concats = [x for x in graph if isinstance(x, ConcatLayer) and ".ghost" not in x.name]
    assert joins == Counter({"add": len(adds), "concat": len(concats)})

    def unchanged(layer: AddLayer | ConcatLayer) -> int:
        """How many inputs come from outside the row, or are a part of its split."""
        row = layer.name.rpartition(".")[0] + "."
        return sum(not name.startswith(row) or ".split." in name for name in layer.inputs)

    assert bypasses["add"] == sum(map(unchanged, adds))
    assert bypasses["concat"] == sum(map(unchanged, concats))


def texts(arch: Arch) -> list[str]:
    return [text.text or "" for text in ET.fromstring(diagram(arch)).iter(f"{SVG}text")]


def test_mobilenet_v2_is_its_paper_table() -> None:
    """Sandler et al. 2018, Table 2: sizes, expansion, and three rows of 64 after the first."""
    stages = outline(get_arch("mobilenet_v2"))
    assert [(stage.size, stage.stride) for stage in stages[:-1]] == [
        (112, 2),
        (56, 4),
        (28, 8),
        (14, 16),
        (7, 32),
    ]
    fourth = stages[3].lines
    assert [(line.repeat, line.ratio, line.out_channels) for line in fourth] == [
        (1, 6.0, 64),
        (3, 6.0, 64),
        (1, 6.0, 96),
        (2, 6.0, 96),
    ]
    written = texts(get_arch("mobilenet_v2"))
    assert {"t = 6", "× 3", "1×1 → 384", "3×3 /2 → 192", "3,504,872", "300.77 M"} <= set(written)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("resnet50", (3, 4, 6, 3)), ("resnet152", (3, 8, 36, 3)), ("shufflenet_v2", (4, 8, 4))],
)
def test_repeated_blocks_are_drawn_once(name: str, blocks: tuple[int, ...]) -> None:
    """The tables of He et al. 2016 and Ma et al. 2018: one block that changes the shape a stage."""
    repeats = [line.repeat for stage in outline(get_arch(name)) for line in stage.lines]
    assert [repeat for repeat in repeats if repeat > 1] == [number - 1 for number in blocks]


def test_only_a_bottleneck_has_an_expansion_ratio() -> None:
    ratios = {
        name: {line.ratio for stage in outline(get_arch(name)) for line in stage.lines}
        for name in ("resnet50", "shufflenet_v1_g3", "shufflenet_v2", "mobilenet_v1")
    }
    assert set().union(*ratios.values()) == {1.0}
    large = outline(get_arch("mobilenet_v3_large"))
    assert {2.5, 2.3, 3.0, 4.0, 6.0} <= {line.ratio for stage in large for line in stage.lines}


def test_batch_norm_is_told_apart() -> None:
    assert "no batch norm" in texts(get_arch("vgg16"))
    assert "batch norm after every convolution" in texts(get_arch("vgg16_bn"))
    assert "batch norm after 7 of 9 convolutions" in texts(get_arch("resnet8"))


def test_the_legend_has_what_occurs_and_no_more() -> None:
    v1, shuffle = texts(get_arch("mobilenet_v1")), texts(get_arch("shufflenet_v2"))
    assert not {"grouped", "squeeze-excite", "concatenate", "add"} & set(v1)
    assert {"concatenate", "split the channels in two", "depthwise", "shuffle"} <= set(shuffle)


def test_estimated_widths_are_enough_for_a_real_font() -> None:
    font = ImageFont.load_default(100)
    for text in {text for name in list_models() for text in texts(get_arch(name))}:
        plain = text.replace("→", "->")  # the font has no arrow
        assert font.getlength(plain) <= text_width(plain, 100), text


def test_same_network_same_bytes(tmp_path: Path) -> None:
    arch = get_arch("shufflenet_v2")
    write_diagram(arch, tmp_path / "a.svg")
    code = (
        "import sys; from pathlib import Path; from mobilette.arch.catalogue import get_arch; "
        "from mobilette.reporting.diagram import write_diagram; "
        f"write_diagram(get_arch('shufflenet_v2'), Path({str(tmp_path / 'b.svg')!r})); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert diagram(arch) != diagram(arch.with_classes(10))


def test_a_width_that_nobody_gave_is_not_written() -> None:
    arch = get_arch("resnet8")
    assert "width" not in texts(arch)
    assert ">width<" in diagram(arch, width_mult=0.5)


def test_rows_that_do_not_fit_are_refused() -> None:
    arch = get_arch("mobilenet_v2")
    with pytest.raises(InputError, match=r"rows\.3: a 31x31 window"):
        diagram(
            replace(arch, rows=(Pool(function="max", kernel=31, stride=1, padding="valid"),) * 9)
        )


# The command line


def test_cost_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "网络 & net.svg"
    options = ["--width-mult", "0.5", "--num-classes", "10"]
    assert run(["cost", "mobilenet_v2", *options, "--diagram", str(file)]) == 0
    settings = Settings(width_mult=0.5, num_classes=10)
    expected = diagram(get_arch("mobilenet_v2", settings), width_mult=0.5)
    assert file.read_text(encoding="utf-8") == expected
    assert "parameters" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["resnet18", "resnet50", "--diagram", "a.svg"], ["--diagram", "2 are given"]),
        (["resnet18", "--diagram", "a.png"], ["a.png", ".svg"]),
        (["resnet18", "--diagram", "svg"], ["svg", ".svg"]),
        (["resnet18", "--diagram", "missing/a.svg"], ["missing", "cannot be written"]),
        (["resnet18", "--diagram", "folder.svg"], ["folder.svg", "cannot be written"]),
    ],
)
def test_a_diagram_that_cannot_be(
    arguments: list[str],
    parts: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.svg").mkdir()
    assert run(["cost", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mobilette: error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]
