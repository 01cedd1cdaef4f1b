import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import InputError, exit_with_message

ROOT = Path(__file__).parents[2]


def told(capsys, main) -> str:
    """What an entry point says before it exits with 2."""
    with pytest.raises(SystemExit) as end:
        exit_with_message(main)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_an_input_error_is_one_line(capsys):
    def main():
        raise InputError("file, line 3: wrong")

    assert told(capsys, main) == "error: file, line 3: wrong\n"


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.EACCES, "may not be read or written by this user; change its permissions"),
        (errno.EROFS, "lies on a disk that can only be read"),
        (errno.ENOSPC, "no room is left on the disk; make room or set work=… to another disk"),
        (errno.EISDIR, "is a folder, expected a file"),
        (errno.ENOTDIR, "leads through a file, expected folders"),
        (errno.ENOENT, "no such file or folder"),
        (errno.ESTALE, os.strerror(errno.ESTALE)),
    ],
)
def test_a_fault_of_the_system_is_one_line(number, words, capsys):
    def main():
        raise OSError(number, os.strerror(number), "place/file")

    line = told(capsys, main)
    assert line.startswith(f"error: place/file: {words}") and line.count("\n") == 1


def test_a_fault_with_two_files_or_none(capsys):
    def rename():
        Path("no-such-file").rename("other")

    def without_number():
        raise OSError("timed out\nat last")

    assert told(capsys, rename).startswith("error: no-such-file -> other: no such file or folder")
    assert told(capsys, without_number) == "error: timed out at last\n"


def test_a_reader_that_leaves(tmp_path):
    """As in ``python -m … | head -1``: no traceback, neither then nor at the end."""
    code = (
        "from core.errors import exit_with_message\n"
        "exit_with_message(lambda: [print('line', flush=True) for _ in range(100000)])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()


def test_a_disk_that_is_full_names_the_file(tmp_path):
    from core.files import finished_file

    with pytest.raises(OSError) as fault, finished_file(tmp_path / "scores", "wb") as file:
        file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")
    assert fault.value.filename == str(tmp_path / "scores")
    assert not list(tmp_path.iterdir())
