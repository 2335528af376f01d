"""Computing in threads what is needed next, while what is there is used."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from mobilette.errors import InputError

T = TypeVar("T")
R = TypeVar("R")


def computed_ahead(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int
) -> Generator[tuple[T, R], None, None]:
    """Yield each of ``items`` with what ``function`` makes of it, in their order.

    Up to ``ahead`` are computed, by ``threads`` threads, before they are asked for; ``items`` is
    read no further. When the iterator is closed nothing more is begun, and it is waited for what
    is under way. With 0 threads each is computed when it is asked for.

    Raises:
        InputError: it goes on in a child of `fork`, where its threads are not.
    """
    if threads < 1:
        yield from ((item, function(item)) for item in items)
        return
    remaining = iter(items)
    waiting: deque[tuple[T, Future[R]]] = deque()
    pool, process = ThreadPoolExecutor(threads, thread_name_prefix="decoding"), os.getpid()

    def submit(count: int) -> None:
        waiting.extend((item, pool.submit(function, item)) for item in islice(remaining, count))

    try:
        submit(ahead)
        while waiting:
            item, future = waiting.popleft()
            result = future.result()
            submit(1)
            yield item, result
            if process != os.getpid():
                raise InputError("begun before this process was forked; begin anew in the child")
    finally:
        if process == os.getpid():
            pool.shutdown(cancel_futures=True)
