import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import files
from core.building import Journal, run_steps
from core.errors import InputError
from core.files import file_digest, finished_folder, locked, require_room
from core.steps import Files, Plan, changes, needed

ROOT = Path(__file__).parents[2]


def two_steps(root, version=1, k=1, built=None):
    built = [] if built is None else built

    def build(name):
        def write(folder):
            built.append(name)
            (folder / "out.txt").write_text(name)

        return write

    plan = Plan("retrieval", root, {})
    first = plan.add("first", version, {"k": k}, [], build("first"))
    plan.add("second", 1, {}, [first], build("second"))
    return plan, built


def test_outputs_are_reused_only_for_the_same_recipe(tmp_path):
    built = []
    for version, k, made in (
        (1, 1, ["first", "second"]),
        (1, 1, []),
        (1, 2, ["first", "second"]),
        (2, 2, ["first", "second"]),
        (1, 1, []),
    ):
        built.clear()
        run_steps(two_steps(tmp_path, version, k, built)[0].values(), tmp_path / "name")
        assert built == made, (version, k)


def test_what_a_step_needs_comes_before_it_once(tmp_path):
    plan, _ = two_steps(tmp_path)
    other = Plan("ranking", tmp_path, {})
    third = other.add(
        "third", 1, {}, [plan["second"], plan["first"], Files("a file", "x")], lambda folder: None
    )
    other.add("fourth", 1, {}, [third], lambda folder: None)
    assert [s.name for s in needed([third, plan["second"]])] == ["first", "second", "third"]


def test_why_a_step_is_stale(tmp_path):
    run_steps(two_steps(tmp_path)[0].values(), tmp_path / "name")
    plan, _ = two_steps(tmp_path, 2, 5)
    journal = Journal(tmp_path / "name")
    assert journal.why(plan["first"]) == "version 1 -> 2; k: 1 -> 5"
    assert journal.why(plan["second"]) == "first changed"
    assert (
        changes(None, {}) == "not made yet"
        and changes(plan["first"].recipe, plan["first"].recipe)
        == "stopped before its end, or removed"
    )


def test_a_failed_step_is_built_again_and_a_resumable_one_finds_its_work(tmp_path):
    attempts = []

    def build(folder):
        attempts.append(sorted(p.name for p in folder.iterdir()))
        (folder / f"part-{len(attempts)}").touch()
        if len(attempts) % 2:
            raise RuntimeError("stopped")

    for resumes, found in ((False, [[], []]), (True, [[], ["part-1"]])):
        attempts.clear()
        plan = Plan("retrieval", tmp_path, {})
        step = plan.add(f"step-{resumes}", 1, {}, [], build, resumes=resumes)
        with pytest.raises(RuntimeError):
            run_steps(plan.values(), tmp_path / "name")
        assert not step.done
        run_steps(plan.values(), tmp_path / "name")
        assert step.done and attempts == found


def test_a_missing_input_names_the_stage_to_run(tmp_path):
    plan, _ = two_steps(tmp_path)
    with pytest.raises(
        InputError,
        match="second: its input first is not made; run ./retrieval/run.sh with the same configuration first",
    ):
        run_steps([plan["second"]], tmp_path / "name")


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    plan, _ = two_steps(tmp_path)
    code = f"import sys\nfrom pathlib import Path\nfrom core.files import locked\nwith locked(Path({str(tmp_path / 'name' / 'lock')!r})):\n print('held', flush=True)\n sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(
        InputError,
        match=rf"another run is at work in this folder; wait for it, or give this run its own name \(name=…\) \(process {other.pid}\)",
    ):
        run_steps(plan.values(), tmp_path / "name")
    other.kill()
    other.wait()
    run_steps(plan.values(), tmp_path / "name")
    assert plan["second"].done, "a killed process leaves no lock behind"


def test_a_lock_waits_or_not(tmp_path):
    with locked(tmp_path / "lock", "busy"):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_file_digest_follows_the_content(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    first = file_digest(path, tmp_path / "cache")
    os.utime(path, (1, 1))
    assert file_digest(path, tmp_path / "cache") == first
    path.write_text("two")
    assert file_digest(path, tmp_path / "cache") != first
    with pytest.raises(InputError, match="none: no such file"):
        file_digest(tmp_path / "none", tmp_path / "cache")


def test_no_room_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**9})())
    with pytest.raises(
        InputError,
        match=r"the dense vectors of en need 2.00 GB, 1.00 GB are free; make room or set work=",
    ):
        require_room(tmp_path, 2e9, "the dense vectors of en")
    require_room(tmp_path, 0.9e9, "the dense vectors of en")


def test_a_stopped_folder_stays_partial(tmp_path):
    with pytest.raises(RuntimeError), finished_folder(tmp_path / "out") as part:
        raise RuntimeError
    assert part.name == "out.part" and not (tmp_path / "out").exists()


def test_clean_spares_what_a_stopped_run_has_made(tmp_path):
    home = tmp_path / "work" / "atlas"
    plan, _ = two_steps(home)
    plan.add("third", 1, {}, [plan["second"]], lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_steps(plan.values(), home / "name")
    subprocess.run(
        [sys.executable, "-m", "core.store", "--clean", str(tmp_path / "work")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert plan["first"].done and plan["second"].done


def test_a_part_of_a_stage_leaves_the_others_notes(tmp_path):
    plan, _ = two_steps(tmp_path)
    run_steps(plan.values(), tmp_path / "name")
    run_steps([plan["first"]], tmp_path / "name", some=True)
    assert set(Journal(tmp_path / "name").recipes) == {"first", "second"}, (
        "so that --clean spares them"
    )
    run_steps([plan["first"]], tmp_path / "name")
    assert set(Journal(tmp_path / "name").recipes) == {"first"}


def test_du_and_clean(tmp_path):
    home = tmp_path / "work" / "atlas"
    run_steps(two_steps(home, k=1)[0].values(), home / "name")
    run_steps(two_steps(home, k=2)[0].values(), home / "name")
    command = [sys.executable, "-m", "core.store"]
    listed = subprocess.run(
        [*command, "--du", str(tmp_path / "work")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    ).stdout
    assert listed.count("first-") == 2 and listed.count("(unused)") == 2
    subprocess.run(
        [*command, "--clean", str(tmp_path / "work")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    kept, _ = two_steps(home, k=2)
    assert kept["first"].done and kept["second"].done
    assert len([p for p in (home / "shared" / "retrieval").iterdir() if p.name != ".locks"]) == 2
