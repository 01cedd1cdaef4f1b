"""The work folder on disk: what lies there, and what no configuration's last run refers to.

python -m core.store --du [WORK]       sizes, by collection and kind
python -m core.store --clean [WORK]    lists, then removes the outputs that nothing refers to

Only what carries our own marks is an output: a folder NAME-FINGERPRINT of a stage with its recipe
in it, or a partial one (``.part``) that has a lock beside it; and scores that are kept under an
output's name. Whatever else lies there is left as it is, and links are never followed.
"""

import argparse
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from core.building import Journal
from core.errors import InputError, exit_with_message
from core.files import lock_of, locked, size_on_disk
from core.steps import STAGES
from core.stored import RECIPE

OUTPUT = re.compile(r".+-[0-9a-f]{16}(\.part)?")
"""An output's folder: the name of its step and its fingerprint."""

KEPT = "scores"
"""Beside the stages' folders: what is kept of outputs, under their names."""


def kept_beside(path: Path) -> Path:
    """Where what is kept of an output for later ones lies, as a ranker's scores.

    It goes with the output.
    """
    return path.parents[1] / KEPT / path.name


def outputs(work: Path) -> Iterator[tuple[Path, bool]]:
    """Every output or partial folder, and whether some configuration's last run refers to it."""
    for collection in sorted(path for path in work.glob("*") if is_folder(path / "shared")):
        journals = [Journal(file.parent) for file in sorted(collection.glob("*/recipes.json"))]
        in_use: set[str] = set()
        for journal in journals:
            in_use |= {note["path"] for note in journal.recipes.values()}
        for stage in STAGES:
            for path in sorted((collection / "shared" / stage).glob("*")):
                if is_output(path):
                    yield path, path.name.removesuffix(".part") in in_use
        for path in sorted((collection / "shared" / KEPT).glob("*")):
            if is_kept(path):
                yield path, path.name in in_use


def is_folder(path: Path) -> bool:
    """Whether it is a folder itself, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def is_output(path: Path) -> bool:
    """Whether a folder carries the marks of an output, finished or partial."""
    if not is_folder(path) or not OUTPUT.fullmatch(path.name):
        return False
    if path.name.endswith(".part"):
        return lock_of(path.with_name(path.name.removesuffix(".part"))).is_file()
    return (path / RECIPE).is_file()


def is_kept(path: Path) -> bool:
    """Whether a folder has an output's name and holds segments of scores alone."""
    if not is_folder(path) or not OUTPUT.fullmatch(path.name):
        return False
    return all(inner.suffix == ".npy" or is_folder(inner) for inner in path.rglob("*"))


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
    """Prints every output that no last run refers to, then removes them."""
    unused = [path for path, used in outputs(work) if not used]
    total = 0
    for path in unused:
        size = size_on_disk(path)
        total += size
        print(f"{size / 1e6:10.1f} MB  {path.relative_to(work)}  (unused)", flush=True)
    for path in unused:
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
