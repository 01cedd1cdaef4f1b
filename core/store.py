"""The work folder on disk: what lies there, and what no configuration's last run refers to.

python -m core.store --du [WORK]       sizes, by collection and kind
python -m core.store --clean [WORK]    removes the outputs that nothing refers to
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from core.errors import InputError, exit_with_message
from core.files import lock_of, locked, size_on_disk


def kept_beside(path: Path) -> Path:
    """Where what is kept of an output for later ones lies, as a ranker's scores.

    It goes with the output.
    """
    return path.parents[1] / "scores" / path.name


def outputs(work: Path) -> Iterator[tuple[Path, bool]]:
    """Every output or partial folder, and whether some configuration's last run refers to it."""
    for collection in sorted(path for path in work.glob("*") if (path / "shared").is_dir()):
        in_use: set[str] = set()
        for file in collection.glob("*/recipes.json"):
            notes = json.loads(file.read_text("utf-8"))
            in_use |= {note["path"] for note in notes.values()}
        for path in sorted((collection / "shared").glob("*/*")):
            if path.is_dir() and path.name != ".locks":
                yield path, path.name.removesuffix(".part") in in_use


def remove(path: Path) -> None:
    """Raises InputError for an output that is being made."""
    finished = path.with_name(path.name.removesuffix(".part"))
    with locked(lock_of(finished), f"{path}: is being made"):
        shutil.rmtree(path)


def list_sizes(work: Path) -> None:
    """Prints every output with its size; those that no last run refers to are marked."""
    total = 0
    for path, used in outputs(work):
        size = size_on_disk(path)
        total += size
        mark = "" if used else "  (unused)"
        print(f"{size / 1e6:10.1f} MB  {path.relative_to(work)}{mark}")
    print(f"{total / 1e6:10.1f} MB  in all")


def clean(work: Path) -> None:
    """Removes, and prints, every output that no last run refers to."""
    unused = [path for path, used in outputs(work) if not used]
    total = 0
    for path in unused:
        size = size_on_disk(path)
        total += size
        print(f"{size / 1e6:10.1f} MB  {path.relative_to(work)}  (unused)")
        remove(path)
    print(f"{total / 1e6:10.1f} MB  removed")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m core.store", description="disk use of the work folder"
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--du", action="store_true", help="list sizes; unused ones are marked")
    action.add_argument(
        "--clean",
        action="store_true",
        help="remove outputs that no configuration's last run refers to",
    )
    parser.add_argument("work", nargs="?", default="work", type=Path)
    options = parser.parse_args()
    if not options.work.is_dir():
        raise InputError(f"{options.work}: no such folder")
    if options.clean:
        clean(options.work)
    else:
        list_sizes(options.work)


if __name__ == "__main__":
    exit_with_message(main)
