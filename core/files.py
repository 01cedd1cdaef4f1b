"""Files that are whole or absent, locks that end with their process, and digests."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core import distributed
from core.errors import InputError


def digest(value: Any) -> str:
    """Of anything that JSON can hold."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()[:16]


def file_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file's bytes, remembered in the folder ``cache`` by its path, size and time of change."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    stat = path.stat()
    note = cache / digest([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    if not note.exists():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        with finished_file(note) as out:
            out.write(found)
    return note.read_text()


@contextlib.contextmanager
def finished_file(path: Path, mode: str = "w") -> Iterator[Any]:
    """A file that appears under its name only when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open(
            mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": "\n"})
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    with finished_file(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=1, sort_keys=True)
        file.write("\n")


@contextlib.contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Holds a lock that the system drops with the process; waits for it, or raises InputError(busy) if that is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            file.seek(0)
            raise InputError(f"{busy} (process {file.read().strip() or 'unknown'})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def finished_folder(target: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends well; partial work of a stopped block is found again."""
    part = target.with_name(target.name + ".part")
    with locked(lock_of(target)) if distributed.rank() == 0 else contextlib.nullcontext():
        if distributed.rank() == 0 and not target.exists():
            part.mkdir(parents=True, exist_ok=True)
        distributed.barrier()
        yield target if target.exists() else part
        distributed.barrier()
        if distributed.rank() == 0 and part.exists():
            part.rename(target)
        distributed.barrier()


def lock_of(target: Path) -> Path:
    return target.parent / ".locks" / target.name


def require_room(path: Path, needed: float, what: str) -> None:
    """Raises InputError if the disk of ``path`` has less than ``needed`` bytes free."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise InputError(
            f"{path}: {what} need {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; make room or set work=… to another disk"
        )


def size_on_disk(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and not f.is_symlink())
