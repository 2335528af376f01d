"""Published weights from a real server on this machine into networks and into training.

The served file has random weights of MobileNet V1 under timm's names; the checksums of timm's files
are unknown, so that it is taken for the real one.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mobilette
from mobilette.arch.scale import Form
from mobilette.cli.main import run as run_command
from mobilette.data.preprocess import preset
from mobilette.errors import InputError
from mobilette.exporters.state_dict import export_state_dict
from mobilette.formats import fetch
from mobilette.formats.download import cached_path
from mobilette.formats.pretrained import create_model
from mobilette.formats.published import find_published
from mobilette.formats.slicing import slice_weights
from mobilette.model.classes import ClassLabel
from mobilette.model.directory import WEIGHTS
from mobilette.nn.network import Network
from mobilette.progress import Reporter
from mobilette.run.directory import Run
from tests.batch_norm import give_statistics
from tests.formats.test_download import Server, serving
from tests.training.runs import train
from tests.training.test_train import Stop, stop_at_once

PUBLISHED = find_published("timm/mobilenetv1_100.ra4_e3600_r224_in1k")
RESOLUTION = 96


@pytest.fixture(scope="module")
def theirs() -> Network:
    """Return the network that is published; every tensor of it is random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(PUBLISHED.arch())
        give_statistics(network, torch.randn(4, 3, RESOLUTION, RESOLUTION))
    return network.eval()


@pytest.fixture(scope="module")
def content(theirs: Network, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("published")
    save_file(theirs.state_dict(), folder / WEIGHTS)
    classes = tuple(ClassLabel(id=str(i), name=str(i)) for i in range(1000))
    run = Run(path=folder, arch=theirs.arch, preprocess=PUBLISHED.preprocess, classes=classes)
    return export_state_dict(run, names="timm", out=folder / "timm").read_bytes()


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOBILETTE_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "BACK_OFF_S", 0.01)


