"""The part `mixed` of bench/serve.py: good and bad requests at once, and what is answered."""

from __future__ import annotations

import base64
import io
import json
import random
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from PIL import Image

from mobilette.engines.load import load
from mobilette.engines.predictor import Prediction

if TYPE_CHECKING:
    from bench.serve_process import CLIENTS, TOKEN, Client, Server, head, raw, serving, spread
else:
    from serve_process import CLIENTS, TOKEN, Client, Server, head, raw, serving, spread

SECONDS = 3.0
PNG, FORM = "image/png", "multipart/form-data; boundary=x"


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
