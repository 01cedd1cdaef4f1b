"""What this project wrote and reads again: outputs, notes and logs. Damage is seen, and told so.

A finished output holds ``digests.json``, the SHA-256 of each of its files as they were written.
Whoever is about to read it lets ``verify`` compare them. A digest is remembered by the file's
inode, size and times, so that this reads a file only after somebody has touched it.
"""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.files import file_digest, write_json
from core.text import decoded, existing_file, json_value, kind_of, whole_text

DIGESTS = "digests.json"
RECIPE = "recipe.json"
"""Written last into every output, with what it was made of."""


def damaged(remove: Path, what: str) -> InputError:
    """The error of something stored that is not as it was written. The caller raises it."""
    recursive = "-r " if remove.is_dir() else ""
    command = f"rm {recursive}{shlex.quote(str(remove))}"
    return InputError(
        f"{remove}: damaged ({what}); remove it ({command}) and run again: it is made anew"
    )


def stored_json(path: Path, keys: tuple[str, ...] = (), remove: Path | None = None) -> Any:
    """The object that ``write_json`` wrote, which has ``keys``; InputError for anything else.

    ``remove``: what is to be removed where it is damaged, the file itself without it.
    """
    expected = "an object"
    try:
        value = json_value(path, 1, whole_text(path), expected)
    except InputError as error:
        found = str(error).removeprefix(f"{path}")
        raise damaged(remove or path, f"{path.name}{found}") from None
    if not isinstance(value, dict):
        raise damaged(remove or path, f"{path.name} holds {kind_of(value)}, not an object")
    missing = [key for key in keys if key not in value]
    if missing:
        raise damaged(remove or path, f"{path.name} lacks {', '.join(missing)}")
    return value


# ---- Logs: a JSON object a line, only ever added to


def stored_lines(path: Path, keys: tuple[str, ...] = ()) -> Iterator[dict]:
    """The entries of a log. A last line without its end, left by a stopped process, is none.

    Raises InputError, with the line's number, for a line that is no object with ``keys``.
    """
    with existing_file(path).open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                return
            expected = f"an object with {', '.join(keys) or 'keys'}; remove the line"
            entry = json_value(path, number, decoded(path, number, raw), expected)
            if not isinstance(entry, dict) or any(key not in entry for key in keys):
                found = kind_of(entry) if not isinstance(entry, dict) else f"{sorted(entry)}"
                raise InputError(f"{path}, line {number}: found {found}, expected {expected}")
            yield entry


def append_line(path: Path, entry: dict) -> None:
    """Adds an entry to a log; half a line that a stopped process left at its end goes before."""
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    with path.open("ab+") as file:
        cut_half_line(file)
        file.write(line.encode("utf-8"))


def cut_half_line(file: Any) -> None:
    """Cuts a file, open for reading and appending, behind its last newline."""
    size = file.seek(0, 2)
    window = min(size, 2**20)
    file.seek(size - window)
    end = file.read(window)
    if end and not end.endswith(b"\n"):
        file.truncate(size - window + end.rfind(b"\n") + 1)


# ---- Outputs


def files_of(folder: Path) -> list[Path]:
    """All files within a folder, sorted, but for the note of their digests."""
    inner = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in inner if path != folder / DIGESTS]


def note_digests(folder: Path, cache: Path) -> None:
    """Writes ``digests.json`` of an output that is complete; see ``file_digest`` for ``cache``."""
    digests: dict[str, str] = {}
    for path in files_of(folder):
        digests[path.relative_to(folder).as_posix()] = file_digest(path, cache)
    write_json(folder / DIGESTS, digests)


def verify(folder: Path, cache: Path) -> None:
    """Raises InputError for an output that lacks a file or has one that is not as it was written.

    Outputs of before digests were noted are taken as they are.
    """
    note = folder / DIGESTS
    if not note.exists():
        if not any(folder.iterdir()):
            raise damaged(folder, "is empty")
        return
    for name, digest in stored_json(note, remove=folder).items():
        file = folder / name
        if not file.is_file():
            raise damaged(folder, f"{name} is missing")
        if file_digest(file, cache) != digest:
            raise damaged(folder, f"{name} is not as it was written")
