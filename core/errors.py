"""What a user is told. ``main()`` prints an InputError as one line, without a traceback."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

FAULTS = {
    errno.EACCES: "may not be read or written by this user; change its permissions",
    errno.EPERM: "may not be read or written by this user; change its permissions",
    errno.EROFS: "lies on a disk that can only be read; name another place (work=…)",
    errno.ENOSPC: "no room is left on the disk; make room or set work=… to another disk, "
    "and run again to go on from here",
    errno.EDQUOT: "this user's share of the disk is full; make room or set work=… to another disk, "
    "and run again to go on from here",
    errno.EISDIR: "is a folder, expected a file",
    errno.ENOTDIR: "leads through a file, expected folders",
    errno.ENOENT: "no such file or folder (where it is a link, what it points to is missing)",
    errno.EEXIST: "is there already, and is of another kind; remove it and run again",
    errno.ELOOP: "is a link that leads back to itself",
    errno.ENAMETOOLONG: "is a longer name than this file system takes; choose a shorter one",
    errno.ENOTEMPTY: "is a folder that holds something already; remove it and run again",
    errno.EIO: "the disk did not answer as it should; look into its health, then run again",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENOMEM: "memory ran out",
}
"""What is said of the system's faults, and what to do. Others are told in the system's words."""


class InputError(Exception):
    """Something from outside is wrong.

    The text says where, what was found, what was expected and what to do.
    """


def at_line(path: Path, number: int, found: str, expected: str) -> InputError:
    """The error of a line of a file; lines are counted from 1. The caller raises it."""
    return InputError(f"{path}, line {number}: found {found}, expected {expected}")


def of_system(error: OSError) -> str:
    """What a fault of the system means to the user: the file, what is wrong, what to do."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f"{' -> '.join(names)}: " if names else ""
    words = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return where + FAULTS.get(error.errno or 0, words)


def exit_with_message(main: Callable[[], None]) -> None:
    """Runs an entry point.

    An InputError ends it with status 2 and its text alone, as does a fault of the system (a file
    that may not be read, a full disk); an interrupt with 130, and a reader that left with 141.
    """
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped; run again to go on from here", file=sys.stderr)
        sys.exit(130)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to flush to
        sys.exit(141)
    except OSError as error:
        print(f"error: {of_system(error)}", file=sys.stderr)
        sys.exit(2)
