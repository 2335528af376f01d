from __future__ import annotations

from itertools import product

from mobilette.training.sampling import Purpose, derive


def test_every_place_has_a_stream_of_its_own() -> None:
    places = list(product(range(3), Purpose, range(4), range(4)))
    assert len({derive(*place) for place in places}) == len(places)


def test_the_streams_are_the_same_on_every_machine_and_in_every_version() -> None:
    assert derive(0, Purpose.step, 3, 5) == 7792075028314939568
