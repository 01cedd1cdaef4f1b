"""Paces: measured in a process of their own, and kept for this machine."""

import time

import pytest

from core import machine, pace
from core.pace import Measurement, Pace, known, measure

HALF = "__import__('core.pace', fromlist=['e']).Pace(0.5, memory=2e9)"
WRONG = "(x for x in ()).throw(__import__('core.errors', fromlist=['e']).InputError('no weights'))"


def test_a_pace_is_measured_once_and_kept(tmp_path, capsys):
    work, known_by = str(tmp_path), {"of": "encoding", "name": "embedded"}
    assert known(work, known_by) is None
    for _ in range(2):
        measure(work, [Measurement("encoding by embedded", known_by, eval, (HALF,))])
    assert known(work, known_by) == Pace(0.5, 0.0, 2e9, 0.0)
    assert known(work, {**known_by, "name": "other"}) is None
    assert capsys.readouterr().out.splitlines() == [
        "measuring encoding by embedded: some seconds, at first use",
        "  2.0 a second, 2.0 GB of memory",
    ]


def test_it_is_known_on_a_machine_like_this_one(tmp_path, monkeypatch):
    work, known_by = str(tmp_path), {"of": "encoding"}
    measure(work, [Measurement("encoding", known_by, eval, (HALF,))])
    for change in (
        lambda: monkeypatch.setattr(machine, "cores", lambda: 640),
        lambda: monkeypatch.setattr(machine, "gpus", lambda: 8),
    ):
        change()
        assert known(work, known_by) is None
        monkeypatch.undo()
        assert known(work, known_by) is not None
    processor = tmp_path / "cpuinfo"
    processor.write_text("processor\t: 0\nmodel name\t: Another One\n")
    monkeypatch.setattr(pace, "PROCESSORS", processor)
    assert pace.machine_name().startswith("Another One on ") and known(work, known_by) is None


def test_what_cannot_be_measured_is_told_and_guessed(tmp_path, capsys):
    measure(str(tmp_path), [Measurement("scoring by x", {"of": "scoring"}, eval, (WRONG,))])
    assert known(str(tmp_path), {"of": "scoring"}) is None
    assert "not measured, so it is guessed: no weights" in capsys.readouterr().out


def test_time_is_of_one_thing_and_the_first_time_does_not_count(monkeypatch):
    monkeypatch.setattr(pace, "SECONDS", 0.15)
    asked = []

    def once(count):
        asked.append(count)
        time.sleep(0.3 if len(asked) == 1 else 0.02 * count)

    assert pace.timed(once, 4) == pytest.approx(0.02, rel=0.5)
    assert asked[:4] == [1, 1, 2, 4] and max(asked) == 4
