"""Split the text of a list into rows of fields."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mobilette.data.formats import HEAD, what_it_is
from mobilette.data.names import has_image_name
from mobilette.errors import InputError
from mobilette.files import read_bytes

LARGEST_LIST = 2**30
_FIRST_ROW = 2**16  # characters searched for the separator
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
)
_JSON = re.compile(rb"\s*[\[{]\s*[\[{\"]")  # an image may be called [1].jpg
_WHITE = " "  # between a path and a label, as in ImageNet's lists
_SEPARATOR_LINE = re.compile('"?sep=(.)"?', re.IGNORECASE)  # as Excel writes and obeys it


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row's fields, and the line where it begins."""

    line: int
    fields: list[str]


def read_table(path: Path, fits: Callable[[list[str]], bool]) -> list[Row]:
    """Return the non-empty rows of the list ``path``.

    The text is UTF-8, or what its byte-order mark says. Columns are separated by the first of
    comma, semicolon, tab (first in a ``.tsv``) and ``|`` whose first row ``fits``; else, in a list
    without a header, by white space between an image's path and its label. Lines before the first
    row may be comments (``#``) or Excel's ``sep=;``.

    Raises:
        InputError: it is not text, a quote is not closed, or a field is too long.
    """
    text = _text(path, read_bytes(path, limit=LARGEST_LIST))
    start, before, delimiter = _skip(text)
    first = text[start : start + _FIRST_ROW]
    choices = "\t,;|" if path.suffix.lower() == ".tsv" else ",;\t|"
    splits = {sign: _first(first, sign) for sign in delimiter or choices}
    chosen = next((sign for sign, fields in splits.items() if fits(fields)), None)
    if chosen is None:
        chosen = max(splits, key=lambda sign: len(splits[sign]))
        fields = _at_white_space(next(io.StringIO(first, newline=""), ""))
        if fits(fields) or (len(splits[chosen]) < 2 and any(map(has_image_name, fields))):
            chosen = _WHITE
    return [row for row in _rows(path, text[start:], chosen, before) if any(row.fields)]


def _text(path: Path, data: bytes) -> str:
    mark, encoding = next((each for each in _MARKS if data.startswith(each[0])), (b"", "UTF-8"))
    kind = what_it_is(data[:HEAD])
    if kind and (_JSON.match(data) or not kind.startswith("JSON")):
        raise InputError(
            f"{path}: not a list but {kind.partition(';')[0]}{_REMEDIES.get(kind, '')}"
        )
    if not mark and data[:HEAD].count(0) >= len(data[:HEAD]) // 3 > 0:
        raise InputError(
            f"{path}: line 1: every other byte is zero, as in UTF-16, but no byte-order mark says "
            "so; save the list as UTF-8"
        )
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: len(mark) + error.start].decode(encoding, "ignore").count("\n") + 1
        raise InputError(
            f"{path}: line {line}: not {encoding}; save the list as UTF-8 (Excel: 'CSV UTF-8')"
        ) from error
    zero = text.find("\0")
    if zero >= 0:
        line = text.count("\n", 0, zero) + 1
        raise InputError(f"{path}: line {line}: contains a zero byte; a list is text")
    return text


_REMEDIES = {
    "a zip archive": ", or a workbook of Excel; save it as 'CSV UTF-8', or unpack it first",
    "compressed with gzip": "; unpack it first",
}


def _skip(text: str) -> tuple[int, int, str]:
    """Return where the first row begins, the lines before it, and the separator they name."""
    start, lines, delimiter = 0, 0, ""
    for line in io.StringIO(text, newline=""):
        content = line.strip()
        said = _SEPARATOR_LINE.fullmatch(line.strip("\r\n"))
        if said:
            delimiter = said[1]
        elif content and not content.startswith("#"):
            break
        start += len(line)
        lines += 1
    return start, lines, delimiter


def _first(text: str, delimiter: str) -> list[str]:
    lines = io.StringIO(text, newline="")
    try:
        row = next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []
    return [field.strip() for field in row]


def _rows(path: Path, text: str, delimiter: str, before: int) -> Iterator[Row]:
    lines = io.StringIO(text, newline="")
    if delimiter == _WHITE:
        for number, content in enumerate(lines, before + 1):
            yield Row(line=number, fields=_at_white_space(content))
        return
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    line = before + 1
    try:
        for row in reader:
            yield Row(line=line, fields=[field.strip() for field in row])
            line = before + reader.line_num + 1
    except csv.Error as error:
        where = f"{path}: line {line}"
        if before + reader.line_num > line or "end of data" in str(error):
            raise InputError(f"{where}: a quote is not closed ({error})") from error
        raise InputError(f"{where}: {error}") from error


def _at_white_space(line: str) -> list[str]:
    """Split at white space: the image's path, which may contain spaces, and the rest."""
    words = line.split()
    for end in range(len(words) - 1, 0, -1):
        if has_image_name(words[end - 1]):
            path = line.strip()
            for _ in words[end:]:
                path = path.rsplit(maxsplit=1)[0]
            return [path, *words[end:]]
    return words
