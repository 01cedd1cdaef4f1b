"""Vectors by the actors of a Ray cluster: a chunk of passages is an item, its first row the id."""

import contextlib
from pathlib import Path

from core import cluster
from core.artefacts import PassageStore
from core.building import shared_work
from core.files import require_room
from core.steps import Plan, Step
from core.task import Task
from retrieval.vectors import CHUNK, chunk_file, missing_chunks


def encode(task: Task, steps: Plan, language: str, dimension: int) -> None:
    """Lets the cluster encode what the dense source's vectors lack, of all languages at once.

    So no machine waits at the end of each. ``language``: of the step that is being built, whose
    lock is held; the others are locked as long as machines work on them. Raises InputError without
    room on the disk.
    """
    items: list[tuple[Step, int]] = []
    files: list[Path] = []
    rows = 0
    with contextlib.ExitStack() as held:
        for other in task.languages:
            if not task.step(PassageStore(other)).done:
                continue
            step = steps[f"vectors/{other}"]
            if step.work is None:  # a prebuilt index's
                continue
            part: Path | None = step.part
            if other != language:
                part = held.enter_context(shared_work(step, task.config.folder))
            if part is None:  # it is made meanwhile
                continue
            count = len(task.passages(other))
            for start in missing_chunks(part, count):
                items.append((step, start))
                files.append(chunk_file(part, start))
                rows += min(CHUNK, count - start)
        own = steps[f"vectors/{language}"]
        require_room(own.part, rows * dimension * 2, f"the dense vectors of {rows} passages")
        cluster.share_steps(task.config, items, "dense vectors")
        cluster.wait_for(lambda: all(file.exists() for file in files), "dense vectors")
