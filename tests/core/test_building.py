import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core import machine, store
from core.building import Journal, run_steps, shared_work
from core.errors import InputError
from core.steps import Plan

ROOT = Path(__file__).parents[2]


def test_outputs_are_reused_only_for_the_same_recipe(tmp_path, two_steps):
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


def test_why_a_step_is_stale(tmp_path, two_steps):
    run_steps(two_steps(tmp_path)[0].values(), tmp_path / "name")
    plan, _ = two_steps(tmp_path, 2, 5)
    journal = Journal(tmp_path / "name")
    assert journal.why(plan["first"]) == "version 1 -> 2; k: 1 -> 5"
    assert journal.why(plan["second"]) == "first changed"


def test_a_failed_step_is_built_again_and_a_resumable_one_finds_its_work(tmp_path):
    attempts = []

    def build(folder):
        attempts.append(sorted(path.name for path in folder.iterdir()))
        (folder / f"part-{len(attempts)}").touch()
        if len(attempts) % 2:
            raise RuntimeError("stopped")

    for resumes, seen in ((False, [[], []]), (True, [[], ["part-1"]])):
        attempts.clear()
        plan = Plan("retrieval", tmp_path, {})
        step = plan.add(f"step-{resumes}", 1, {}, [], build, resumes=resumes)
        with pytest.raises(RuntimeError):
            run_steps(plan.values(), tmp_path / "name")
        assert not step.done
        run_steps(plan.values(), tmp_path / "name")
        assert step.done and attempts == seen


def test_a_missing_input_names_the_stage_to_run(tmp_path, two_steps):
    plan, _ = two_steps(tmp_path)
    message = (
        "second: its input first is not made; "
        "run ./retrieval/run.sh with the same configuration first"
    )
    with pytest.raises(InputError, match=message):
        run_steps([plan["second"]], tmp_path / "name")


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, two_steps):
    plan, _ = two_steps(tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\nfrom core.files import locked\n"
        f"with locked(Path({str(tmp_path / 'name' / 'lock')!r})):\n"
        " print('held', flush=True)\n sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert other.stdout.readline() == "held\n"
    message = (
        r"another run is at work in this folder; wait for it, or give this run its own name "
        rf"\(name=…\) \(process {other.pid}\)"
    )
    with pytest.raises(InputError, match=message):
        run_steps(plan.values(), tmp_path / "name")
    other.kill()
    other.communicate()
    run_steps(plan.values(), tmp_path / "name")
    assert plan["second"].done, "a killed process leaves no lock behind"


def test_a_part_of_a_stage_leaves_the_others_notes(tmp_path, two_steps):
    plan, _ = two_steps(tmp_path)
    run_steps(plan.values(), tmp_path / "name")
    run_steps([plan["first"]], tmp_path / "name", some=True)
    kept = set(Journal(tmp_path / "name").recipes)
    assert kept == {"first", "second"}, "so that --clean spares them"
    run_steps([plan["first"]], tmp_path / "name")
    assert set(Journal(tmp_path / "name").recipes) == {"first"}


def test_notes_of_many_at_once_are_all_kept(tmp_path):
    plan = Plan("retrieval", tmp_path, {})
    steps = [plan.add(f"step-{i}", 1, {}, [], lambda folder: None) for i in range(8)]
    journals = [Journal(tmp_path / "name") for _ in steps]  # all read the same nothing
    threads = [
        threading.Thread(target=journal.record, args=([step], True))
        for journal, step in zip(journals, steps, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Journal(tmp_path / "name").recipes) == set(plan)


def test_what_shards_make_is_spared_while_they_work_and_after(tmp_path, two_steps):
    """Two processes of one output at once, here two blocks; nothing has run before them."""
    home = tmp_path / "work" / "atlas"
    step = two_steps(home)[0]["first"]
    with shared_work(step, home / "name") as one, shared_work(step, home / "name") as two:
        assert one == two == step.part and step.part.is_dir()
        (one / "chunk-0").touch()
        with pytest.raises(InputError, match="first-.*: is being made"):
            store.remove(step.part)
    assert list(store.outputs(tmp_path / "work")) == [(step.part, True)], "in use, so it is spared"
    store.clean(tmp_path / "work")
    assert (step.part / "chunk-0").exists()


def test_shards_of_a_finished_output_have_nothing_to_do(tmp_path, two_steps):
    plan, _ = two_steps(tmp_path)
    run_steps(plan.values(), tmp_path / "name")
    with shared_work(plan["first"], tmp_path / "name") as part:
        assert part is None
    assert not plan["first"].part.exists()


def test_a_long_step_says_for_what_machine_its_time_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "described", lambda: "on 3 GPUs and 16 cores")
    plan = Plan("retrieval", tmp_path, {})
    plan.add("long", 1, {}, [], lambda folder: None, seconds=40)
    run_steps(plan.values(), tmp_path / "name")
    said = "[retrieval] long: begins (not made yet), about 40 s on 3 GPUs and 16 cores\n"
    assert capsys.readouterr().out.startswith(said)
