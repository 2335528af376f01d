"""Run a module in a separate process, for libraries that crash on damaged files.

The module runs by ``python -m`` and writes its result to stdout. To refuse its input, it prints the
reason to stderr and exits with status `REFUSED`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping

from mobilette.errors import InputError

REFUSED = 2


def run_isolated(
    module: str,
    *arguments: str,
    stdin: bytes = b"",
    longest_s: float,
    crashed: str = "",
    environment: Mapping[str, str] | None = None,
    said: int = 3,
) -> bytes:
    """Return what ``module`` writes to stdout.

    Args:
        module: its full name.
        arguments: of its command line.
        stdin: what it reads.
        longest_s: time limit in seconds.
        crashed: the message for any other exit status, which is appended to it.
        environment: variables added to this process's.
        said: how many of its last lines say why it refused its input.

    Raises:
        InputError: it refused its input, crashed or timed out.
    """
    # -P: whatever lies in the current folder is not imported
    command = [sys.executable, "-P", "-m", module, *arguments]
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            timeout=longest_s,
            env=os.environ | (environment or {}),
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"it took longer than {longest_s:g} s") from error
    if done.returncode == 0:
        return done.stdout
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode == REFUSED:
        raise InputError(" ".join(lines[-said:]))
    how = f"ended with status {done.returncode}: {(lines or ['no message'])[-1][:200]}"
    if done.returncode < 0:
        how = f"died of signal {-done.returncode}"
    raise InputError(f"{crashed}{', ' if crashed else ''}its process {how}")


def serve(answer: Callable[[bytes], bytes], *refused: type[Exception]) -> int:
    """Write ``answer(stdin)`` to stdout and return the exit status.

    `InputError` and ``refused`` say why the input is refused. What libraries print to stdout goes
    to stderr.
    """
    expected: tuple[type[Exception], ...] = (InputError, *refused)
    stdout = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        content = answer(sys.stdin.buffer.read())
    except expected as error:
        print(error, file=sys.stderr)
        return REFUSED
    with stdout:
        stdout.write(content)
    return 0
