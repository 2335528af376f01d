"""docs/deviations.md is what its command makes, and its table of printed numbers is consistent."""

from __future__ import annotations

from docs.make_deviations import PAGE, REASONS, agrees, page, read


def test_the_page_is_what_the_command_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read())


def test_exactly_the_lines_that_differ_have_a_reason() -> None:
    lines = read()
    for line in lines:
        assert bool(line.published["reason"]) != line.agrees, line
    assert {line.published["reason"] for line in lines} - {""} == set(REASONS)


def test_a_printed_number_is_met_rounded_or_cut() -> None:
    assert agrees("3.4M", 3_470_760)
    assert agrees("3.5M", 3_470_760)
    assert not agrees("3.6M", 3_470_760)
    assert not agrees("3.47M", 3_504_872)
    assert agrees("3.8G", 3_857_973_248)
    assert agrees("78666", 78_666)
    assert not agrees("78666", 78_186)
