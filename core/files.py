"""Files that are whole or absent, locks that end with their process, and digests."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core import distributed
from core.errors import InputError
from core.text import existing_file

SHA256 = re.compile(r"[0-9a-f]{64}")


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of anything that JSON can hold; the order of keys is no matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file's bytes.

    Remembered in the folder ``cache`` by the file's inode, size and times: a file that is renamed
    keeps it, one that is written to does not, whatever it then sets its time to. The device is no
    part of it: machines number a disk that they share each in its own way. Raises InputError if
    there is no such file.
    """
    stat = existing_file(path).stat()
    known_by = [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    note = cache / digest(known_by)
    if note.is_file():
        content = note.read_text("ascii", errors="replace")
        if SHA256.fullmatch(content):  # otherwise a stopped process left a part of it
            return content
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    note.write_text(content, "ascii")
    return content


@contextlib.contextmanager
def finished_file(path: Path, mode: str = "w") -> Iterator[Any]:
    """A file that appears under its name only when the block ends well.

    Text is UTF-8 with newlines as they are; ``mode="wb"`` takes bytes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # two machines of a shared disk may have processes of one number
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    text_options = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with part.open(mode, **text_options) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.filename is None:  # as of a write, which knows no name
            error.filename = str(path)
        raise
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
