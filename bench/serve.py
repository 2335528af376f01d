"""What `mobilette serve` stands: mixed requests, overload, its end under load, throughput.

    python bench/serve.py [mixed overload end throughput schema gigabyte]

ONNX Runtime, random weights, images of ../shared/data/imagenette-small. Servers and clients are
processes of their own on the same cores, so the clients' work is in all times.

- `mixed`: 10,000 requests from 32 clients: good ones in three forms, corrupt, huge (a gigabyte
  declared, 50,000 x 50,000 pixels declared, too many bytes in pieces), truncated, slow, of a wrong
  type, with a wrong token. Every good answer is compared with the predictor's, every other
  status with what it should be; 503 is allowed. Memory is read once a second after a tenth of them.
- `overload`: 32 clients on a queue of 8; how long a refusal takes, asked by a 33rd in a process of
  its own.
- `end`: SIGTERM under the load of 32 clients; what they received against what the server accepted.
- `throughput`: requests a second of a server with one thread of the engine against the bare engine
  on decoded pixels with one thread, in turns; for batches of one, of up to four and of up to eight.
- `schema`: schemathesis, every check; that random bytes are no image (413, 415, 422) is expected.
- `gigabyte`: bodies of a gigabyte that are really sent, with and without Content-Length.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from mobilette.data.decoding import decode
from mobilette.data.sources import list_images
from mobilette.engines.load import load
from mobilette.engines.predictor import Predictor
from mobilette.verification.bench import machine
from mobilette.workflows.export import export

if TYPE_CHECKING:
    from bench.networks import random_run
    from bench.serve_gigabyte import gigabyte
    from bench.serve_mixed import mixed
    from bench.serve_process import CLIENTS, TOKEN, Client, Server, serving, spread
else:
    from networks import random_run
    from serve_gigabyte import gigabyte
    from serve_mixed import mixed
    from serve_process import CLIENTS, TOKEN, Client, Server, serving, spread

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
IMAGES = 48
PARTS = ("mixed", "overload", "end", "throughput", "schema", "gigabyte")


def load_until(
    server: Server,
    images: list[bytes],
    stop: threading.Event,
    counts: Counter[int],
    *,
    patient: bool = False,
) -> None:
    """Send good requests until told to stop, or nobody answers."""
    client = Client(server.port)
    for image in cycle(images):
        if stop.is_set():
            return
        try:
            status, _ = client.ask(image, "image/jpeg")
        except (OSError, http.client.HTTPException):
            counts[-1] += 1
            return
        counts[status] += 1
        if patient and status == 503:
            stop.wait(1.0)


def probe(port: int, image: Path, count: int) -> None:
    """Print the seconds of each of ``count`` refusals, as JSON; in a process of its own."""
    client, body = Client(port), image.read_bytes()
    refused: list[float] = []
    while len(refused) < count:
        started = time.perf_counter()
        status, _ = client.ask(body, "image/jpeg")
        if status == 503:
            refused.append(time.perf_counter() - started)
    print(json.dumps(refused))


def overload(artifact: Path, files: list[Path]) -> None:
    """Print how long refusals take, while clients wait a second after one or do not."""
    images, options = [path.read_bytes() for path in files], ("--queue=8", "--max-files=8")
    for patient in (True, False):
        stop, counts = threading.Event(), Counter[int]()
        with serving(artifact, *options) as server, ThreadPoolExecutor(CLIENTS) as pool:
            for _ in range(CLIENTS):
                pool.submit(load_until, server, images, stop, counts, patient=patient)
            command = [sys.executable, __file__, "--probe", f"{server.port}:200:{files[0]}"]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            stop.set()
        how = "wait as told" if patient else "do not wait"
        others = set(counts) - {200, 503}
        print(
            f"overload, {CLIENTS} clients that {how}: {counts[200]:,} answered, {counts[503]:,} "
            f"refused; others {others}\n  200 refusals: {spread(json.loads(printed))}"
        )


def end(artifact: Path, files: list[Path]) -> None:
    """Print what was received and what was accepted when the server is told to end."""
    images, counts = [path.read_bytes() for path in files], Counter[int]()
    with serving(artifact) as server:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for _ in range(CLIENTS):
                pool.submit(load_until, server, images, threading.Event(), counts)
            time.sleep(5.0)
            server.process.send_signal(signal.SIGTERM)
            status = server.process.wait(timeout=60)
        last = server.said().splitlines()[-1]
    received = sum(count for status, count in counts.items() if status > 0)
    print(f"end: status {status}; clients received {received:,} ({dict(counts)}); server: {last}")


def bare(predictor: Predictor, files: list[Path], count: int) -> float:
    """Return images a second of the engine on decoded pixels, one at a time."""
    size = predictor.arch.resolution
    pixels = [predictor.preprocess.geometry(decode(path), size)[None] for path in files]
    for each in pixels[:10]:
        predictor.batch_logits(each)
    started = time.perf_counter()
    for each in islice(cycle(pixels), count):
        predictor.batch_logits(each)
    return count / (time.perf_counter() - started)


def served(artifact: Path, files: list[Path], count: int, *options: str) -> float:
    """Return good answers a second of a server that 16 clients keep busy."""
    bodies = [path.read_bytes() for path in files]
    with serving(artifact, "--threads=1", "--engines=1", *options) as server:

        def ask(number: int) -> None:
            client = Client(server.port)
            for body in islice(cycle(bodies), number):
                status, value = client.ask(body, "image/jpeg")
                assert status == 200, value

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, [4] * 16))
            started = time.perf_counter()
            list(pool.map(ask, [count // 16] * 16))
            return count // 16 * 16 / (time.perf_counter() - started)


def throughput(artifact: Path, files: list[Path], count: int, rounds: int) -> None:
    """Print the server's rates by the bare engine's."""
    predictor = load(artifact, threads=1)
    sides: dict[str, Callable[[], float]] = {
        "bare engine": lambda: bare(predictor, files, count),
        "served, batches of one": lambda: served(artifact, files, count, "--max-batch=1"),
        "served, batches up to 4": lambda: served(artifact, files, count, "--max-batch=4"),
        "served, batches up to 8": lambda: served(artifact, files, count, "--max-batch=8"),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            rates[name].append(side())
    print(
        f"throughput, {predictor.arch.name} at {predictor.arch.resolution}, {count} images a round:"
    )
    for name, found in rates.items():
        print(f"  {name:<26}{median(found):8.1f} a second  {', '.join(f'{r:.1f}' for r in found)}")
    engine, *others = (median(found) for found in rates.values())
    ones, fours, eights = (f"{found / engine:.2f}" for found in others)
    print(f"ratio: {ones} (batches of one), {fours} (up to 4), {eights} (up to 8)")


def schema(artifact: Path) -> None:
    """Print what schemathesis says."""
    with serving(artifact) as server, tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "schemathesis.toml"
        allowed = [f'"{each}"' for each in ("2xx", 401, 404, 413, 415, 422, 503)]
        settings.write_text(
            f"[checks.positive_data_acceptance]\nexpected-statuses = [{', '.join(allowed)}]\n"
        )
        program = Path(sys.executable).with_name("schemathesis")
        command = [str(program), "--config-file", str(settings), "run"]
        command += [f"http://127.0.0.1:{server.port}/openapi.json", "--seed=1", "--no-color"]
        command += ["--max-examples=100", "-H", f"Authorization: Bearer {TOKEN}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    lines = done.stdout.splitlines()
    said = [line for line in lines if "test cases" in line.lower() or "generated" in line]
    summary = " ".join(" ".join(said).split())
    print(f"schema: status {done.returncode}; {summary} {lines[-1].strip('= ')}")
    if done.returncode:
        print(done.stdout)


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=", ".join(PARTS))] = None,
    model: str = "mobilenet_v2",
    resolution: int = 224,
    requests: int = 10_000,
    images: int = 960,
    rounds: int = 3,
    probing: Annotated[str | None, typer.Option("--probe", hidden=True)] = None,
) -> None:
    """Measure the parts and print what was found."""
    if probing is not None:
        port, count, path = probing.split(":", 2)
        probe(int(port), Path(path), int(count))
        return
    found = [Path(path) for path in list_images([SHARED / "imagenette-small"])]
    files = found[:: max(len(found) // IMAGES, 1)][:IMAGES]
    print(f"{machine()}; load {np.round(os.getloadavg(), 1)}; {model} at {resolution}")
    with tempfile.TemporaryDirectory() as folder:
        run = random_run(model, Path(folder) / "run", resolution=resolution)
        artifact = export(run, out=Path(folder) / "exports").path
        doing: dict[str, Callable[[], None]] = {
            "mixed": lambda: mixed(artifact, files, requests),
            "overload": lambda: overload(artifact, files),
            "end": lambda: end(artifact, files),
            "throughput": lambda: throughput(artifact, files, images, rounds),
            "schema": lambda: schema(artifact),
            "gigabyte": lambda: gigabyte(artifact),
        }
        for part in parts or PARTS:
            doing[part]()


if __name__ == "__main__":
    typer.run(main)
