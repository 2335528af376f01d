"""What is printed on terminals of any width, and where a shell forces colours."""

from __future__ import annotations

import os
import re
import shlex
import struct
import sys
from pathlib import Path

import pytest

from mobilette.arch.catalogue import list_models
from mobilette.formats.published import list_published
from mobilette.run.directory import Run
from tests.cli.test_streams import MOBILETTE, posix_only, shell


def on_a_terminal(*arguments: str, columns: int) -> str:
    """Return what the command prints on a terminal so wide, without the escapes for bold text."""
    return re.sub(r"\x1b\[[0-9;]*m", "", raw_on_a_terminal(*arguments, columns=columns))


def raw_on_a_terminal(*arguments: str, columns: int) -> str:
    """Return all that the command writes to a terminal so wide."""
    import fcntl
    import pty
    import termios

    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execv(sys.executable, [*MOBILETTE, *arguments])
    shown = b""
    while True:
        try:
            read = os.read(terminal, 65_536)
        except OSError:  # Linux says so that the other end is closed
            break
        if not read:
            break
        shown += read
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return shown.decode()


@posix_only
@pytest.mark.parametrize("columns", [20, 80])
def test_no_name_and_no_number_is_cut(columns: int) -> None:
    models = on_a_terminal("models", columns=columns)
    assert set(list_models()) <= set(models.split())
    assert "…" not in models
    compared = on_a_terminal("cost", "mobilenet_v3_large_minimalistic", "vgg11", columns=columns)
    assert "mobilenet_v3_large_minimalistic   " in compared
    assert "132,863,336" in compared
    layers = on_a_terminal("cost", "mobilenet_v1", "--by-layer", columns=columns)
    assert "rows.0.depthwise  " in layers
    weights = on_a_terminal("weights", "list", columns=columns)
    assert {each.name for each in list_published()} <= set(weights.split())
    assert "…" not in weights


@posix_only
def test_forced_colours_bring_no_bars_into_a_log() -> None:
    done = shell("FORCE_COLOR=3 TERM=xterm mobilette verify nothing")
    assert done.returncode == 2
    assert re.fullmatch(r"mobilette: error: nothing: not an artifact .*\n", done.stderr)


@posix_only
@pytest.mark.parametrize("arguments", ["-h", "train -h", "weights list -h"])
def test_help_has_its_short_name(arguments: str) -> None:
    done = shell(f"mobilette {arguments}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Example: mobilette")


COLOURS = re.compile(r"\x1b\[[0-9;]*[34][0-9][;m]")


@posix_only
@pytest.mark.parametrize("no_colour", [False, True])
def test_bars_are_for_terminals_and_colours_for_those_who_want_them(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_colour: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    arguments = ["export", str(trained.path), f"--out={tmp_path}"]
    shown = raw_on_a_terminal(*arguments, columns=80)
    assert "exporting" in shown
    assert bool(COLOURS.search(shown)) != no_colour
    assert "next: mobilette verify" in shown


@posix_only
def test_a_log_has_neither_bars_nor_colours(trained: Run, images: Path, tmp_path: Path) -> None:
    run, few = shlex.quote(str(trained.path)), shlex.quote(str(images))
    for command in (
        f"export {run} --out {shlex.quote(str(tmp_path))}",
        f"evaluate {run} {few}",
        f"train {few} --epochs 1 --model mobilenet_v1 --width-mult 0.25 --resolution 16 --out "
        f"{shlex.quote(str(tmp_path / 'run'))}",
    ):
        done = shell(f"FORCE_COLOR=1 TERM=xterm-256color mobilette {command}")
        assert done.returncode == 0, done.stderr
        assert not re.search(r"[\x1b\r\u2500-\u257f\u2800-\u28ff]", done.stdout + done.stderr)
