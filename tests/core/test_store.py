import subprocess
import sys
from pathlib import Path

import pytest

from core.building import run_steps

ROOT = Path(__file__).parents[2]


def store(*arguments, ok=True):
    done = subprocess.run(
        [sys.executable, "-m", "core.store", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout if ok else done.stderr


def test_clean_spares_what_a_stopped_run_has_made(tmp_path, two_steps):
    home = tmp_path / "work" / "atlas"
    plan, _ = two_steps(home)
    plan.add("third", 1, {}, [plan["second"]], lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_steps(plan.values(), home / "name")
    store("--clean", tmp_path / "work")
    assert plan["first"].done and plan["second"].done


def test_du_and_clean(tmp_path, two_steps):
    home = tmp_path / "work" / "atlas"
    run_steps(two_steps(home, k=1)[0].values(), home / "name")
    run_steps(two_steps(home, k=2)[0].values(), home / "name")
    listed = store("--du", tmp_path / "work")
    assert listed.count("first-") == 2 and listed.count("(unused)") == 2
    assert listed.splitlines()[-1].split() == ["0.0", "MB", "in", "all"]
    removed = store("--clean", tmp_path / "work").splitlines()
    assert len(removed) == 3 and removed[-1].split() == ["0.0", "MB", "removed"]
    kept, _ = two_steps(home, k=2)
    assert kept["first"].done and kept["second"].done
    left = [path for path in (home / "shared" / "retrieval").iterdir() if path.name != ".locks"]
    assert len(left) == 2


def test_a_work_folder_that_is_not_there(tmp_path):
    assert store("--du", tmp_path / "none", ok=False) == f"error: {tmp_path}/none: no such folder\n"
