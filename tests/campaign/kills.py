"""Kills: ``python -m tests.campaign.kills [COUNT] [SEED]``.

The small collection is taken from passages to the submission, with a ranker in training. Each run
is killed (SIGKILL, all its processes) at a random moment and begun again, until it comes to its
end; then its submission must be that of a run without a kill, byte for byte, and the next one
begins with nothing. Ends with 1 at the first other bytes, or error, after saying where to look.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import ROOT, write_collection
from tests.ranking import small

RUN = """
import sys
from core.config import load_config
from core.errors import exit_with_message
from data_aug import build
from ensemble import run as ensemble
from ranking import rank
from retrieval import search

def main():
    config = load_config(sys.argv[1])
    for stage in (search, build, rank, ensemble):
        stage.run(config)

exit_with_message(main)
"""
CONFIG = """
name: killed
work: {work}
collection: {{path: {folder}/small}}
retrieval: {{sources: [bm25], depth: 5}}
candidates: 5
data_aug: {{default: {{negatives: 1}}}}
ranking:
  rankers:
    given: {{model: {folder}/model, query_length: 8}}
    trained: {{backbone: {folder}/model, steps: 6, batch_size: 2, evaluate_every: 2,
               query_length: 8, max_length: 32, average: {{decay: 0.5}}}}
"""


def begin(config: Path) -> subprocess.Popen:
    """The whole pipeline as a group of processes."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(config)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def fail(folder: Path, what: str) -> None:
    """Says what went wrong, and keeps the folder."""
    print(f"{what}\nlook into {folder}", flush=True)
    sys.exit(1)


def to_the_end(config: Path, folder: Path) -> str:
    """Runs without a kill; the digest of the submission."""
    process = begin(config)
    _, said = process.communicate()
    if process.returncode:
        fail(folder, f"ended with {process.returncode}: {said[-1500:]}")
    zipped = folder / "work" / "small" / "killed" / "submission.zip"
    return hashlib.sha256(zipped.read_bytes()).hexdigest()


def killed(config: Path, after: float, folder: Path) -> bool:
    """Whether a run was still at work after some seconds, and was killed then."""
    process = begin(config)
    try:
        _, said = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        fail(folder, f"ended with {process.returncode}: {said[-1500:]}")
    return False


def main() -> None:
    """Counts kills and equal results."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    moments = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    folder = Path(tempfile.mkdtemp())
    write_collection(folder / "small")
    small.write(folder / "model")
    config = folder / "killed.yaml"
    config.write_text(CONFIG.format(work=folder / "work", folder=folder))
    start = time.monotonic()
    expected = to_the_end(config, folder)
    seconds = time.monotonic() - start
    print(f"a run without a kill: {seconds:.0f} s, submission {expected[:16]}", flush=True)
    kills = results = 0
    while kills < count:
        shutil.rmtree(folder / "work")
        of_this = 0
        while kills < count and killed(config, moments.uniform(0, seconds), folder):
            kills += 1
            of_this += 1
        made = to_the_end(config, folder)
        if made != expected:
            fail(folder, f"after {of_this} kills the submission is {made[:16]}")
        results += 1
        print(f"{kills} kills, {results} equal results", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
