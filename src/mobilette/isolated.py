"""Work in a process of its own, for libraries that crash on damaged files.

The module that does it is run by ``python -m``. It prints why it refuses its input to stderr and
ends with the status `REFUSED`; its result goes to stdout.
"""

from __future__ import annotations

import subprocess
import sys

from mobilette.errors import InputError

REFUSED = 2


def run_isolated(
    module: str, *arguments: str, stdin: bytes = b"", longest_s: float, crashed: str
) -> bytes:
    """Return what ``module`` writes to stdout.

    Args:
        module: its full name.
        arguments: of its command line.
        stdin: what it reads.
        longest_s: seconds that it may take.
        crashed: what to say if it ends otherwise, before its status or signal.

    Raises:
        InputError: it refused its input (the last lines that it printed), crashed, or took longer.
    """
    # -P: whatever lies in the current folder is not imported
    command = [sys.executable, "-P", "-m", module, *arguments]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=longest_s)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"it took over {longest_s:g} s") from error
    if done.returncode == REFUSED:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(" ".join(lines[-3:]))
    if done.returncode:
        raise InputError(f"{crashed}, {done.returncode}")
    return done.stdout
