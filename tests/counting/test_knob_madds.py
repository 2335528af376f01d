from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mobilette.arch.knobs import Knobs
from mobilette.counting.cost import cost
from mobilette.counting.knob_madds import KnobMadds
from tests.families import WIDTHS, arch_of


@settings(max_examples=12)
@given(data=st.data())
def test_mult_adds_are_told_without_making_the_network(data: st.DataObject) -> None:
    """For any counts of the knobs, where the network can be made."""
    name, width, _ = data.draw(st.sampled_from(WIDTHS))
    knobs = Knobs(arch_of(name, width, resolution=16))
    counts = [knob.size if knob.bound else data.draw(st.integers(1, knob.size)) for knob in knobs]
    madds = KnobMadds(knobs)
    assert madds.total(counts) == cost(knobs.set(counts)).madds
    full = [knob.size for knob in knobs]
    saved = madds.saved(full, 0, 8)
    assert saved == madds.total(full) - madds.total([8, *full[1:]])