@pytest.fixture
def server(online: None, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as server:
        server.content = content
        monkeypatch.setenv("MOBILETTE_WEIGHTS_MIRROR", server.url)
        yield server


def asked(server: Server) -> list[str]:
    return [path for path, _, _ in server.asked]


def image(channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, RESOLUTION, RESOLUTION, generator=generator)


# create_model


@torch.no_grad()
def test_the_weights_are_the_published_ones(theirs: Network, server: Server) -> None:
    network = create_model("mobilenet_v1", pretrained="timm")
    assert network.arch == theirs.arch
    assert torch.equal(network.eval()(image()), theirs(image()))
    assert asked(server) == [urlsplit(PUBLISHED.url).path]
    for name in (True, "auto", PUBLISHED.name, "timm/ra4_e3600_r224_in1k"):
        again = create_model("mobilenet_v1", pretrained=name)
        assert torch.equal(again.eval()(image()), theirs(image()))
        assert again.preprocess == PUBLISHED.preprocess
    assert create_model("mobilenetv1_100", pretrained=True).arch == theirs.arch
    grey = create_model("mobilenet_v1", pretrained=True, in_channels=1)
    assert grey.preprocess == PUBLISHED.preprocess.with_channels(1)
    assert len(server.asked) == 1
    assert cached_path(PUBLISHED).read_bytes() == server.content


@pytest.mark.parametrize("pretrained", [None, False])
def test_without_weights_images_are_prepared_by_the_usual_preset(pretrained: bool | None) -> None:
    for channels in (1, 3, 4):
        network = create_model("resnet20", in_channels=channels, pretrained=pretrained)
        assert network.preprocess == preset("torch", in_channels=1 if channels == 1 else 3)


def test_without_a_network_it_is_one_line() -> None:
    with pytest.raises(InputError, match="MOBILETTE_OFFLINE") as caught:
        create_model("mobilenet_v2", pretrained=True)
    assert "\n" not in str(caught.value)


def test_other_classes_keep_the_body(theirs: Network, server: Server) -> None:
    network = mobilette.create_model("mobilenet_v1", num_classes=5, pretrained="timm")
    expected = theirs.state_dict()
    assert len(server.asked) == 1
    for name, tensor in network.state_dict().items():
        if name.startswith("head.classifier."):
            assert tensor.shape[0] == 5
        else:
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_a_narrower_network_has_a_part_of_them(
    width: float, theirs: Network, server: Server
) -> None:
    network = create_model("mobilenet_v1", width_mult=width, pretrained="timm")
    assert asked(server) == [urlsplit(PUBLISHED.url).path]
    expected = slice_weights(theirs.arch, theirs.state_dict(), network.arch)
    assert network.state_dict().keys() == expected.keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert len(network.state_dict()["stem.conv.weight"]) == 32 * width


@torch.no_grad()
def test_grey_is_what_three_equal_channels_were(theirs: Network, server: Server) -> None:
    network = create_model("mobilenet_v1", in_channels=1, pretrained="timm").eval()
    expected = theirs(image(1).expand(-1, 3, -1, -1))
    torch.testing.assert_close(network(image(1)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_four_channels(theirs: Network, server: Server) -> None:
    network = create_model("mobilenet_v1", in_channels=4, pretrained="timm").eval()
    first = theirs.state_dict()["stem.conv.weight"]
    expected = 0.75 * torch.cat([first, first[:, :1]], dim=1)
    assert torch.equal(network.state_dict()["stem.conv.weight"], expected)
    assert network(image(4)).isfinite().all()


def test_wider_than_what_is_published(server: Server) -> None:
    with pytest.raises(InputError, match=r"no published weights of width 2.*only of 1, 1\.25"):
        create_model("mobilenet_v1", width_mult=2.0, pretrained="timm")
    assert server.asked == []


# train


def test_training_starts_from_them_by_default(
    server: Server, images: Path, tmp_path: Path, theirs: Network
) -> None:
    remarks: list[str] = []
    run = train(
        images,
        model="mobilenet_v1",
        resolution=RESOLUTION,
        overrides={"epochs": 1, "batch_size": 40},
        out=tmp_path / "run",
        workers=0,
        reporter=Reporter(remark=remarks.append),
    )
    assert recorded_start(run.path) == PUBLISHED.name
    assert any(line.endswith(f"starts from {PUBLISHED.name}") for line in remarks)
    assert run.preprocess == PUBLISHED.preprocess
    # The recipe is the one for transfer: the only epoch trains the head alone.
    assert "frozen_epochs = 1" in (run.path / "recipe.toml").read_text()
    ours, expected = load_file(run.weights_path), theirs.state_dict()
    for name, tensor in ours.items():
        assert torch.equal(tensor, expected[name]) != name.startswith("head.classifier."), name


def test_training_at_another_width_starts_from_a_part_of_them(
    server: Server, images: Path, tmp_path: Path
) -> None:
    run = train(
        images,
        model="mobilenet_v1",
        width_mult=0.25,
        resolution=RESOLUTION,
        start="auto",
        overrides={"epochs": 2, "batch_size": 20},
        out=tmp_path / "run",
        workers=0,
    )
    assert recorded_start(run.path) == PUBLISHED.name
    assert asked(server) == [urlsplit(PUBLISHED.url).path]
    assert all(torch.isfinite(t).all() for t in run.model.weights.values())


@pytest.mark.parametrize(
    ("data", "resolution", "form"),
    [("digits", 16, None), ("digits", 96, None), ("digits", 32, "full"), ("images", 64, None)],
)
def test_digits_and_the_small_form_never_ask(
    data: str,
    resolution: int,
    form: Form | None,
    server: Server,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    remarks: list[str] = []
    with pytest.raises(Stop):  # what training starts from is recorded before the first step
        train(
            request.getfixturevalue(data) if data == "images" else data,
            model="mobilenet_v1",
            width_mult=0.25,
            resolution=resolution,
            form=form,
            overrides={"batch_size": 2},
            out=tmp_path / "run",
            workers=0,
            report=stop_at_once,
            reporter=Reporter(remark=remarks.append),
        )
    assert recorded_start(tmp_path / "run") == "scratch"
    assert server.asked == []
    assert len(remarks) == 2  # about the run, about the machine


def recorded_start(run: Path) -> object:
    start: object = json.loads((run / "environment.json").read_text())["start"]
    return start


# What cannot be had


def shortest(data: Path, out: Path, *options: str) -> list[str]:
    given = [
        *("train", str(data), "--model=mobilenet_v1", "--width-mult=0.25", "--resolution=96"),
        *("--batch-size=48", "--epochs=1", "--workers=0", "--out", str(out)),
    ]
    return [*given, *options]


def test_offline_says_why_it_starts_from_scratch(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MOBILETTE_OFFLINE is set, and the cache is empty, in all tests but those above."""
    assert run_command(shortest(images, tmp_path / "run")) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "from scratch:" in line]
    assert lines == [
        f"starts from scratch: {PUBLISHED.name} is not in the cache and MOBILETTE_OFFLINE is set; "
        f"by hand: save {PUBLISHED.url} as {cached_path(PUBLISHED)}"
    ]
    for name in (PUBLISHED.name, "timm", "timm/ra4_e3600_r224_in1k"):
        assert run_command(shortest(images, tmp_path / "other", f"--from={name}")) == 2
        assert capsys.readouterr().err.splitlines() == [
            f"mobilette: error: {PUBLISHED.name} is not in the cache and MOBILETTE_OFFLINE is set; "
            f"by hand: save {PUBLISHED.url} as {cached_path(PUBLISHED)}"
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(InputError, match="MOBILETTE_OFFLINE is set; by hand: save https"):
        create_model("mobilenet_v1", pretrained="auto")


@pytest.mark.parametrize(
    ("model", "width", "name"),
    [
        ("shufflenet_v2_x0_5", None, "torchvision/shufflenet_v2_x0_5.IMAGENET1K_V1"),
        ("shufflenet_v2", 0.75, "torchvision/shufflenet_v2_x1_0.IMAGENET1K_V1"),
        (None, None, "timm/mobilenetv2_100.ra_in1k"),
        (None, 0.35, "timm/mobilenetv2_050.lamb_in1k"),
    ],
)
def test_which_weights_are_looked_for(
    model: str | None, width: float | None, name: str, images: Path, tmp_path: Path
) -> None:
    remarks: list[str] = []
    with pytest.raises(Stop):
        train(
            images,
            model=model,
            width_mult=width,
            resolution=72,
            overrides={"batch_size": 2},
            out=tmp_path / "run",
            workers=0,
            report=stop_at_once,
            reporter=Reporter(remark=remarks.append),
        )
    assert remarks[0].startswith(f"starts from scratch: {name} is not in the cache")


@pytest.fixture
def silent(online: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return a server to which one can connect, and which then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MOBILETTE_WEIGHTS_MIRROR", address)
        yield server


def connections(server: socket.socket) -> int:
    server.setblocking(False)
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_a_silent_server_is_soon_given_up(
    silent: socket.socket,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fetch.OPTIONAL_S <= 5.0
    monkeypatch.setattr(fetch, "OPTIONAL_S", 0.2)
    assert run_command(shortest(images, tmp_path / "run")) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "from scratch:" in line]
    assert "127.0.0.1 did not answer within 0.2 s; by hand: save https://" in line
    assert connections(silent) == 1


def test_who_needs_them_asks_a_silent_server_again(
    silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "READ_S", 0.1)
    with pytest.raises(InputError, match=r"127\.0\.0\.1 did not answer within 0\.1 s"):
        create_model("mobilenet_v1", pretrained="timm")
    assert connections(silent) == fetch.ATTEMPTS


@pytest.mark.parametrize("what", ["missing", "busy", "cut", "another network", "damaged"])
def test_training_says_what_was_wrong_with_the_download(
    what: str,
    server: Server,
    content: bytes,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if what == "missing":
        server.statuses, reason = [404], "was not found (HTTP status 404)"
    elif what == "busy":
        server.statuses, reason = [503] * 9, "is unavailable (HTTP status 503)"
    elif what == "cut":
        server.cut_after, reason = [0] * 9, "127.0.0.1"
    elif what == "another network":
        server.content, reason = content.replace(b"conv_stem", b"conv_meta"), "conv_stem"
    else:
        server.content, reason = b"\xff" * len(content), "safetensors"
    assert run_command(shortest(images, tmp_path / "run")) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "from scratch:" in line]
    assert reason in line
    assert len(server.asked) == 1
    assert recorded_start(tmp_path / "run") == "scratch"
    left = [path.name for path in (tmp_path / "cache" / "weights").iterdir()]
    suffixes = {Path(name).suffix for name in left} - {".lock"}
    assert suffixes == ({".part", ".tag"} if what == "cut" else set())  # kept for the next call


def test_a_cut_that_came_after_some_bytes_is_resumed(
    server: Server, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cut_after = [5_000_000, 5_000_000]
    assert run_command(shortest(images, tmp_path / "run")) == 0
    assert f"starts from {PUBLISHED.name}" in capsys.readouterr().err
    assert len(server.asked) == 3


def test_a_wrong_file_in_the_cache_is_named(server: Server, content: bytes) -> None:
    cached_path(PUBLISHED).parent.mkdir(parents=True)
    cached_path(PUBLISHED).write_bytes(b"\xff" * len(content))
    with pytest.raises(
        InputError, match="safetensors.*; remove the file to fetch it again$"
    ) as told:
        create_model("mobilenet_v1", pretrained="timm")
    assert str(told.value).startswith(str(cached_path(PUBLISHED)))
    assert cached_path(PUBLISHED).exists()
    assert server.asked == []
