"""The command line in a process that sends itself a signal: ``signalled.py SIGNAL STEP ARGUMENTS``.

It does so when its training step number STEP begins, wherever a slow machine has got by then. Of
several processes that torchrun starts, it is the writer, and only when it is started first.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

from mobilette.cli.main import main


def send(number: signal.Signals, step: int) -> None:
    """Send this process the signal when it begins that step."""
    begun = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal begun
        begun += event == "call" and frame.f_code.co_qualname == "Trainer.step"
        if begun == step:
            sys.setprofile(None)
            os.kill(os.getpid(), number)

    sys.setprofile(profile)


if __name__ == "__main__":
    name, step, *arguments = sys.argv[1:]
    environment = (os.environ.get(key, "0") for key in ("RANK", "TORCHELASTIC_RESTART_COUNT"))
    if set(environment) == {"0"}:
        send(signal.Signals[name], int(step))
    sys.argv[1:] = arguments
    main()
