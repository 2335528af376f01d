"""Successive halving: who is trained when, whatever the results."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mobilette.search.race import (
    MOST,
    Place,
    Rounds,
    final_ranking,
    next_places,
    plan_rounds,
    reward,
    standing,
)

ROUNDS = st.builds(Rounds, contenders=st.integers(1, MOST), seconds=st.floats(1.0, 100.0))


def run_race(keys: list[str], rounds: Rounds, results: dict[str, float | None]) -> list[Place]:
    """Train one place after the other; return them in order."""
    rewards: dict[Place, float | None] = {}
    order = []
    while (places := next_places(keys, rounds, rewards)) is not None:
        assert places, "a round without places would never end"
        place = places[0]
        assert place not in rewards
        rewards[place] = results[place.key]
        order.append(place)
    ranking = final_ranking(keys, rounds, rewards)
    known = [
        key for key in keys if results[key] is not None and Place(key=key, number=0) in rewards
    ]
    assert sorted(ranking) == sorted(known)
    return order


@given(ROUNDS, st.data())
def test_the_best_is_trained_to_the_last_round_and_each_place_once(
    rounds: Rounds, data: st.DataObject
) -> None:
    keys = [f"network-{number}" for number in range(rounds.contenders + 5)]
    results: dict[str, float | None] = {key: data.draw(st.floats(0, 1)) for key in keys}
    order = run_race(keys, rounds, results)
    assert len(order) == len(set(order))
    started = [place.key for place in order if place.number == 0]
    best = max(started, key=lambda key: results[key] or 0.0)
    last = [place.key for place in order if place.number == rounds.count - 1]
    assert results[best] in [results[key] for key in last]
    assert len(started) == rounds.contenders


@given(ROUNDS, st.data())
def test_the_next_on_the_list_steps_in_for_one_that_failed(
    rounds: Rounds, data: st.DataObject
) -> None:
    keys = [f"network-{number}" for number in range(2 * rounds.contenders)]
    failed = data.draw(st.sets(st.sampled_from(keys), max_size=rounds.contenders))
    results = {key: None if key in failed else 0.5 for key in keys}
    order = run_race(keys, rounds, results)
    good = {place.key for place in order if place.number == 0} - failed
    assert len(good) == rounds.contenders


@given(ROUNDS)
def test_the_time_of_a_race_is_the_sum_of_its_trainings(rounds: Rounds) -> None:
    keys = [f"network-{number}" for number in range(rounds.contenders)]
    trained = dict.fromkeys(keys, 0.0)
    total = 0.0
    for place in run_race(keys, rounds, dict.fromkeys(keys, 0.5)):
        seconds = rounds.trained(place.number)
        total += seconds - trained[place.key]
        trained[place.key] = seconds
    assert abs(total - rounds.total) < 1e-6 * max(total, 1.0)


@given(st.floats(0.0, 1e5), st.integers(1, 10_000), st.floats(1.0, 100.0))
def test_more_time_never_means_fewer_contenders(
    available: float, networks: int, first: float
) -> None:
    rounds = plan_rounds(available, networks=networks, first=first)
    more = plan_rounds(2 * available, networks=networks, first=first)
    assert 1 <= rounds.contenders <= min(networks, MOST)
    assert rounds.contenders <= more.contenders


def test_half_are_left_in_each_round() -> None:
    rounds = Rounds(contenders=8, seconds=10.0)
    keys = [f"network-{number}" for number in range(8)]
    rewards: dict[Place, float | None] = {
        Place(key=key, number=0): number / 10 for number, key in enumerate(keys)
    }
    assert standing(keys, rounds, rewards, 1) == [f"network-{number}" for number in (7, 6, 5, 4)]


def test_an_accuracy_that_is_reached_is_worth_more_at_a_lower_cost() -> None:
    """MnasNet's reward: twice the cost costs 5% of it (2 ** -0.07)."""
    cheap = reward(0.95, cost=1e6, target=1e6, wanted=0.9)
    dear = reward(0.97, cost=2e6, target=1e6, wanted=0.9)
    assert round(dear / cheap, 3) == 0.953
    assert reward(0.97, cost=2e6, target=1e6, wanted=None) == 0.97
