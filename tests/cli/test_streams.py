"""Standard streams that are closed, full, or read by nobody any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mobilette.run.directory import Run, open_run
from mobilette.training.state import read_state

MOBILETTE = [sys.executable, "-c", "from mobilette.cli.main import main; main()"]
posix_only = pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in a shell, "mobilette" being ours; the status of the first in a pipe."""
    words = " ".join(f"'{word}'" for word in MOBILETTE)
    script = f'mobilette() {{ {words} "$@"; }}\n{command}'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)


@posix_only
@pytest.mark.parametrize(
    ("command", "status", "out", "err"),
    [
        ("{ mobilette models; echo $? >&2; } | true", 0, "", "141\n"),
        ("{ mobilette cost vgg19 --json; echo $? >&2; } | true", 0, "", "141\n"),
        ("mobilette models resnet8 >/dev/full", 2, "", "mobilette: error: "),
        ("mobilette models resnet8 >&-", 0, "", ""),
        ("mobilette models resnet8 --json <&- 2>&-", 0, '[{"name"', ""),
        ("mobilette models nothing 2>&-", 2, "", ""),
        ("mobilette models nothing 2>/dev/full", 2, "", ""),
        ("LANG=C LC_ALL=C PYTHONUTF8=0 mobilette cost resnet8", 0, "", ""),
    ],
)
def test_a_stream_that_is_closed_ends_in_no_traceback(
    command: str, status: int, out: str, err: str
) -> None:
    done = shell(command)
    assert done.returncode == status, done.stderr
    assert done.stdout.startswith(out)
    assert done.stderr.startswith(err)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@posix_only
@pytest.mark.parametrize("number", ["SIGHUP", "SIGTERM"])
def test_an_export_that_is_ended_leaves_nothing(number: str, trained: Run, tmp_path: Path) -> None:
    arguments = ["export", str(trained.path), "--out", str(tmp_path)]
    with subprocess.Popen([*MOBILETTE, *arguments]) as process:
        while not list(tmp_path.glob(".onnx.*.unfinished")):
            assert process.poll() is None
        process.send_signal(getattr(signal, number))
    assert process.returncode == 128 + getattr(signal, number)
    assert not list(tmp_path.iterdir())


@posix_only
def test_a_training_whose_terminal_is_closed_saves_its_state(images: Path, tmp_path: Path) -> None:
    import pty

    out = tmp_path / "run"
    arguments = ["train", str(images), "--out", str(out), "--epochs=500", "--workers=0"]
    arguments += ["--model=mobilenet_v1", "--width-mult=0.25", "--resolution=16"]
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
        os.execv(sys.executable, [*MOBILETTE, *arguments])
    while b"epoch   2" not in os.read(terminal, 65536):
        pass
    os.close(terminal)  # the kernel sends SIGHUP, and writing to the terminal fails from now on
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    progress = read_state(out / "last.pt").progress
    assert not progress.finished
    assert progress.epoch >= 2
    assert len(open_run(out).history()) >= 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
