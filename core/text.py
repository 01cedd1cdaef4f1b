"""The one reader of text from outside: UTF-8 without a byte order mark, its lines, columns,
numbers, ids and JSON.

Everything that is read line by line goes through it, so that a fault is told in one way, with file
and line, and what one file refuses no other takes.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from core.errors import InputError, at_line

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OTHER_SPACE = re.compile(r"[^\S \t]")
"""White space that parts no columns, such as a no-break space: a reader would see one column."""

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
WHOLE = re.compile(r"[0-9]{1,18}")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")
LONGEST_ID = 512
"""Bytes of an id: the docids of a language are padded to the longest on disk."""

LARGEST_SCORE = 3.0e38
"""Beyond it a score is infinite in float32, as which trec_eval reads it."""


def existing_file(path: Path) -> Path:
    """``path`` itself. Raises InputError for a missing file, a folder, a pipe or a device."""
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file")
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: a link to {path.readlink()}, where there is no such file")
    if path.exists():
        raise InputError(f"{path}: is a pipe or a device, expected a file")
    raise InputError(f"{path}: no such file")


def decoded(path: Path, number: int, raw: bytes) -> str:
    """A line as text. Raises InputError for other bytes than UTF-8 and for a byte order mark."""
    if number == 1 and raw.startswith(BYTE_ORDER_MARK):
        raise at_line(path, 1, "a byte order mark", "UTF-8 text without one; save it again so")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x} at column {error.start + 1}"
        expected = "UTF-8 text (convert the file, for example with iconv)"
        raise at_line(path, number, byte, expected) from None


def decoded_lines(path: Path, raw_lines: Iterable[bytes]) -> Iterator[str]:
    """Lines of bytes as text without their ends. Raises InputError as ``decoded`` does."""
    for number, raw in enumerate(raw_lines, 1):
        line = decoded(path, number, raw)
        if "\0" in line:
            raise at_line(path, number, "a zero byte", "text; the file may be damaged")
        yield line.rstrip("\r\n")


def text_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 text file without their ends.

    Raises InputError as ``existing_file`` and ``decoded`` do, and for a zero byte.
    """
    with existing_file(path).open("rb") as file:
        yield from decoded_lines(path, file)


def whole_text(path: Path) -> str:
    """A small text file's content. Raises InputError as ``text_lines`` does."""
    return decoded(path, 1, existing_file(path).read_bytes())


def columns(path: Path, number: int, line: str) -> list[str]:
    """What spaces and tabs part. Raises InputError for any other white space in the line."""
    if not line.isprintable():  # as a line without tabs and oddities is
        other = OTHER_SPACE.search(line)
        if other:
            code = f"white space U+{ord(other[0]):04X} at column {other.start() + 1}"
            raise at_line(path, number, code, "spaces or tabs between the columns")
    return line.split()


def finite(path: Path, number: int, text: str) -> float:
    """A score; raises InputError for anything but a number that float32 can hold."""
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not abs(value) <= LARGEST_SCORE:
        raise at_line(path, number, f"score {shortened(text)}", "a finite number")
    return value


def whole_number(path: Path, number: int, text: str, what: str, most: int = 10**18) -> int:
    """A number from 0 to ``most`` in the digits 0 to 9; raises InputError for anything else."""
    value = int(text) if WHOLE.fullmatch(text) else -1
    if not 0 <= value <= most:
        limit = "" if most == 10**18 else f", at most {most}"
        raise at_line(path, number, f"{what} {shortened(text)}", f"a whole number >= 0{limit}")
    return value


def check_id(path: Path, number: int, what: str, text: str) -> None:
    """Raises InputError for an id that TREC's columns cannot hold.

    It is empty, or has white space, control characters or more than LONGEST_ID bytes.
    """
    is_plain = text.isprintable() and " " not in text
    if text and not is_plain and (CONTROL.search(text) or text != "".join(text.split())):
        expected = f"a {what} without white space and control characters"
        raise at_line(path, number, f"{what} {shortened(text)}", expected)
    if not text:
        raise at_line(path, number, f"an empty {what}", f"a {what}")
    if len(text) * 4 > LONGEST_ID and len(text.encode("utf-8", "replace")) > LONGEST_ID:
        size = len(text.encode("utf-8", "replace"))
        raise at_line(path, number, f"a {what} of {size} bytes", f"at most {LONGEST_ID}")


def json_value(path: Path, number: int, line: str | bytes, expected: str) -> Any:
    """The value of a line of JSON. Raises InputError for any other line.

    Also for numbers of thousands of digits, for text nested too deeply to be read, and for half of
    a surrogate pair, which is no text and cannot be written.
    """
    text = decoded(path, number, line) if isinstance(line, bytes) else line
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise at_line(path, number, f"text that is not JSON ({error.msg})", expected) from None
    except ValueError:
        raise at_line(path, number, "a number of thousands of digits", expected) from None
    except RecursionError:
        raise at_line(path, number, "JSON nested too deeply to be read", expected) from None
    if SURROGATE.search(text) and not is_text(value):
        raise at_line(path, number, "half of a surrogate pair (\\ud800 to \\udfff)", expected)
    return value


def is_text(value: Any) -> bool:
    """Whether all strings of a JSON value can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def json_file(path: Path, expected: str = "an object") -> dict:
    """The JSON object that a file from outside holds.

    Raises InputError, as ``whole_text`` and ``json_value`` do, and for a value of another kind.
    """
    text = whole_text(path)
    try:
        value = json_value(path, 1, text, expected)
    except InputError as error:
        found = str(error).removeprefix(f"{path}, line 1: ")
        raise InputError(f"{path}: {found}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: found {kind_of(value)}, expected {expected}")
    return value


def kind_of(value: Any) -> str:
    """A JSON value's kind, in JSON's words."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else kinds.get(type(value), "a number")


def shortened(text: str) -> str:
    """A text in quotes, cut where it is long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
