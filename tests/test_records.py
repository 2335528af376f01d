from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.errors import InputError
from mobilette.records import parse


@dataclass(frozen=True, kw_only=True)
class Part:
    size: int
    kind: Literal["part"] = "part"


@dataclass(frozen=True, kw_only=True)
class Other:
    name: str
    kind: Literal["other"] = "other"


@dataclass(frozen=True, kw_only=True)
class Whole:
    ratio: float
    parts: tuple[Part | Other, ...]
    extra: Part | None = None
    labels: Mapping[str, int] | None = None
    schema: Literal[1] = 1


GOOD = {"ratio": 1, "parts": [{"kind": "part", "size": 3}], "labels": {"a": 1}}


def test_values_become_the_dataclass() -> None:
    whole = parse(Whole, GOOD, where="file")
    assert whole == Whole(ratio=1.0, parts=(Part(size=3),), labels={"a": 1})
    assert isinstance(whole.ratio, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratoi": 1}, "file: unknown key 'ratoi'; did you mean 'ratio'?"),
        ({"ratio": "1"}, "file: ratio is '1', not a number"),
        ({"ratio": True}, "file: ratio is True, not a number"),
        ({"parts": {}}, "file: parts is {}, not a list"),
        ({"parts": [{"kind": "part", "size": 1.5}]}, "file: parts.0.size is 1.5, not a whole"),
        ({"parts": [{"kind": "prat", "size": 1}]}, "did you mean 'part'?"),
        ({"parts": [{"size": 1}]}, "file: parts.0.kind is None, not one of part, other"),
        ({"parts": [{"kind": "part"}]}, "file: key 'parts.0.size' is missing"),
        ({"parts": [7]}, "file: parts.0 is 7"),
        ({"extra": []}, "file: extra is [], not a table"),
        ({"labels": {"a": None}}, "file: labels.a is None, not a whole number"),
        ({"schema": 2}, "file: schema is 2, not one of 1"),
        ({"schema": True}, "file: schema is True, not one of 1"),
    ],
)
def test_each_fault_is_one_line_that_names_it(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(Whole, GOOD | change, where="file")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_and_a_value_that_is_no_table() -> None:
    with pytest.raises(InputError, match="key 'ratio' is missing"):
        parse(Whole, {"parts": []}, where="file")
    with pytest.raises(InputError, match="the content is 3, not a table"):
        parse(Whole, 3, where="file")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(name=st.sampled_from(list_models()), path=st.randoms(), value=_json)
def test_an_arch_edited_by_hand_is_read_or_refused(name: str, path: Any, value: object) -> None:
    """Replace one value anywhere in an Arch's JSON: never another exception than InputError."""
    content = json.loads(json.dumps(get_arch(name).to_json()))
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = path.choice(list(keys))
        if not isinstance(place[key], dict | list) or not place[key] or path.random() < 0.2:
            break
        place = place[key]
    place[key] = value
    with suppress(InputError):
        parsed = parse(Arch, content, where="arch.json")
        assert json.loads(json.dumps(asdict(parsed))) == content
