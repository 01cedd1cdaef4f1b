import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import files
from core.errors import InputError
from core.files import file_digest, finished_file, finished_folder, locked, require_room

ROOT = Path(__file__).parents[2]
HOLDING = """
import sys
from pathlib import Path
from core.files import locked
with locked(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """A function that starts a process which holds a lock until it is killed."""
    processes = []

    def hold(path, kind):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDING, str(path), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def test_a_lock_says_who_holds_it(tmp_path, holder):
    other = holder(tmp_path / "lock", "alone")
    with pytest.raises(InputError, match=rf"^busy \(process {other.pid}\)$"):
        with locked(tmp_path / "lock", "busy"):
            raise AssertionError("the lock was given twice")
    other.kill()
    other.wait()
    with locked(tmp_path / "lock", "busy"):
        assert (tmp_path / "lock").read_text() == str(os.getpid()), "a killed process holds nothing"


def test_a_shared_lock_is_held_by_many_but_beside_no_other(tmp_path, holder):
    holder(tmp_path / "lock", "shared")
    holder(tmp_path / "lock", "shared")
    with locked(tmp_path / "lock", "busy", shared=True):
        pass
    with pytest.raises(InputError, match="busy"), locked(tmp_path / "lock", "busy"):
        raise AssertionError("the lock was given beside shared ones")


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


def test_a_stopped_file_leaves_no_trace(tmp_path):
    path = tmp_path / "in" / "file"
    with pytest.raises(RuntimeError), finished_file(path) as file:
        file.write("half")
        raise RuntimeError
    assert list((tmp_path / "in").iterdir()) == []
    with finished_file(path, "wb") as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole" and list((tmp_path / "in").iterdir()) == [path]


def test_a_stopped_folder_stays_partial(tmp_path):
    with pytest.raises(RuntimeError), finished_folder(tmp_path / "out") as part:
        raise RuntimeError
    assert part.name == "out.part" and not (tmp_path / "out").exists()
