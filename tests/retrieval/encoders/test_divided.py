"""What several processes find together is what one finds alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import divided
import little
import pytest

HERE = Path(__file__).parent
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def by_two(folder):
    """What each process has."""
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    environment |= {"PYTHONPATH": f"{HERE.parents[2]}:{HERE}", "PYTHONWARNINGS": "ignore"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, HERE / "divided.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line[:2] in ("0 ", "1 ")]
    return [json.loads(line[2:]) for line in sorted(lines)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("divided")
    little.corpus(folder / "texts")
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in divided.SMALL:
            patch.setattr(module, name, value)
        alone = divided.found(folder)
    return alone, by_two(folder)


def test_clusters_are_the_same_on_all(both):
    alone, (first, second) = both
    assert first["assigned"] == second["assigned"] == alone["assigned"]
    assert len(alone["assigned"]) == 24


def test_hits_are_those_of_one_process(both):
    alone, by_both = both
    for each in by_both:
        assert each["rankings"].keys() == alone["rankings"].keys()
        for qid, hits in each["rankings"].items():
            assert len(hits) in (20, 21)  # and the relevant passage
            assert hits == pytest.approx(alone["rankings"][qid], abs=2e-4)
            assert f"d{3 * int(qid)}" in hits
