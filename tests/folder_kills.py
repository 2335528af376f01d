"""Replaces a folder again and again, killed at each call to the system: for test_folders.py.

An audit hook ends the process right before the call whose turn it is. Prints a line a kill: the
calls, what a reader found, and what was left once the folder had been replaced after all.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import count
from pathlib import Path

import mobilette.folders
from mobilette.folders import new_directory, restore

CALLS = ("os.", "open", "shutil.", "tempfile.", "ctypes.call")


def replace(path: Path, content: str) -> None:
    """Make ``path`` anew, of two files."""
    with new_directory(path, holds="one", force=True) as folder:
        for name in ("one", "two"):
            (folder / name).write_text(content)


def child(path: Path, killed_at: int) -> int:
    """Fork a process that replaces ``path`` and dies before its call number ``killed_at``."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event.startswith(CALLS) and event != "os.fork":
            seen += 1
            if seen == killed_at:
                os._exit(9)

    sys.addaudithook(hook)
    replace(path, "new")
    os._exit(0)


def main() -> None:
    """Kill a replacement at its first call, its second, and so on until one is finished."""
    above, exchange = Path(sys.argv[1]), sys.argv[2] == "exchange"
    if not exchange:
        mobilette.folders._exchanged = lambda one, other: False
    for number in count(1):
        path = above / "run"
        replace(path, "old")
        status = child(path, number)
        there = path.exists()
        restore(path)
        found = sorted((file.name, file.read_text()) for file in path.iterdir())
        replace(path, "newer")
        left = sorted(each.name for each in above.iterdir())
        print(json.dumps({"status": status, "there": there, "found": found, "left": left}))
        if status == 0:
            return


if __name__ == "__main__":
    main()
