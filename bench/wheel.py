"""Install the wheel into an empty environment and use it from another folder.

python bench/wheel.py

takes about five minutes, most of them for torch. It prints each command with its seconds and stops
at the first that fails.
"""

from __future__ import annotations

import subprocess
import sys
import time
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "--version",
    "cost mobilenet_v2",
    "train digits --model mobilenet_v1 --width-mult 0.25 --epochs 1 --out run",
    "export run --to onnx",
    "verify exports/run/onnx digits",
)


def call(arguments: list[str], folder: Path) -> None:
    """Run a command in ``folder`` and say how long it took; exit where it fails."""
    begun = time.perf_counter()
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    print(f"{time.perf_counter() - begun:6.1f} s  {' '.join(arguments)}", flush=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def main() -> None:
    """Build, install, use."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        call(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", name, str(ROOT)], folder
        )
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "empty", with_pip=True)
        programs = folder / "empty" / ("Scripts" if sys.platform == "win32" else "bin")
        constraints = str(ROOT / "constraints.txt")
        install = [str(programs / "python"), "-m", "pip", "install", "-q", "-c", constraints]
        call([*install, str(wheel)], folder)
        (folder / "elsewhere").mkdir()
        for command in COMMANDS:
            call([str(programs / "mobilette"), *command.split()], folder / "elsewhere")
    print("the wheel works")


if __name__ == "__main__":
    main()
