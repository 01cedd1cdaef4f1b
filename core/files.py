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
    """Sixteen hexadecimal digits of anything that JSON can hold; the order of keys is no matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file's bytes.

    Remembered in the folder ``cache`` by the file's path, size and time of change. Raises
    InputError if there is no such file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    stat = path.stat()
    note = cache / digest([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    if not note.exists():
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        with finished_file(note) as out:
            out.write(content)
    return note.read_text()


@contextlib.contextmanager
def finished_file(path: Path, mode: str = "w") -> Iterator[Any]:
    """A file that appears under its name only when the block ends well.

    Text is UTF-8 with newlines as they are; ``mode="wb"`` takes bytes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    text_options = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with part.open(mode, **text_options) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """A finished file of indented JSON with sorted keys."""
    with finished_file(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=1, sort_keys=True)
        file.write("\n")


@contextlib.contextmanager
def locked(path: Path, busy: str | None = None, shared: bool = False) -> Iterator[None]:
    """Holds a lock that the system drops with the process.

    Waits for it, or raises InputError(busy) if that is given. Any number of processes hold a
    ``shared`` lock together, and none beside them the other kind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a+") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB if busy else kind)
        except BlockingIOError:
            file.seek(0)
            raise InputError(f"{busy} (process {file.read().strip() or 'unknown'})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def finished_folder(target: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends well.

    Partial work of a stopped block is found again. Where another process has finished the folder
    meanwhile, the block is given that, and has nothing to do. All ranks enter together.
    """
    part = target.with_name(target.name + ".part")
    main = distributed.rank() == 0
    with locked(lock_of(target)) if main else contextlib.nullcontext():
        if main and not target.exists():
            part.mkdir(parents=True, exist_ok=True)
        distributed.barrier()
        yield target if target.exists() else part
        distributed.barrier()
        if main and part.exists():
            part.rename(target)
        distributed.barrier()


def lock_of(target: Path) -> Path:
    """The lock of a finished folder and of its partial work."""
    return target.parent / ".locks" / target.name


def require_room(path: Path, needed: float, what: str) -> None:
    """Raises InputError if the disk of ``path`` has less than ``needed`` bytes free."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise InputError(
            f"{path}: {what} need {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
            "make room or set work=… to another disk"
        )


def size_on_disk(path: Path) -> int:
    """Bytes of all files within a folder; links count nothing."""
    total = 0
    for inner in path.rglob("*"):
        if inner.is_file() and not inner.is_symlink():
            total += inner.stat().st_size
    return total
