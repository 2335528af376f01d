"""What `mobilette serve` stands: mixed requests, overload, its end under load, throughput.

    python bench/serve.py [mixed overload end throughput schema]

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
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from PIL import Image

from mobilette.data.decoding import decode
from mobilette.data.sources import list_images
from mobilette.engines.load import load
from mobilette.engines.predictor import Prediction, Predictor
from mobilette.verification.bench import machine
from mobilette.workflows.export import export

if TYPE_CHECKING:
    from bench.networks import random_run
else:
    from networks import random_run

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CLIENTS, TOKEN, SECONDS = 32, "secret", 3.0
IMAGES = 48
PARTS = ("mixed", "overload", "end", "throughput", "schema")
PNG, FORM = "image/png", "multipart/form-data; boundary=x"


@dataclass(kw_only=True)
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[bytes]
    port: int
    errors: Any

    def memory(self) -> int:
        """Return its resident bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) * 1024

    def said(self) -> str:
        """Return what it printed to stderr."""
        return os.pread(self.errors.fileno(), 2**20, 0).decode()


@contextmanager
def serving(artifact: Path, *options: str) -> Iterator[Server]:
    """Yield a server of ``artifact``."""
    command = [sys.executable, "-m", "mobilette", "serve", str(artifact), "--port=0", "--json"]
    environment = os.environ | {"MOBILETTE_TOKEN": TOKEN}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=errors, env=environment
        )
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        server = Server(process=process, port=port, errors=errors)
        try:
            yield server
        finally:
            process.terminate()
            process.wait()
            assert "Traceback" not in server.said(), server.said()


def head(kind: str, length: int) -> bytes:
    """Return a request's head that declares ``length`` bytes."""
    lines = ("POST /v1/predict HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}")
    return "\r\n".join(
        (*lines, f"Content-Type: {kind}", f"Content-Length: {length}", "", "")
    ).encode()


def raw(server: Server, *pieces: bytes, leave: bool = False) -> int:
    """Send these bytes alone and return the answer's status; 0 after leaving without one."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as link:
        for piece in pieces:
            link.sendall(piece)
        if leave:
            return 0
        answer = link.recv(65536)
        return int(answer.split()[1]) if answer else -1


class Client:
    """One connection, opened again when the server has closed it."""

    def __init__(self, port: int) -> None:
        self.link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, body: Any, kind: str, *, token: str = TOKEN, **options: Any) -> tuple[int, Any]:
        """POST a body and return status and JSON."""
        headers = {"Content-Type": kind, "Authorization": f"Bearer {token}"}
        for attempt in (0, 1):
            try:
                self.link.request("POST", "/v1/predict", body, headers, **options)
                response = self.link.getresponse()
                return response.status, json.loads(response.read())
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self.link.close()  # an idle connection that the server has closed
                if attempt or not isinstance(body, bytes):
                    raise
        raise AssertionError


@dataclass
class Seen:
    """What the clients of the mixed load saw."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def as_form(image: bytes) -> bytes:
    """Return a form with one image."""
    begin = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return begin + image + b"\r\n--x--\r\n"


def as_json(image: bytes) -> bytes:
    """Return JSON with one image."""
    return json.dumps({"image": base64.b64encode(image).decode()}).encode()


