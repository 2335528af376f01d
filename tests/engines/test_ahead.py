from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mobilette.engines.ahead import computed_ahead


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_all_in_their_order(threads: int) -> None:
    found = computed_ahead(lambda n: n * n, range(100), threads=threads, ahead=7)
    assert list(found) == [(n, n * n) for n in range(100)]


def test_no_more_are_taken_than_may_be_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    found = computed_ahead(str, items(), threads=2, ahead=5)
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


def test_an_error_comes_where_its_item_is() -> None:
    found = computed_ahead(lambda n: 1 // n, (2, 1, 0, 1), threads=2, ahead=4)
    assert [next(found), next(found)] == [(2, 0), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(found)
