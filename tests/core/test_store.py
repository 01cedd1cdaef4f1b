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


def tree(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_clean_touches_no_other_tree(tmp_path):
    """Any */shared/*/* was removed, whatever it was."""
    for name in ("photos/shared/2020/paris", "src/shared/lib/code", "shared/x/y"):
        (tmp_path / "home" / name).mkdir(parents=True)
        (tmp_path / "home" / name / "file").write_text("mine")
    before = tree(tmp_path / "home")
    assert store("--clean", tmp_path / "home").split() == ["0.0", "MB", "removed"]
    assert tree(tmp_path / "home") == before


def test_clean_touches_nothing_without_our_marks(tmp_path, two_steps):
    home = tmp_path / "work" / "atlas"
    run_steps(two_steps(home, k=1)[0].values(), home / "name")
    run_steps(two_steps(home, k=2)[0].values(), home / "name")
    stage = home / "shared" / "retrieval"
    for name in ("notes", "mine-0123456789abcdef", "mine-012.part"):
        (stage / name).mkdir()
        (stage / name / "file").write_text("mine")
    (home / "shared" / "photos" / "paris-0123456789abcdef.part").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere-0123456789abcdef"
    elsewhere.mkdir()
    (stage / "link-0123456789abcdef").symlink_to(elsewhere)
    removed = store("--clean", tmp_path / "work").splitlines()
    assert len(removed) == 3, "the two outputs of k=1, listed, and the sum"
    assert elsewhere.is_dir() and (home / "shared" / "photos").is_dir()
    for name in ("notes", "mine-0123456789abcdef", "mine-012.part"):
        assert (stage / name / "file").read_text() == "mine"


def test_clean_removes_nothing_where_a_note_is_damaged(tmp_path, two_steps):
    home = tmp_path / "work" / "atlas"
    run_steps(two_steps(home)[0].values(), home / "name")
    (home / "name" / "recipes.json").write_text('{"first":')
    before = tree(home)
    told = store("--clean", tmp_path / "work", ok=False)
    assert "recipes.json: damaged" in told and told.count("\n") == 1
    assert tree(home) == before
