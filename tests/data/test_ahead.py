from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mobilette.data.ahead import computed_ahead


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_all_in_their_order(threads: int) -> None:
    found = computed_ahead(lambda n: n * n, range(100), threads=threads, ahead=7)
    assert list(found) == [(n, n * n) for n in range(100)]


@pytest.mark.parametrize("lasting", [None, ThreadPoolExecutor(2)])
def test_no_more_are_taken_than_may_be_ahead(lasting: ThreadPoolExecutor | None) -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    found = computed_ahead(str, items(), threads=2, ahead=5, lasting=lasting)
    assert [next(found) for _ in range(3)] == [(0, "0"), (1, "1"), (2, "2")]
    assert len(taken) == 5 + 3
    found.close()
    assert len(taken) == 5 + 3


def test_nothing_goes_on_after_it_is_closed() -> None:
    done: list[int] = []
    found = computed_ahead(done.append, range(1000), threads=2, ahead=500)
    next(found)
    found.close()
    count = len(done)
    assert count <= 501
    assert not any(thread.name.startswith("decoding") for thread in threading.enumerate())
    assert len(done) == count


def test_threads_that_last_do_nothing_after_it_is_closed() -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[int] = []

    def slow(number: int) -> None:
        if number:
            begun.set()
            go_on.wait(60)
        done.append(number)

    pool = ThreadPoolExecutor(1)
    found = computed_ahead(slow, range(1000), threads=1, ahead=500, lasting=pool)
    next(found)
    begun.wait(60)
    threading.Timer(0.1, go_on.set).start()
    found.close()  # waits for the running one
    assert done == [0, 1]
    assert pool.submit(int).result() == 0


def test_an_error_comes_where_its_item_is() -> None:
    found = computed_ahead(lambda n: 1 // n, (2, 1, 0, 1), threads=2, ahead=4)
    assert [next(found), next(found)] == [(2, 0), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(found)
