from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.counting.budget import QUANTITIES, UNITS, Constraint, Quantity, parse_budget
from mobilette.errors import InputError


def limits(text: str) -> dict[str, int]:
    return {each.quantity: each.at_most for each in parse_budget(text)}


def test_by_hand() -> None:
    assert limits("madds<=60M, size<=1MB, ram<=256KB") == {
        "madds": 60_000_000,
        "size": 1_000_000,
        "ram": 256_000,
    }
    assert limits("ram < 256KiB") == {"ram": 262_143}
    assert limits("params<=1.5k,size<0.5mib") == {"params": 1500, "size": 524_287}
    assert limits("madds<=1G,size<=2GB") == {"madds": 10**9, "size": 2 * 10**9}
    assert limits("params<1.5") == {"params": 1}
    assert parse_budget("ram<=300")[0] == Constraint(quantity="ram", at_most=300, text="ram<=300")


@given(
    quantity=st.sampled_from(QUANTITIES),
    operator=st.sampled_from(["<=", "<"]),
    number=st.decimals(0, 10**9, places=3).filter(lambda number: number > 0),
    unit=st.integers(0, 3),
    amount=st.integers(0, 10**13),
)
def test_a_number_fits_if_it_is_below_the_limit(
    quantity: Quantity, operator: str, number: Fraction, unit: int, amount: int
) -> None:
    name, factor = list(UNITS[quantity].items())[unit]
    (constraint,) = parse_budget(f" {quantity} {operator} {number}{name} ")
    limit = Fraction(number) * factor
    for value in (amount, constraint.at_most, constraint.at_most + 1):
        met = value < limit if operator == "<" else value <= limit
        assert (value <= constraint.at_most) == met


@given(st.text(max_size=30) | st.text(alphabet="madsrize<=0159.,KMGB -", max_size=30))
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    try:
        constraints = parse_budget(text)
    except InputError as error:
        message = str(error)
    else:
        assert all(constraint.at_most >= 0 for constraint in constraints)
        message = "budget"
    assert message.startswith("budget")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "budget '' is not a limit such as"),
        ("madds", "budget 'madds' is not a limit"),
        ("madds>=60M", "budget 'madds>=60M' is not a limit"),
        ("madds<=", "budget 'madds<=' is not a limit"),
        ("madds<60Q", "unit 'Q' of madds is not one of K, M, G"),
        ("size<=5M", "unit 'M' of size is not one of B, KB, MB"),
        ("madds<=1KB", "unit 'KB' of madds is not one of K, M, G"),
        ("madd<=60M", "did you mean 'madds'?"),
        ("madds<=-60M", "'-60M' is not a positive number"),
        ("madds<=0", "'0' is not a positive number"),
        ("madds<=nan", "'nan' is not a positive number"),
        ("madds<=1e6", "'1e6' is not a positive number"),
        ("ram<=1KB,ram<2KB", "limits ram twice"),
        ("ram<=1KB,", "budget '' is not a limit"),
    ],
)
def test_what_is_wrong_is_named(text: str, part: str) -> None:
    with pytest.raises(InputError) as error:
        parse_budget(text)
    assert part in str(error.value)
