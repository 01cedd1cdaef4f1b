"""Several steps of a stage at once."""

from pathlib import Path

import pytest

from core import jobs, machine
from core.building import Journal
from core.errors import InputError
from core.steps import Plan
from core.task import Task
from retrieval import search
from tests.conftest import TOPICS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def given(tmp_path):
    """A configuration that makes runs of given ones: no model, no Java."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for (language, split), rows in TOPICS.items():
        lines = [f"{qid} Q0 {good} 1 2.0 x\n" for qid, _, good, _ in rows]
        (folder / f"{language}-{split}.trec").write_text("".join(lines))
    return folder


def made(config) -> dict[str, bytes]:
    """All outputs of a configuration, by their places."""
    files = {}
    shared = config.home / "shared"
    for path in sorted(shared.rglob("*")):
        if path.is_file() and ".locks" not in path.parts:
            files[str(path.relative_to(shared))] = path.read_bytes()
    return files


def test_outputs_are_those_of_one_job(config, given, tmp_path, capsys):
    outputs = []
    for count in (1, 3):
        own = config(
            work=str(tmp_path / f"work-{count}"),
            jobs=count,
            retrieval={"sources": ["run"], "run": str(given)},
        )
        search.run(own)
        outputs.append(made(own))
        steps = search.plan(Task(own))
        assert set(Journal(own.folder).last_buildings()) == set(steps)
        assert (own.folder / "retrieval.tsv").exists()
    assert outputs[0] == outputs[1] and len(outputs[0]) > 20
    said = capsys.readouterr().out
    assert "3 jobs" not in said


def test_an_error_ends_the_others_and_a_second_run_goes_on(config, given, capfd):
    wrong = given / "sw-dev.trec"
    right = wrong.read_text()
    wrong.write_text("2 Q0 zz#9 1 2.0 x\n")
    own = config(jobs=2, retrieval={"sources": ["run"], "run": str(given)})
    with pytest.raises(InputError, match="no passage zz#9; the docid is of another collection"):
        search.run(own)
    steps = search.plan(Task(own))
    assert steps["passages/sw"].done and not steps["run/sw-dev"].done
    wrong.write_text(right)
    search.run(own)
    assert all(step.done for step in search.plan(Task(own)).values())


def plan(task):
    """A plan whose steps differ in what they take."""
    steps = Plan("retrieval", task.config.home, {})
    first = steps.add("first", 1, {}, [], build, seconds=1)
    steps.add("wide-1", 1, {}, [], build, seconds=5, whole_machine=True)
    steps.add("wide-2", 1, {}, [], build, seconds=9, whole_machine=True)
    steps.add("beside", 1, {}, [], build, seconds=3)
    steps.add("second", 1, {}, [first], build, seconds=99)
    return steps


def build(folder):
    (folder / "done").touch()


class Noting:
    """A team that begins nothing, but notes what it was to begin."""

    def __init__(self, count):
        self.idle, self.begun = count, []

    def begin(self, name, *others):
        self.begun.append(name)
        self.idle -= 1


def test_which_step_begins_next(config):
    """The longest whose inputs are there; one at a time of those that take the whole machine."""
    steps = plan(Task(config()))
    schedule = jobs.Schedule(plan, config(), [(step, "") for step in steps.values()], 3)
    assert (schedule.wide.count, schedule.beside.count) == (1, 2)
    schedule.wide, schedule.beside = Noting(1), Noting(2)
    schedule.begin_what_can_be()
    assert schedule.wide.begun == ["wide-2"]
    assert schedule.beside.begun == ["beside", "first"]
    schedule.beside.idle = 2
    schedule.begin_what_can_be()
    assert schedule.beside.begun == ["beside", "first"], "second waits for first"
    del schedule.running["first"]
    schedule.begin_what_can_be()
    assert schedule.beside.begun[-1] == "second" and set(schedule.left) == {"wide-1"}


def test_fewer_jobs_where_memory_is_short(config, monkeypatch, capsys):
    steps = Plan("retrieval", config().home, {})
    for number, memory in enumerate((0, 6e9, 2e9)):
        steps.add(f"step-{number}", 1, {}, [], build, memory=memory)
    monkeypatch.setattr(machine, "free_memory", lambda: 19.5e9)
    assert jobs.jobs_that_fit(3, list(steps.values())) == 3
    assert capsys.readouterr().out == ""
    assert jobs.jobs_that_fit(8, list(steps.values())) == 3
    assert capsys.readouterr().out == (
        "  note: 3 jobs in place of 8: 19.5 GB of memory are free, and a step takes up to 6.0 GB\n"
    )
    monkeypatch.setattr(machine, "free_memory", lambda: 1e9)
    assert jobs.jobs_that_fit(8, list(steps.values())) == 1


def test_free_memory_is_what_a_container_has_left(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:  500 kB\n")
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "CONTAINER", tmp_path)
    assert machine.free_memory() == 500 * 1024
    (tmp_path / "memory.current").write_text("100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory() == 500 * 1024
    (tmp_path / "memory.max").write_text("300000\n")
    assert machine.free_memory() == 200000
