"""The page "A billion images" is what its script reckons, and the script reckons rightly."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.core import TyperGroup
from typer.main import get_command

from bench.a_billion_images import digest_bytes, index_bytes, write_shards
from docs import a_billion_images as arithmetic
from mobilette.arch.catalogue import get_arch
from mobilette.cli.main import app
from mobilette.data.decoding import MARGIN
from mobilette.nn.network import build_empty
from mobilette.training.sampling import WINDOW
from tests.docs.commands import ROOT, examples, printed_by

PAGE = (ROOT / "docs" / "a_billion_images.md").read_text(encoding="utf-8")
EXAMPLES = examples(PAGE)
# Versions; the largest of our sets.
ELSEWHERE = {"3.11", "13.0", "3.2", "60,000"}


@pytest.mark.parametrize(("command", "printed"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_each_command_prints_what_the_page_shows(
    command: str,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert printed_by(command, monkeypatch, capsys) == printed


def test_the_page_shows_every_table() -> None:
    tables = [command.split()[-1] for command, _ in EXAMPLES]
    assert tables == ["assumptions", "networks", "demand", "first", "disk", "index"]


def test_every_number_of_the_text_was_printed_by_a_command() -> None:
    prose = re.sub(r"```.*?```|arXiv [\d.]+|section [\d.]+", "", PAGE, flags=re.DOTALL)
    number = re.compile(r"\d+(?:,\d{3})+|\d+\.\d+")
    printed = {text for _, output in EXAMPLES for text in number.findall(output)}
    faster = {
        f"{stored.rate.value / exact.value:.1f}"
        for stored, exact in (
            (arithmetic.LARGE, arithmetic.LARGE_EXACT),
            (arithmetic.PHONE, arithmetic.PHONE_EXACT),
        )
    }
    assert faster == {"1.7", "2.9"}
    assert set(number.findall(prose)) - printed - faster - ELSEWHERE == set()


def test_what_the_text_says_in_words_is_in_the_tables() -> None:
    small = [arithmetic.limits(name, arithmetic.SMALL) for name in arithmetic.NETWORKS]
    firsts = [min(limits, key=lambda part: limits[part]) for limits in small]
    assert firsts == ["GPUs", "cores", "GPUs"]
    assert round(small[0]["storage"] / small[0]["GPUs"]) == 20
    assert arithmetic.CORES.value / arithmetic.PROCESSES == 16
    for stored, part in ((arithmetic.LARGE, 15), (arithmetic.PHONE, 88)):
        assert round(stored.size.value / arithmetic.SMALL.size.value) == part
    assert MARGIN * 2 * arithmetic.RESOLUTION == 896
    assert WINDOW == 16
    for number in ("270 million", "142 million"):
        assert number in arithmetic.index()


@pytest.mark.parametrize("name", arithmetic.NETWORKS)
def test_activations_are_what_the_convolutions_of_the_network_put_out(name: str) -> None:
    counted = 0

    def count(module: torch.nn.Module, given: object, output: torch.Tensor) -> None:
        nonlocal counted
        counted += output.numel()

    network = build_empty(get_arch(name)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    network(torch.empty(1, 3, 224, 224, device="meta"))
    assert counted == arithmetic.activations(name)


@pytest.mark.parametrize("gpus", [2, 8, 64])
def test_a_ring_sends_what_the_formula_says(gpus: int) -> None:
    """Every process has n parts; in each round it sends one: first to add up, then to share."""
    part = 4 * sum(p.numel() for p in build_empty(get_arch("mobilenet_v2")).parameters()) / gpus
    sums = [[{process} for _ in range(gpus)] for process in range(gpus)]
    sent = 0.0
    for turn in range(2 * (gpus - 1)):
        given = [set(sums[process][(process - turn) % gpus]) for process in range(gpus)]
        for process in range(gpus):
            sums[(process + 1) % gpus][(process - turn) % gpus] |= given[process]
        sent += part
    assert all(part == set(range(gpus)) for parts in sums for part in parts)
    assert sent == pytest.approx(arithmetic.exchanged("mobilenet_v2", gpus))


def test_a_image_takes_the_memory_that_was_measured(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    shards = write_shards(tmp_path, [file.getvalue()], images=2000)
    held, most = index_bytes(shards)
    assert held == pytest.approx(arithmetic.HELD.value, rel=0.2)
    assert most == pytest.approx(arithmetic.MOST.value, rel=0.25)
    assert digest_bytes(shards, decoded=500) == pytest.approx(arithmetic.DIGEST.value, rel=0.25)


def test_the_commands_have_options_that_there_are() -> None:
    commands = re.findall(r"^    (?:torchrun .* -m )?mobilette (.+)$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    known = {option for each in options_of("train") for option in each}
    for command in commands:
        verb, *words = shlex.split(command)
        assert verb == "train"
        assert {word for word in words if word.startswith("--")} <= known


def options_of(verb: str) -> list[list[str]]:
    """Return the spellings of each option of a verb."""
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    return [parameter.opts for parameter in program.commands[verb].params]
