"""What a user is told. ``main()`` prints an InputError as one line, without a traceback."""

import sys
from collections.abc import Callable
from pathlib import Path


class InputError(Exception):
    """Something from outside is wrong.

    The text says where, what was found, what was expected and what to do.
    """


def at_line(path: Path, number: int, found: str, expected: str) -> InputError:
    """The error of a line of a file; lines are counted from 1. The caller raises it."""
    return InputError(f"{path}, line {number}: found {found}, expected {expected}")


def exit_with_message(main: Callable[[], None]) -> None:
    """Runs an entry point.

    An InputError ends it with status 2 and its text alone, an interrupt with 130.
    """
    try:
        main()
    except KeyboardInterrupt:
        print("stopped; run again to go on from here", file=sys.stderr)
        sys.exit(130)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
