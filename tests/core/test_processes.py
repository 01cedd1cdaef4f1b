"""Processes that share work: what they give, and how they end. ``eval`` stands for any work."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import InputError
from core.processes import Team, finished

ROOT = Path(__file__).parents[2]
PID = "__import__('os').getpid()"
SLEEP = "__import__('time').sleep(60)"
RAISE = "(x for x in ()).throw(__import__('core.errors', fromlist=['e']).InputError('line 3: no'))"
KILL = "__import__('os').kill(__import__('os').getpid(), 9)"
ORPHANS = f"""
from core.processes import Team, finished
if __name__ == "__main__":
    team = Team(2)
    for name in "ab":
        team.begin(name, eval, {SLEEP!r})
    print(*[worker.process.pid for worker in team.workers], flush=True)
    list(finished(team))
"""


@pytest.fixture
def team():
    team = Team(2)
    yield team
    team.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_work_is_shared_by_as_many_as_are_asked_for(team):
    pids = list(team.each(eval, {str(number): (PID,) for number in range(6)}))
    assert len(pids) == 6 and len(set(pids)) == 2 and os.getpid() not in pids
    number = "__import__('core.processes', fromlist=['e']).worker_number()"
    assert set(team.each(eval, {name: (number,) for name in "abcd"})) <= {0, 1}
    assert len(team.workers) == 2, "they are kept for what comes later"


def test_one_thing_begins_one_process(team):
    assert list(team.each(eval, {"sum": ("1 + 1",)})) == [2]
    assert len(team.workers) == 1


def test_an_error_ends_the_others(team):
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"^line 3: no$"):
        list(team.each(eval, {"long": (SLEEP,), "wrong": (RAISE,)}))
    assert time.monotonic() - begun < 30
    assert multiprocessing.active_children() == [] == team.workers


def test_several_teams_are_waited_for_together(team):
    other = Team(1)
    team.begin("long", eval, SLEEP)
    other.begin("sum", eval, "1 + 1")
    assert list(finished(team, other)) == [("sum", 2)]
    assert [worker.doing for worker in (*team.busy, *other.busy)] == ["long"]
    other.close()


def test_an_error_of_the_code_tells_its_lines(team):
    team.begin("wrong", eval, "1 / 0")
    with pytest.raises(ZeroDivisionError) as raised:
        list(finished(team))
    assert "in serve" in "".join(raised.value.__notes__)


def test_a_process_that_is_killed_is_named(team):
    team.begin("bm25-index/en", eval, KILL)
    with pytest.raises(
        InputError,
        match=r"bm25-index/en: its process ended without a word \(exit code -9; .*run again",
    ):
        list(finished(team))


def test_they_end_with_the_process_that_began_them(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ORPHANS)
    first = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    pids = list(map(int, first.stdout.readline().split()))
    assert len(pids) == 2 and all(map(is_alive, pids))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    deadline = time.monotonic() + 30
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


TWO_ARGUMENTS = (
    "exec('class Wrong(Exception):\\n"
    "    def __init__(self, a, b):\\n        super().__init__(a)\\n"
    "raise Wrong(1, 2)')"
)


@pytest.mark.parametrize("work, lines", [(TWO_ARGUMENTS, "Wrong: 1"), ("lambda: 1", "pickle")])
def test_what_cannot_be_sent_is_told_in_words(team, work, lines):
    """An error that its arguments do not make again, and a result that cannot be copied."""
    team.begin("wrong", eval, work)
    with pytest.raises(Exception, match=lines):
        list(finished(team))
    team.begin("sum", eval, "1 + 1")
    assert list(finished(team)) == [("sum", 2)], "the process is at work as before"
