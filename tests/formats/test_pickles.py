"""Pickles that were made to hurt whoever reads them: refused, or read for little, never run."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilette.formats.torch import pickles
from mobilette.formats.torch.pickles import Inert, read_pickle
from mobilette.formats.torch.torch_files import DAMAGED

INT = 2**61 - 1  # every multiple of it has the hash 0


def read(content: bytes) -> Any:
    return read_pickle(
        io.BytesIO(content), rebuild=lambda name, args: None, find=lambda key: key, names={}
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read_as_python_reads_them(protocol: int) -> None:
    value = {
        "numbers": [0, -1, 2**70, 0.5, True, None],
        "text": ("ä", "", "line\nbreak"),
        "table": OrderedDict(a={"b": [{}, ()]}),
    }
    assert read(pickle.dumps(value, protocol=protocol)) == value


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),), {"a": 1}, iter([1]), iter([("key", 2)]))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_called(protocol: int, tmp_path: Path) -> None:
    target = tmp_path / "made"
    made = read(pickle.dumps(Hostile(target), protocol=protocol))
    assert isinstance(made, Inert)
    assert (made.name, made.items, made.state) == (f"{os.name}.mkdir", {"key": 2}, {"a": 1})
    assert not target.exists()


def test_entries_under_what_is_no_text_are_left_out() -> None:
    """A tuple of tuples of one tuple takes 2**60 steps to hash, colliding numbers n**2."""
    shared = b"\x80\x02}" + b")" + b"2\x86" * 60 + b"K\x01s."
    assert read(shared) == {}
    assert read(pickle.dumps({INT * n: n for n in range(9)} | {"a": 1})) == {"a": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02" + b"}" * 100_000,
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # Python's own reader makes room for so many
        b"".join(b"]p%d\n" % (INT * n) for n in range(50_000)) + b".",
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.",
        b"\x80\x05\x8e" + struct.pack("<Q", 2**40) + b"a.",
        b"I" + b"9" * 5000 + b"\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02a.",
        b"\x80\x02.",
        b"\x80\x02h\x07.",
        b"\x80\x02K\x01K\x02\x93.",
        b"",
    ],
)
def test_cheap_or_refused(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 50_000)
    try:
        assert read(content) == []
    except DAMAGED:
        return


def test_one_list_made_into_many_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 50_000)
    pairs = b"](" + b"X\x01\x00\x00\x00aK\x01\x86" * 10_000 + b"eq\x000"
    again = b"ccollections\nOrderedDict\nh\x00\x85R0" * 10
    with pytest.raises(ValueError, match="copies too much"):
        read(b"\x80\x02" + pairs + again + b"N.")


@pytest.mark.parametrize("made", [b"\x85", b"]q\x00h\x00\x86", b"cx\ny\nq\x01h\x01\x86R"])
def test_values_as_deep_as_a_pickle_can_make_them(made: bytes) -> None:
    read(b"\x80\x02)" + made * 60_000 + b".")


PARTS = st.one_of(
    st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes]),
    st.sampled_from(
        [
            *(
                b"(",
                b")",
                b"]",
                b"}",
                b"R",
                b"b",
                b"s",
                b"u",
                b"e",
                b"t",
                b"Q",
                b"\x81",
                b"0",
                b"2",
            ),
            *(b"K\x01", b"X\x01\x00\x00\x00a", b"q\x00", b"h\x00", b"\x94", b"\x93", b"\x85"),
            *(
                b"cos\nsystem\n",
                b"ccollections\nOrderedDict\n",
                b"ctorch\nSize\n",
                b"J\xff\xff\xff\x7f",
            ),
        ]
    ),
    st.binary(max_size=6),
)


@settings(max_examples=400)
@given(parts=st.lists(PARTS, max_size=60))
def test_any_instructions(parts: list[bytes]) -> None:
    with suppress(*DAMAGED):
        read(b"".join(parts) + b".")
