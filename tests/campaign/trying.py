"""Trying a case: the command's own ``main`` in this process, with an alarm against hanging."""

import contextlib
import importlib
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from core.errors import exit_with_message
from tests.campaign.cases import CORPUS, FILES, Case, nothing
from tests.conftest import write_collection

CLEAR, TRACEBACK, ACCEPTED, HUNG, OTHER = "clear", "traceback", "accepted", "hung", "other words"
PATIENCE = 60  # seconds


class Outcome(NamedTuple):
    """How a case ended, and what was said."""

    kind: str
    text: str


class Hung(BaseException):
    """The alarm: not an Exception, so that nothing on the way catches it."""


def ring(*_: object) -> None:
    """The signal's handler."""
    raise Hung


def build_world(folder: Path) -> None:
    """The small collection, its passages in a work folder, and a good file of each kind."""
    write_collection(folder / "small")
    (folder / "small" / "en" / "corpus" / "docs-0.jsonl.gz").rename(folder / "packed.gz")
    import gzip

    (folder / CORPUS).write_bytes(gzip.decompress((folder / "packed.gz").read_bytes()))
    for name, content, _ in FILES.values():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() and not name.startswith("work/"):
            path.write_bytes(content)
    small = "collection: {path: small}\nname: small\nwork: work\nretrieval: {sources: [bm25]}\n"
    (folder / "small.yaml").write_text(small)
    with within(folder), contextlib.redirect_stdout(io.StringIO()):
        make_passages()


def make_passages() -> None:
    """Those of the world in the current folder, which a check of a submission needs."""
    from core.building import run_steps
    from core.config import load_config
    from core.task import Task
    from retrieval import search

    config = load_config("small.yaml")
    steps = search.plan(Task(config))
    run_steps([step for name, step in steps.items() if name.startswith("passages")], config.folder)


@contextlib.contextmanager
def within(folder: Path) -> Iterator[None]:
    """The current folder is ``folder`` meanwhile."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def outcome(case: Case, world: Path) -> Outcome:
    """Tries a case in a copy of the world, or in the world where the command alone is wrong."""
    if case.change is nothing:
        return tried(case, world)
    with tempfile.TemporaryDirectory() as scratch:
        own = Path(scratch) / "world"
        shutil.copytree(world, own, symlinks=True)
        case.change(own)
        return tried(case, own)


def tried(case: Case, own: Path) -> Outcome:
    """Runs the command of a case in its own world."""
    module, *arguments = case.command
    out, err = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    status: object = 0
    try:
        with (
            within(own),
            mock.patch.object(sys, "argv", [module, *arguments]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            exit_with_message(importlib.import_module(module).main)
    except SystemExit as end:
        status = end.code
    except Hung:
        return Outcome(HUNG, f"after {PATIENCE} s")
    except BaseException:
        return Outcome(TRACEBACK, traceback.format_exc(limit=-3))
    finally:
        signal.alarm(0)
    said = err.getvalue()
    if status == 0:
        return Outcome(ACCEPTED, out.getvalue()[-300:])
    is_clear = status == 2 and "error: " in said and re.search(case.expected, said)
    return Outcome(CLEAR if is_clear else OTHER, said[-600:])
