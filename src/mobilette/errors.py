"""`InputError`, and how messages show values."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr
from unicodedata import category

_LONGEST_NAME = 200
# Unicode's categories: control, format, surrogate, separators of lines and of paragraphs.
_CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # of Persian and Indic letters, and of emoji
_BRIEF = Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 60


class InputError(ValueError):
    """A request, a value or a file that cannot be used.

    The message is one line: the file or value at fault, what would be valid and, where there is
    one, the nearest match. The command line prints it and exits with status 2.
    """


def shown(value: object) -> str:
    """Return ``value`` as a message shows it: escaped, and never longer than about 60 characters.

    A value from outside may be text of megabytes, nested a thousand times, or an integer that is
    too long to be written out.
    """
    try:
        return f"{visible(_BRIEF.repr(value)):.80}"
    except ValueError:
        return f"a {type(value).__name__} too long to show"


def visible(text: str) -> str:
    """Return ``text`` on one line, with control characters escaped.

    Names of files and classes can hold line breaks, sequences that a terminal obeys, marks that
    turn the direction of writing, and bytes that are not UTF-8. Joiners of letters stay.
    """
    if text.isprintable():
        return text
    return "".join(
        repr(each)[1:-1] if category(each) in _CONTROL and each not in _JOINERS else each
        for each in text
    )


def nearest(value: object, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of ``choices`` in any case, or ""."""
    if not isinstance(value, str):
        return ""
    by_case = {choice.casefold(): choice for choice in choices}
    matches = get_close_matches(value[:_LONGEST_NAME].casefold(), by_case, n=1, cutoff=0.6)
    return f"; did you mean {by_case[matches[0]]!r}?" if matches else ""


def one_of(value: str, choices: Iterable[str], what: str) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        InputError: naming ``what`` was asked for, the valid choices and the nearest.
    """
    choices = list(choices)
    if value in choices:
        return value
    listed = ", ".join(choices)
    raise InputError(f"{what} {shown(value)} is not one of {listed}{nearest(value, choices)}")