def huge_png() -> bytes:
    """Return a small PNG that declares 50,000 x 50,000 pixels."""
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = (50_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


# Of each kind, how many in a hundred, and the statuses that are right beside 503.
MIX: dict[str, tuple[int, set[int]]] = {
    "good": (60, {200}),
    "corrupt": (10, {415, 422}),
    "huge": (8, {413}),
    "truncated": (6, {0}),
    "slow": (2, {408}),
    "wrong type": (7, {415}),
    "wrong token": (7, {401}),
}


def one_of_a_kind(
    kind: str, server: Server, client: Client, image: bytes, dice: random.Random
) -> tuple[int, Any]:
    """Send one request; return status and JSON."""
    if kind == "good":
        forms = (
            (image, "image/jpeg"),
            (as_form(image), FORM),
            (as_json(image), "application/json"),
        )
        return client.ask(*dice.choice(forms))
    if kind == "corrupt":
        damaged = dice.choice((image[: len(image) // 2], dice.randbytes(2000), b"", image[2:]))
        return client.ask(damaged, "image/jpeg")
    if kind == "huge":
        way = dice.randrange(3)
        if way == 0:
            return raw(server, head(PNG, 2**30), bytes(2**16)), None
        if way == 1:
            return client.ask(huge_png(), PNG)
        # More bytes than allowed, without saying so first.
        return client.ask((bytes(2**20) for _ in range(3)), PNG, encode_chunked=True)
    if kind == "truncated":
        return raw(
            server, head("image/jpeg", len(image)), image[: len(image) // 2], leave=True
        ), None
    if kind == "slow":
        return raw(server, head("image/jpeg", len(image)), image[:10]), None
    if kind == "wrong type":
        return client.ask(image, dice.choice(("text/plain", "application/x-www-form-urlencoded")))
    return client.ask(image, "image/jpeg", token=dice.choice(("", "wrong", TOKEN[:-1])))


def differs(answer: dict[str, Any], known: Prediction) -> str:
    """Return how an answer differs from the predictor's, by more than 1e-6."""
    if answer.get("label") != known.label or answer["answered"] != known.answered:
        return f"{answer} is not {known}"
    for one, other in zip(answer["top"], known.top, strict=True):
        if abs(one["probability"] - other.probability) > 1e-6:
            return f"{one} is not {other}"
    return ""


def mixed_client(
    server: Server, seed: int, count: int, images: list[bytes], known: list[Prediction], seen: Seen
) -> None:
    """Send ``count`` requests of all kinds."""
    dice, client = random.Random(seed), Client(server.port)
    kinds, weights = list(MIX), [weight for weight, _ in MIX.values()]
    for _ in range(count):
        kind, index = dice.choices(kinds, weights)[0], dice.randrange(len(images))
        started = time.perf_counter()
        status, value = one_of_a_kind(kind, server, client, images[index], dice)
        seen.statuses[kind, status] += 1
        if status not in MIX[kind][1] | {503}:
            seen.wrong.append(f"{kind}: {status} {value}")
        if status == 200:
            seen.seconds.append(time.perf_counter() - started)
            if different := differs(value["answers"][0], known[index]):
                seen.wrong.append(different)


def mixed(artifact: Path, files: list[Path], requests: int) -> None:
    """Print what 32 clients saw, and the server's memory."""
    images = [path.read_bytes() for path in files]
    known = load(artifact, threads=1).predict(images)
    seen, memory = Seen(), []
    options = ("--max-megabytes=2", f"--max-seconds={SECONDS:g}")
    with serving(artifact, *options) as server, ThreadPoolExecutor(CLIENTS) as pool:
        started = time.perf_counter()
        running = [
            pool.submit(mixed_client, server, seed, -(-requests // CLIENTS), images, known, seen)
            for seed in range(CLIENTS)
        ]
        while not all(each.done() for each in running):
            time.sleep(1.0)
            memory.append((seen.statuses.total(), server.memory()))
        for each in running:
            each.result()
        seconds = time.perf_counter() - started
    warm = [size for done, size in memory if done >= requests / 10]
    print(f"mixed: {seen.statuses.total():,} requests in {seconds:.0f} s from {CLIENTS} clients")
    distinct = {(each.label, round(each.probability, 6)) for each in known}
    print(f"  {len(images)} images with {len(distinct)} different answers")
    for (kind, status), count in sorted(seen.statuses.items()):
        print(f"  {kind:<12}{status:>4}{count:>7,}")
    for line in seen.wrong[:10]:
        print(f"  WRONG {line[:300]}")
    print(f"  wrong answers and statuses: {len(seen.wrong)}")
    print(f"  good answers: {spread(seen.seconds)}")
    third = len(warm) // 3
    print(
        f"  memory: {warm[0] / 1e6:.0f} MB after a tenth, median of the first third "
        f"{median(warm[:third]) / 1e6:.0f}, of the last {median(warm[-third:]) / 1e6:.0f}, "
        f"most {max(warm) / 1e6:.0f}"
    )


def spread(seconds: list[float]) -> str:
    """Return median and 99th percentile in milliseconds."""
    cut = quantiles(seconds, n=100) if len(seconds) > 1 else seconds * 99
    return (
        f"p50 {1e3 * cut[49]:.1f} ms, p99 {1e3 * cut[98]:.1f} ms, most {1e3 * max(seconds):.1f} ms"
    )


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
        }
        for part in parts or PARTS:
            doing[part]()


if __name__ == "__main__":
    typer.run(main)
