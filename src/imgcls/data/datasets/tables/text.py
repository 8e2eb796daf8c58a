"""The text of a table's file: UTF-8, what a byte order mark says, or another encoding, which the header names."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from imgcls.data.findings import Finding
from imgcls.errors import DataError
from imgcls.files import file_size
from imgcls.text import one_line

LARGEST = 1 << 30  # bytes of a table
MARKS = (  # the longer ones first: UTF-32's begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
OTHER_FILES = {
    b"PK\x03\x04": "a spreadsheet or a zip archive",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed (gzip)",
    b"SQLite format": "a database",
}
CANDIDATES = ("cp1252", "cp1250", "cp1251", "gb18030", "shift_jis", "euc_kr", "big5")
WESTERN = frozenset("ÄÖÜäöüßÀÁÂÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕØÙÚÛÝàáâãåæçèéêëìíîïñòóôõøùúûýÿœŒ'‘’“”–—…°€ ²³µ«»§®©™")
WORD = r"[^\s,;|\"]*[^\x00-\x7f][^\s,;|\"]*"  # one with a character that is not ASCII


def read_text(table: Path, encoding: str | None) -> tuple[str, tuple[Finding, ...]]:
    """The text of the file, without a byte order mark, and what was decided on its encoding.

    encoding: as given by the user, any name that Python knows; None finds it. Raises DataError.
    """
    if (size := file_size(table)) > LARGEST:
        raise DataError(f"{table}: {size:,} bytes are more than {LARGEST:,}")
    try:
        data = table.read_bytes()
    except OSError as error:
        raise DataError(f"{table}: cannot be read ({error.strerror or error})") from error
    for start, what in OTHER_FILES.items():
        if data.startswith(start):
            raise DataError(f"{table}: {what}, not a table of text; save it as CSV in UTF-8")
    if encoding is not None:
        return _decoded(data, _checked(encoding), table).removeprefix("\ufeff"), ()
    marked = next((name for mark, name in MARKS if data.startswith(mark)), None) or _unmarked(data)
    if marked is not None:
        return _decoded(data, marked, table).removeprefix("\ufeff"), ()
    try:
        return data.decode("utf-8-sig"), ()
    except UnicodeDecodeError:
        return _western(data, table)


def _checked(encoding: str) -> str:
    """The encoding's name, if Python has a text encoding of that name. Raises ValueError."""
    try:
        b"a".decode(encoding, "ignore")
    except (LookupError, ValueError) as error:
        known = "such as utf-8, cp1252, cp1251, gb18030, shift_jis"
        raise ValueError(f"unknown dataset.encoding '{one_line(encoding)}' ({known})") from error
    return encoding


def _decoded(data: bytes, encoding: str, table: Path) -> str:
    try:
        return data.decode(encoding)
    except (UnicodeError, ValueError) as error:
        word = "UTF-8" if encoding.startswith("utf") else encoding
        raise DataError(f"{table}: not a table in {word} ({one_line(str(error))}); save it as CSV in UTF-8") from error


def _unmarked(data: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of the start is zero."""
    start = data[:2000]
    for encoding, zeros, letters in (("utf-16-le", start[1::2], start[::2]), ("utf-16-be", start[::2], start[1::2])):
        if len(zeros) > 4 and zeros.count(0) > 0.7 * len(zeros) and letters.count(0) == 0:
            return encoding
    return None


def _western(data: bytes, table: Path) -> tuple[str, tuple[Finding, ...]]:
    """Windows-1252, if all that is not ASCII are single Western letters inside words; said. Else a question."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        text = ""
    odd = {letter for letter in text if ord(letter) > 127}
    words = sorted(set(re.findall(WORD, text)))
    runs = re.search(r"[^\x00-\x7f]{3}|[^\x00-\x7f]\s*[^\x00-\x7f]\s*[^\x00-\x7f]", text)
    if text and odd <= WESTERN and not runs and "\0" not in text:
        shown = ", ".join(map(one_line, words[:3]))
        return text, (
            Finding(
                "encoding",
                "warning",
                f"{table.name} is not in UTF-8 and was read as Windows-1252 ({shown})",
                len(words),
                tuple(words[:5]),
                "if that is wrong, name its encoding: dataset.encoding=cp1250, say",
            ),
        )
    readings = [f"dataset.encoding={name} reads {word}" for name in CANDIDATES if (word := _sample(data, name))]
    raise DataError(
        f"{table}: not a table in UTF-8; {'; '.join(readings[:5]) or 'it is no text'}"
        f"{', or save it as UTF-8' if readings else '; save it as CSV in UTF-8'}"
    )


def _sample(data: bytes, encoding: str) -> str:
    """The first words that are not ASCII, in this encoding; empty if it is not in it."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return ""
    if any(letter < " " and letter not in "\r\n\t" for letter in text):
        return ""
    found = list(dict.fromkeys(re.findall(WORD, text)))[:2]
    return one_line(" ".join(f"'{one[:20]}'" for one in found if any(map(str.isalpha, one))))
