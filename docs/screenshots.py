"""Screenshots of page, report and terminal, made as the first hour says: docs/figures/*.png.

python -m docs.screenshots [page] [report] [terminal]

It needs Chromium, Playwright, and onnxruntime-web from npm (make engines).
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
DESKTOP = {"width": 1120, "height": 730}
PHONE = {"width": 390, "height": 900}
REPORT = {"width": 1120, "height": 1300}
SECONDS = 60_000  # milliseconds
# Longer than on the page: the machine that makes figures may be busy.
TIME = "240s"


def main() -> None:
    """Take the pictures that are asked for, of what is trained for them."""
    asked = sys.argv[1:] or list(KINDS)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        if asked != ["report"]:
            train_shapes(here)
        with browser() as chromium:
            for kind in asked:
                KINDS[kind](here, chromium)


def train_shapes(here: Path) -> None:
    """Train on the shapes of the first hour, and export, in ``here``."""
    page = (ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    (here / "shapes.py").write_text(code[1])
    run(here, "python shapes.py")
    train = re.search(r"^ {4}(mobilette train .*)$", page, re.MULTILINE)
    assert train is not None
    run(here, re.sub(r"--time \S+", f"--time {TIME}", train[1]))
    run(here, "mobilette export runs/shapes --to web --bundle")


def run(here: Path, command: str) -> str:
    """Run a command of the first hour in ``here`` and return its output, progress included."""
    program, *arguments = shlex.split(command)
    words = {"python": [], "mobilette": ["-m", "mobilette"]}[program]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "88"}
    print(f"$ {command}", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, *words, *arguments],
        cwd=here,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout


@contextmanager
def browser() -> Iterator[Any]:
    """Yield Playwright's browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        found = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield found
        found.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def picture_page(here: Path, chromium: Any) -> None:
    """Write page.png: the page on a desktop, and on a phone in the dark."""
    handler = partial(_Quiet, directory=here / "exports/shapes/web")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        shots = []
        for size, scheme, image in (
            (DESKTOP, "light", "triangle/4.png"),
            (PHONE, "dark", "circle/3.png"),
        ):
            page = chromium.new_page(viewport=size, color_scheme=scheme, device_scale_factor=2)
            page.goto(address)
            page.locator("#status", has_text="Ready.").wait_for(timeout=SECONDS)
            page.set_input_files("#file", str(here / "shapes" / image))
            page.locator("#status", has_text="ms for").wait_for(timeout=SECONDS)
            page.locator("#facts", has_text="without a network").wait_for(timeout=SECONDS)
            page.wait_for_timeout(400)  # bars grow
            shots.append(Image.open(io.BytesIO(page.screenshot())))
            page.close()
        server.shutdown()
    write(beside(shots), "page.png")


def picture_report(here: Path, chromium: Any) -> None:
    """Write report.png: the report of a network for digits on a desktop, and on a phone.

    Digits, because there it has mistakes to show.
    """
    run(
        here,
        "mobilette train digits --model mobilenet_v3_small --width-mult 0.5 --epochs 6 "
        "--promise 'error<=2%' --out runs/digits",
    )
    run(here, "mobilette export runs/digits --to onnx")
    run(here, "mobilette export runs/digits --to onnx --int8 --data digits")
    run(here, "mobilette bench exports/digits --data digits")
    run(here, "mobilette report runs/digits")
    shots = []
    for size, scheme in ((REPORT, "light"), (PHONE, "dark")):
        page = chromium.new_page(viewport=size, color_scheme=scheme, device_scale_factor=2)
        page.goto((here / "runs/digits/report.html").as_uri())
        if size == PHONE:
            page.evaluate("document.querySelector('#answers').scrollIntoView()")
        shots.append(Image.open(io.BytesIO(page.screenshot())))
        page.close()
    write(beside(shots), "report.png")


def picture_terminal(here: Path, chromium: Any) -> None:
    """Write terminal.png: commands of the first hour, with what they print."""
    commands = (
        "mobilette",
        "mobilette predict runs/shapes shapes/circle/0.png shapes/square/0.png",
        "mobilette verify exports/shapes/web shapes",
    )
    page = chromium.new_page(viewport={"width": 900, "height": 100}, device_scale_factor=2)
    page.set_content(TERMINAL)
    for command in commands:
        for text, kind in ((f"$ {command}", "command"), (run(here, command), "output")):
            page.evaluate(
                """([text, kind]) => {
                    const part = document.createElement("pre");
                    part.textContent = text;
                    part.className = kind;
                    document.querySelector("main").append(part);
                }""",
                [text.rstrip("\n"), kind],
            )
    shot = page.locator("main").screenshot()
    page.close()
    write(Image.open(io.BytesIO(shot)), "terminal.png")


TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; }
main { background: #1c1c1f; padding: 1.25rem 1.5rem .5rem; width: max-content; }
pre { margin: 0; color: #e7e6e3; font: 14px/1.45 "DejaVu Sans Mono", monospace; }
pre.command { color: #5fd6c6; }
pre.output { margin-bottom: 1rem; }
</style><main></main>"""


def beside(shots: Sequence[Image.Image], gap: int = 48) -> Image.Image:
    """Return screenshots side by side on a quiet ground, all as high as the first."""
    height = shots[0].height
    scaled = [
        shot.resize((round(shot.width * height / shot.height), height), Image.Resampling.LANCZOS)
        for shot in shots
    ]
    width = sum(shot.width for shot in scaled) + gap * (len(scaled) + 1)
    whole, x = Image.new("RGB", (width, height + 2 * gap), "#dcdad6"), gap
    for shot in scaled:
        whole.paste(shot, (x, gap))
        x += shot.width + gap
    return whole


def write(picture: Image.Image, name: str) -> None:
    """Write a figure, at most 1600 pixels wide, with 256 colours: as small as it looks the same."""
    picture = picture.convert("RGB")
    if picture.width > 1600:
        size = (1600, round(picture.height * 1600 / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture.quantize(256, dither=Image.Dither.NONE).save(FIGURES / name, optimize=True)
    print(FIGURES / name)


KINDS: dict[str, Callable[[Path, Any], None]] = {
    "page": picture_page,
    "report": picture_report,
    "terminal": picture_terminal,
}


if __name__ == "__main__":
    main()
