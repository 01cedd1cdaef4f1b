"""What was asked once and is never asked again: answers on disk by key.

A database of SQLite: an answer is there as soon as it is put, whole, also where the process is
killed; several processes may read and write. Keys are made by ``key`` of all that decides an
answer.
"""

import hashlib
import json
import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.errors import InputError

AT_ONCE = 500  # keys of a look-up
PATIENCE = 60.0  # seconds to wait for another process's writing


def key(value: Any) -> str:
    """32 hexadecimal digits of anything that JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Answers:
    """The answers of a file; each is any value that JSON can hold.

    Raises InputError for a file that is no such database.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.file = sqlite3.connect(
                self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            weakref.finalize(self, self.file.close)
            self.file.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value)")
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{self.path}: cannot be read as a database of answers ({error}); "
                "move it away, and what it held is asked again"
            ) from None

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """Of the answers that are asked for, those that are there."""
        found = {}
        for part in parts(keys):
            marks = ",".join("?" * len(part))
            rows = self.file.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", part)
            for name, value in rows:
                found[name] = json.loads(value)
        return found

    def put(self, answers: dict[str, Any]) -> None:
        """Keeps answers; when this returns they are on the disk."""
        rows = [(name, json.dumps(value, ensure_ascii=False)) for name, value in answers.items()]
        self.file.execute("BEGIN IMMEDIATE")
        self.file.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
        self.file.execute("COMMIT")

    def __len__(self) -> int:
        (count,) = self.file.execute("SELECT COUNT(*) FROM answers").fetchone()
        return count


def parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """AT_ONCE at a time."""
    for start in range(0, len(keys), AT_ONCE):
        yield keys[start : start + AT_ONCE]
