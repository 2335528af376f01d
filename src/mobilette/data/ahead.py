"""Results computed by threads before they are asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from mobilette.errors import InputError

T = TypeVar("T")
R = TypeVar("R")


def computed_ahead(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int,
    ahead: int,
    lasting: ThreadPoolExecutor | None = None,
) -> Generator[tuple[T, R], None, None]:
    """Yield each of ``items`` with the result of ``function``, in order.

    ``threads`` threads, those of ``lasting`` if it is given, compute up to ``ahead`` results before
    they are asked for, and read ``items`` no further; 0 threads compute each on demand. Closing the
    iterator starts nothing more and waits for running calls. It cannot continue in a child of
    `fork`.
    """
    if threads < 1:
        yield from ((item, function(item)) for item in items)
        return
    remaining = iter(items)
    waiting: deque[tuple[T, Future[R]]] = deque()
    process = os.getpid()
    pool = lasting or ThreadPoolExecutor(threads, thread_name_prefix="decoding")

    def submit(count: int) -> None:
        waiting.extend((item, pool.submit(function, item)) for item in islice(remaining, count))

    try:
        submit(ahead)
        while waiting:
            item, future = waiting[0]
            result = future.result()
            waiting.popleft()
            submit(1)
            yield item, result
            if process != os.getpid():
                raise InputError("started before this process was forked; start again in the child")
    finally:
        if process == os.getpid():
            wait([future for _, future in waiting if not future.cancel()])
            if lasting is None:
                pool.shutdown()
