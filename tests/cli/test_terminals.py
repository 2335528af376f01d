"""What is printed on terminals of any width, and where a shell forces colours."""

from __future__ import annotations

import os
import re
import struct
import sys

import pytest

from mobilette.arch.catalogue import list_models
from mobilette.formats.published import list_published
from tests.cli.test_streams import MOBILETTE, posix_only, shell


def on_a_terminal(*arguments: str, columns: int) -> str:
    """Return what the command prints on a terminal so wide, without the escapes for bold text."""
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
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())


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
    assert done.stdout.startswith("Usage: mobilette")
