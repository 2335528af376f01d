"""``mobilette serve``: answers over HTTP."""

from __future__ import annotations

import os
import re
from typing import Annotated

import typer

from mobilette.cli.options import Json, ranged
from mobilette.errors import InputError, shown
from mobilette.limits import (
    CALLS,
    CONNECTIONS,
    FILES,
    MAX_BATCH,
    MEBIBYTES,
    MEGAPIXELS,
    PORT,
    QUEUE,
    REQUEST_SECONDS,
    THREADS,
)

TOKEN = "MOBILETTE_TOKEN"
_TOKEN = re.compile(r"[!-~]{1,256}")
_WINDOW = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(us|ms|s)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_LONGEST_WINDOW = 1.0
_WORK, _LIMITS = "Work", "Limits"

Artifacts = Annotated[
    list[str],
    typer.Argument(help="An artifact's folder, or several as NAME=FOLDER.", metavar="ARTIFACT..."),
]
Host = Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 means all.")]
Port = Annotated[int, ranged("--port", PORT, "Port; 0 takes any that is free.")]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        help=f"Bearer token that clients must send; ${TOKEN} keeps it out of lists of processes.",
    ),
]
BatchWindow = Annotated[
    str,
    typer.Option(
        "--batch-window",
        help="How long the engine waits for images that are being decoded.",
        rich_help_panel=_WORK,
    ),
]
MaxBatch = Annotated[
    int, ranged("--max-batch", MAX_BATCH, "Images that the engine computes at once.", panel=_WORK)
]
CallThreads = Annotated[
    int | None, ranged("--threads", THREADS, "Threads per engine call [1].", panel=_WORK)
]
Calls = Annotated[
    int | None,
    ranged("--engines", CALLS, "Engine calls at the same time [cores / threads].", panel=_WORK),
]
Decoders = Annotated[
    int | None,
    ranged("--workers", CALLS, "Threads that decode images [one per core].", panel=_WORK),
]
MaxMegabytes = Annotated[
    int, ranged("--max-megabytes", MEBIBYTES, "Largest body of a request, in MiB.", panel=_LIMITS)
]
MaxMegapixels = Annotated[
    int, ranged("--max-megapixels", MEGAPIXELS, "Largest image, in megapixels.", panel=_LIMITS)
]
MaxFiles = Annotated[int, ranged("--max-files", FILES, "Most images in a request.", panel=_LIMITS)]
MaxSeconds = Annotated[
    float,
    ranged(
        "--max-seconds",
        REQUEST_SECONDS,
        "Seconds for a request to arrive, for its answer, and for the client to read it.",
        panel=_LIMITS,
    ),
]
Queue = Annotated[
    int,
    ranged(
        "--queue", QUEUE, "Images that may wait; beyond that, the answer is 503.", panel=_LIMITS
    ),
]
MaxConnections = Annotated[
    int,
    ranged(
        "--max-connections",
        CONNECTIONS,
        "Most open connections; others are closed at once.",
        panel=_LIMITS,
    ),
]


def serve(
    artifacts: Artifacts,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token: Token = None,
    batch_window: BatchWindow = "2ms",
    max_batch: MaxBatch = 4,
    threads: CallThreads = None,
    engines: Calls = None,
    workers: Decoders = None,
    max_megabytes: MaxMegabytes = 32,
    max_megapixels: MaxMegapixels = 64,
    max_files: MaxFiles = 32,
    max_seconds: MaxSeconds = 10.0,
    queue: Queue = 128,
    max_connections: MaxConnections = 512,
    as_json: Json = False,
) -> None:
    """Classify images over HTTP, with a page, until stopped.

    POST an image to /v1/predict; /docs describes the rest. SIGHUP opens the artifacts again.
    """
    from mobilette.cli.output import print_json, remarks, say
    from mobilette.data.machine import usable_cores
    from mobilette.engines.sharing import calls_at_once
    from mobilette.serving.models import parse_places
    from mobilette.serving.server import serve as answer
    from mobilette.serving.settings import Limits, Work

    if max_files > queue:
        raise InputError(f"--max-files {max_files} never fit into --queue {queue}")
    token = _checked_token(token or os.environ.get(TOKEN) or None)
    places = parse_places(artifacts)

    def ready(address: str) -> None:
        if token is None and host not in ("127.0.0.1", "localhost", "::1"):
            remarks().print(f"whoever reaches {host} gets answers; --token limits them to some")
        if as_json:
            print_json({"url": address, "models": list(places)})
        else:
            say(f"{address}  {', '.join(map(str, places.values()))}")

    answer(
        places,
        host=host,
        port=port,
        token=token,
        work=Work(
            threads=threads or 1,
            engines=engines or calls_at_once(threads or 1),
            workers=workers or usable_cores(),
            max_batch=max_batch,
            window_s=parse_window(batch_window),
        ),
        limits=Limits(
            mebibytes=max_megabytes,
            megapixels=max_megapixels,
            files=max_files,
            seconds=max_seconds,
            queue=queue,
            connections=max_connections,
        ),
        on_ready=ready,
        remark=lambda line: remarks().print(line),
    )


def parse_window(text: str) -> float:
    """Return the seconds in ``2ms``, ``500us`` or ``0.1s``, at most one.

    Raises:
        InputError: it is none of these.
    """
    match = _WINDOW.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else _LONGEST_WINDOW + 1
    if seconds > _LONGEST_WINDOW:
        raise InputError(f"--batch-window {shown(text)} is not a time up to 1s, such as 2ms")
    return seconds


def _checked_token(token: str | None) -> str | None:
    if token is not None and not _TOKEN.fullmatch(token):
        raise InputError("the token is not 1 to 256 letters, digits or signs of ASCII")
    return token
