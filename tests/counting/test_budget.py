from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.counting.budget import (
    COUNTED_QUANTITIES,
    TIMED_ENGINES,
    UNITS,
    Constraint,
    Counted,
    Device,
    parse_budget,
)
from mobilette.engines.targets import ENGINES
from mobilette.errors import InputError


def limits(text: str) -> dict[str, float]:
    return {each.quantity: each.limit for each in parse_budget(text)}


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
    assert parse_budget("ram<=300")[0] == Constraint(quantity="ram", limit=300, text="ram<=300")


@given(
    quantity=st.sampled_from(COUNTED_QUANTITIES),
    operator=st.sampled_from(["<=", "<"]),
    number=st.decimals(0, 10**9, places=3).filter(lambda number: number > 0),
    unit=st.integers(0, 3),
    amount=st.integers(0, 10**13),
)
def test_a_number_fits_if_it_is_below_the_limit(
    quantity: Counted, operator: str, number: Fraction, unit: int, amount: int
) -> None:
    name, factor = list(UNITS[quantity].items())[unit]
    (constraint,) = parse_budget(f" {quantity} {operator} {number}{name} ")
    limit = Fraction(number) * factor
    for value in (amount, constraint.limit, constraint.limit + 1):
        met = value < limit if operator == "<" else value <= limit
        assert constraint.is_met(value) == met


@given(
    operator=st.sampled_from(["<=", "<"]),
    number=st.decimals(0, 10**6, places=3).filter(lambda number: number > 0),
    unit=st.sampled_from(["us", "ms", "s", "MS"]),
    engine=st.sampled_from(TIMED_ENGINES),
    threads=st.none() | st.integers(1, 512),
    above=st.floats(0.5, 2.0),
)
def test_a_latency_fits_if_it_is_below_the_limit(
    operator: str, number: Fraction, unit: str, engine: str, threads: int | None, above: float
) -> None:
    place = engine if threads is None else f"{engine}:{threads}"
    (constraint,) = parse_budget(f"latency{operator}{number}{unit}@{place}")
    assert constraint.device == Device(engine=engine, threads=threads or 1)
    milliseconds = float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit.lower()]
    assert constraint.limit == pytest.approx(milliseconds)
    assert constraint.is_met(constraint.limit)
    if above != 1.0:
        assert constraint.is_met(above * milliseconds) == (above < 1)
    limit = float(Fraction(number) * UNITS["latency"][unit.lower()])
    assert constraint.is_met(limit) == (operator == "<=")


@given(percent=st.decimals("0.01", 100, places=2), operator=st.sampled_from([">=", ">"]))
def test_an_accuracy_is_a_lower_limit(percent: Fraction, operator: str) -> None:
    (constraint,) = parse_budget(f"top1{operator}{percent}%")
    assert constraint.is_met(1.01)
    assert not constraint.is_met(float(Fraction(percent)) / 100 - 0.001)
    assert constraint.is_met(float(Fraction(percent) / 100)) == (operator == ">=")
    as_fraction = f"{float(percent) / 100:.6f}"
    assert parse_budget(f"top1{operator}{as_fraction}")[0].limit == constraint.limit


def test_where_a_latency_holds() -> None:
    found = parse_budget(
        "latency<=2ms@onnx, latency<=300us@litert:2, latency<=1s@my tables/pi4.json"
    )
    assert [each.device for each in found] == [
        Device(engine="onnx"),
        Device(engine="litert", threads=2),
        Device(table="my tables/pi4.json"),
    ]
    assert [each.limit for each in found] == [2.0, 0.3, 1000.0]
    assert [str(each.device) for each in found] == ["onnx", "litert:2", "my tables/pi4.json"]


def test_the_engines_are_those_that_can_be_timed() -> None:
    assert set(TIMED_ENGINES) == set(ENGINES) - {"mcu"}


@given(
    st.text(max_size=30)
    | st.text(alphabet="madsrizelatency<>=0159.,KMGB -@:top1%onnx.json", max_size=30)
)
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    try:
        constraints = parse_budget(text)
    except InputError as error:
        message = str(error)
    else:
        assert all(constraint.limit >= 0 for constraint in constraints)
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
        ("madds>=60M", "an upper limit, <= or <"),
        ("top1<=90%", "a lower limit, >= or >"),
        ("top1>=90", "top1 is at most 100%, such as 90% or 0.9"),
        ("top1>=101%", "top1 is at most 100%"),
        ("top1>=90%@onnx", "only latency has an @"),
        ("size<=1MB@onnx", "only latency has an @"),
        ("latency<=2ms", "does not say where: latency<=2ms@onnx"),
        ("latency<=2@onnx", "unit '' of latency is not one of us, ms, s"),
        ("latency<=2min@onnx", "unit 'min' of latency is not one of us, ms, s"),
        ("latency<=2ms@onx", "'onx' is no engine that is timed here"),
        ("latency<=2ms@onx", "did you mean 'onnx'?"),
        ("latency<=2ms@mcu", "'mcu' is no engine that is timed here"),
        ("latency<=2ms@onnx:0", "threads 0 is not between 1 and 512"),
        ("latency<=2ms@onnx:two", "'two' is no number of threads"),
        ("latency<=0ms@onnx", "'0ms' is not a positive number such as 2ms or 300us"),
        ("latency<=2ms@onnx,latency<=3ms@onnx:2", "limits latency on onnx twice"),
        ("latency<=2ms@a.json,latency<=3ms@a.json", "limits latency on a.json twice"),
        ("top1>=90%,top1>=0.8", "limits top1 twice"),
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
