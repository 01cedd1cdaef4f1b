import os

import numpy as np
import pytest

from core.building import Journal, run_steps
from core.errors import InputError
from core.steps import Step
from core.stored import append_line, stored_json, stored_lines, verify


def a_step(root, version=1, build=None):
    def fill(folder):
        (folder / "inner").mkdir()
        np.save(folder / "inner" / "vectors.npy", np.ones((4, 4), np.float32))
        (folder / "run.trec").write_text("1 Q0 d 1 0.5 t\n")

    return Step("retrieval", "dense/en", version, {}, (), build or fill, root)


@pytest.fixture
def made(tmp_path):
    step = a_step(tmp_path)
    run_steps([step], tmp_path / "one")
    return step


def zeroed(folder):
    np.save(folder / "inner" / "vectors.npy", np.zeros((4, 4), np.float32))


def with_another_score(folder):
    (folder / "run.trec").write_text("1 Q0 d 1 0.6 t\n")


def at_the_old_time(folder):
    file = folder / "run.trec"
    stat = file.stat()
    with_another_score(folder)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def flipped(folder):
    file = folder / "inner" / "vectors.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def without_a_file(folder):
    (folder / "run.trec").unlink()


def cut(folder):
    os.truncate(folder / "run.trec", 3)


def emptied(folder):
    without_a_file(folder)
    for name in ("digests.json", "recipe.json", "inner/vectors.npy"):
        (folder / name).unlink()
    (folder / "inner").rmdir()


def with_broken_digests(folder):
    (folder / "digests.json").write_text('{"run.trec": ')


DAMAGE = {
    zeroed: "inner/vectors.npy is not as it was written",
    with_another_score: "run.trec is not as it was written",
    at_the_old_time: "run.trec is not as it was written",
    flipped: "inner/vectors.npy is not as it was written",
    without_a_file: "run.trec is missing",
    cut: "run.trec is not as it was written",
    emptied: "is empty",
    with_broken_digests: "digests.json, line 1: found text that is not JSON",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_output_is_seen_and_the_command_to_remove_it_said(damage, made, tmp_path):
    damage(made.path)
    with pytest.raises(InputError) as error:
        run_steps([a_step(tmp_path)], tmp_path / "two")
    start, end = str(error.value).split(" (", 1)
    assert start == f"{made.path}: damaged"
    assert end.startswith(DAMAGE[damage])
    assert end.endswith(f"; remove it (rm -r {made.path}) and run again: it is made anew")


def test_a_damaged_input_is_seen_before_what_is_made_of_it(made, tmp_path):
    with_another_score(made.path)
    later = Step("ensemble", "fused", 1, {}, (made,), lambda folder: None, tmp_path)
    with pytest.raises(InputError, match="dense-en-.*: damaged .run.trec is not as"):
        run_steps([later], tmp_path / "one")
    assert not later.done


def test_an_untouched_output_is_not_read_again(made, tmp_path, monkeypatch):
    import core.files

    def fail(*_):
        raise AssertionError("was read again")

    monkeypatch.setattr(core.files.hashlib, "file_digest", fail)
    run_steps([a_step(tmp_path)], tmp_path / "two")


def test_a_copied_output_and_a_damaged_memory_of_digests(made, tmp_path):
    import shutil

    for note in (tmp_path / "digests").iterdir():
        note.write_text("00")  # as a kill in the middle leaves it
    verify(made.path, tmp_path / "digests")
    copy = tmp_path / "copy"
    shutil.copytree(made.path, copy)
    verify(copy, tmp_path / "digests")
    assert not list(tmp_path.rglob("*.part"))


def test_an_output_of_before_digests_stands(made, tmp_path):
    (made.path / "digests.json").unlink()
    run_steps([a_step(tmp_path)], tmp_path / "two")


@pytest.mark.parametrize(
    "content, fault",
    [
        ("{", "recipes.json, line 1: found text that is not JSON"),
        ("[]", "recipes.json holds a list, not an object"),
        ('{"a": {"stage": "ranking"}}', "holds other entries than notes of steps"),
        ('{"a": 5}', "holds other entries than notes of steps"),
    ],
)
def test_damaged_recipes(content, fault, made, tmp_path):
    file = tmp_path / "one" / "recipes.json"
    file.write_text(content)
    with pytest.raises(InputError, match=f"one/recipes.json: damaged .{fault}.*rm .*recipes.json"):
        Journal(tmp_path / "one")


def test_half_a_line_at_the_end_of_a_log_is_none(tmp_path):
    log = tmp_path / "log.jsonl"
    append_line(log, {"step": "a", "seconds": 1})
    with log.open("a") as file:
        file.write('{"step": "b", "sec')
    assert [entry["step"] for entry in stored_lines(log)] == ["a"]
    append_line(log, {"step": "c", "seconds": 1})
    assert [entry["step"] for entry in stored_lines(log)] == ["a", "c"]


@pytest.mark.parametrize("line", ["{", "5", '{"seconds": 1}', "", "\x00"])
def test_a_line_of_a_log_that_is_no_entry(line, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(f'{{"step": "a"}}\n{line}\n{{"step": "b"}}\n')
    with pytest.raises(InputError, match="log.jsonl, line 2: found .*, expected .*remove the line"):
        list(stored_lines(log, ("step",)))


def test_a_note_that_lacks_a_key(tmp_path):
    (tmp_path / "note.json").write_text('{"best": 1}')
    with pytest.raises(InputError, match="note.json: damaged .note.json lacks step, world"):
        stored_json(tmp_path / "note.json", ("best", "step", "world"))
