"""``mobilette predict`` on videos, written by PyAV, and on a camera."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from mobilette.artifact.directory import Artifact
from mobilette.data import video
from mobilette.data.formats import UnusableImage
from mobilette.data.video import camera_frames, is_video, video_frames
from mobilette.errors import InputError
from tests.cli.test_cli import Capture, assert_refused, in_this_process
from tests.conftest import COLOURS

av = pytest.importorskip("av")
CODECS = {
    "a.mp4": "libx264",
    "a.mov": "mpeg4",
    "a.mkv": "mpeg4",
    "a.webm": "libvpx-vp9",
    "a.avi": "mpeg4",
    "a.ts": "mpeg2video",
}
FRAMES, RATE = 10, 5


def write_video(path: Path, codec: str = "libx264") -> Path:
    """Write two seconds of 64x48 pixels, red at first and then blue, a green bar at the left."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            pixels = np.empty((48, 64, 3), np.uint8)
            pixels[:] = COLOURS["red" if number < FRAMES // 2 else "blue"]
            pixels[:, :8] = COLOURS["green"]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_video(tmp_path / "clip.mp4")


def colour_of(pixels: np.ndarray) -> str:
    distance = {name: np.abs(pixels.astype(int) - rgb).max() for name, rgb in COLOURS.items()}
    return min(distance, key=lambda name: distance[name])


@pytest.mark.parametrize("name", CODECS)
def test_frames_and_their_times(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, CODECS[name])
    assert is_video(path)
    frames = list(video_frames(path))
    assert [frame.seconds for frame in frames] == pytest.approx(np.arange(10) / RATE, abs=2e-3)
    assert [colour_of(frame.pixels[24, 40]) for frame in frames] == ["red"] * 5 + ["blue"] * 5
    assert {frame.pixels.shape for frame in frames} == {(48, 64, 3)}
    some = [frame.seconds for frame in video_frames(path, every=0.8)]
    assert some == pytest.approx([0.0, 0.8, 1.6], abs=2e-3)


def test_a_phone_held_upright(clip: Path) -> None:
    """Its matrix turns what is at the left to the top (ISO 14496-12, 8.3.2: tkhd)."""
    whole, turned = (
        struct.pack(">9i", *rows)
        for rows in (
            (65536, 0, 0, 0, 65536, 0, 0, 0, 2**30),
            (0, 65536, 0, -65536, 0, 0, 0, 0, 2**30),
        )
    )
    content = clip.read_bytes()
    at = content.index(whole, content.index(b"tkhd"))
    clip.write_bytes(content[:at] + turned + content[at + 36 :])
    frame = next(video_frames(clip))
    assert frame.pixels.shape == (64, 48, 3)
    assert colour_of(frame.pixels[3, 24]) == "green"
    assert colour_of(frame.pixels[40, 24]) == "red"


def test_what_is_a_video(clip: Path, tmp_path: Path) -> None:
    content = clip.read_bytes()
    for name, expected in (("a", True), ("a.bin", True), ("a.jpg", False)):
        (tmp_path / name).write_bytes(content)
        assert is_video(tmp_path / name) is expected
    (tmp_path / "image.mp4").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "notes.txt").write_text("none")
    for name in ("image.mp4", "notes.txt", "none.mp4", ""):
        assert not is_video(tmp_path / name)


def test_what_is_no_video(clip: Path, tmp_path: Path) -> None:
    """Above all a playlist, which would have other files opened, and addresses."""
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    for name, content in (
        ("list.m3u8", playlist.encode()),
        ("list.mp4", playlist.encode()),
        ("concat.mp4", f"ffconcat version 1.0\nfile {clip}\n".encode()),
        ("empty.mp4", b""),
        ("half.mp4", clip.read_bytes()[:500]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnusableImage, match="cannot be decoded as a video"):
            list(video_frames(tmp_path / name))


def test_too_many_pixels(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 47)
    with pytest.raises(UnusableImage):
        list(video_frames(clip))


def test_predict(exported: Artifact, clip: Path, capsys: Capture) -> None:
    result = in_this_process(capsys, "predict", exported.path, clip.name, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["seconds"] for line in lines] == [number / RATE for number in range(FRAMES)]
    assert {line["path"] for line in lines} == {"clip.mp4"}
    assert [line["label"] for line in lines] == ["red"] * 5 + ["blue"] * 5
    said = in_this_process(capsys, "predict", exported.path, clip.name, "--every=1")
    first, second = said.stdout.splitlines()
    assert first.startswith("clip.mp4 at 0.00 s: red ")
    assert second.startswith("clip.mp4 at 1.00 s: blue ")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_stopped_job_goes_on(
    suffix: str, exported: Artifact, clip: Path, capsys: Capture
) -> None:
    out = Path(f"out{suffix}")
    asked = ["predict", str(exported.path), clip.name, "--out", str(out)]
    in_this_process(capsys, *asked)
    whole = out.read_bytes()
    assert whole.count(b"clip.mp4") == FRAMES
    out.write_bytes(whole[: len(whole) // 2])
    in_this_process(capsys, *asked, "--resume")
    assert out.read_bytes() == whole


def test_a_video_that_ends_early(
    exported: Artifact, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write_video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(good.read_bytes()[:500])
    files = [tmp_path / "b.mp4", good]
    result = in_this_process(capsys, "predict", exported.path, *files, "--every=1")
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.startswith(f"{files[0]}: cannot be decoded as a video (")
    alone = in_this_process(capsys, "predict", exported.path, files[0])
    assert alone.returncode == 2
    monkeypatch.setitem(sys.modules, "av", None)
    result = in_this_process(capsys, "predict", exported.path, good)
    assert result.returncode == 2
    assert "a video: av is missing; install it with pip install 'mobilette[video]'" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="cameras have names there")
def test_a_camera(exported: Artifact, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator of test images in place of the device: no camera is here."""
    source = "color=c=0xC83228:size=64x48:rate=5:duration=2"
    monkeypatch.setattr(
        video, "_CAMERAS", dict.fromkeys((sys.platform, "linux"), ("lavfi", source))
    )
    result = in_this_process(capsys, "predict", exported.path, "--camera=0", "--every=1", "--json")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["path"], line["label"]) for line in lines] == [("camera 0", "red")] * 2
    assert [line["seconds"] for line in lines] == [0.0, 1.0]


def test_no_camera(exported: Artifact, clip: Path, capsys: Capture) -> None:
    with pytest.raises(InputError, match=r"^--camera 77: cannot be decoded as a video \("):
        next(camera_frames(77))
    for arguments, message in (
        (["--camera=77"], "--camera 77: "),
        ([], "give images, or --camera 0 to watch a camera"),
        (["clip.mp4", "--camera=0"], "and not both"),
        (["none.png", "--every=1"], "--every is for videos and --camera"),
    ):
        assert_refused(in_this_process(capsys, "predict", exported.path, *arguments), message)
